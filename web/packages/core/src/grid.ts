export interface GridArea {
  width: number;
  height: number;
}

export interface GridLayout {
  columns: number;
  rows: number;
  tileWidth: number;
  tileHeight: number;
  /** The tiles do not fit at a readable size: the grid has to scroll. */
  scrolls: boolean;
}

export interface GridOptions {
  gap: number;
  tileWidthMin: number;
}

export const GRID_DEFAULTS: GridOptions = { gap: 8, tileWidthMin: 132 };

/** The widest shape a tile may take, as width / height: that of most cameras. */
export const ASPECT_MAX = 16 / 9;

/** The narrowest shape: the more a tile differs from the camera's, the more it cuts off. */
export function aspectMin(count: number, area: GridArea): number {
  if (area.width > area.height) return 4 / 3;
  // Somebody alone on a phone mostly sees a camera that is upright as well.
  return count === 1 ? 0.7 : 1;
}

/** Chooses the number of columns that gives the tiles the largest area. */
export function fitGrid(count: number, area: GridArea, options: Partial<GridOptions> = {}): GridLayout {
  const { gap, tileWidthMin } = { ...GRID_DEFAULTS, ...options };
  let best: GridLayout = { columns: 1, rows: 1, tileWidth: 0, tileHeight: 0, scrolls: false };
  if (count <= 0 || area.width <= 0 || area.height <= 0) return best;

  const narrowest = aspectMin(count, area);
  let bestScore = -1;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const cellWidth = (area.width - gap * (columns - 1)) / columns;
    const cellHeight = (area.height - gap * (rows - 1)) / rows;
    if (cellWidth <= 0 || cellHeight <= 0) continue;
    const aspect = Math.min(ASPECT_MAX, Math.max(narrowest, cellWidth / cellHeight));
    const tileWidth = Math.floor(Math.min(cellWidth, cellHeight * aspect));
    const tileHeight = Math.floor(Math.min(cellHeight, cellWidth / aspect));
    // Empty cells in the last row make a layout look unfinished; they cost a little.
    const score = tileWidth * tileHeight * (1 - 0.02 * (columns * rows - count));
    if (score > bestScore) {
      bestScore = score;
      best = { columns, rows, tileWidth, tileHeight, scrolls: false };
    }
  }
  if (best.tileWidth >= Math.min(tileWidthMin, area.width)) return best;

  const columns = Math.max(1, Math.floor((area.width + gap) / (tileWidthMin + gap)));
  const tileWidth = Math.floor((area.width - gap * (columns - 1)) / columns);
  return {
    columns,
    rows: Math.ceil(count / columns),
    tileWidth,
    tileHeight: Math.floor((tileWidth * 3) / 4),
    scrolls: true,
  };
}
