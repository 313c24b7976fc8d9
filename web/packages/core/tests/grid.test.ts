import { describe, expect, it } from 'vitest';
import { ASPECT_MAX, aspectMin, fitGrid, GRID_DEFAULTS } from '../src';

describe('grid', () => {
  it('gives one person the whole of a wide area', () => {
    expect(fitGrid(1, { width: 1600, height: 900 })).toMatchObject({ columns: 1, tileWidth: 1600, tileHeight: 900 });
  });

  it('stacks two people on a phone and puts them side by side on a desktop', () => {
    expect(fitGrid(2, { width: 344, height: 600 }).columns).toBe(1);
    expect(fitGrid(2, { width: 1264, height: 640 }).columns).toBe(2);
  });

  it('puts three people in two rows rather than cutting their pictures to strips', () => {
    expect(fitGrid(3, { width: 1264, height: 668 })).toMatchObject({ columns: 2, rows: 2 });
  });

  it('never leaves the area, overlaps or bends tiles', () => {
    for (const [width, height] of [[344, 600], [1264, 640], [800, 300], [2500, 1300]] as const) {
      for (let count = 1; count <= 60; count++) {
        const layout = fitGrid(count, { width, height });
        const { columns, rows, tileWidth, tileHeight } = layout;
        expect(columns * rows).toBeGreaterThanOrEqual(count);
        expect(columns * tileWidth + (columns - 1) * GRID_DEFAULTS.gap).toBeLessThanOrEqual(width);
        if (layout.scrolls) continue;
        expect(rows * tileHeight + (rows - 1) * GRID_DEFAULTS.gap).toBeLessThanOrEqual(height);
        expect(tileWidth / tileHeight).toBeGreaterThan(aspectMin(count, { width, height }) - 0.02);
        expect(tileWidth / tileHeight).toBeLessThan(ASPECT_MAX + 0.02);
      }
    }
  });

  it('scrolls rather than shrinking people to stamps', () => {
    const layout = fitGrid(60, { width: 344, height: 500 });
    expect(layout.scrolls).toBe(true);
    expect(layout.tileWidth).toBeGreaterThanOrEqual(GRID_DEFAULTS.tileWidthMin);
  });

  it('survives an area that is not measured yet', () => {
    expect(fitGrid(3, { width: 0, height: 0 }).tileWidth).toBe(0);
    expect(fitGrid(0, { width: 100, height: 100 }).tileWidth).toBe(0);
  });
});
