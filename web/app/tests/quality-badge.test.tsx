import type { Quality } from '@zynk/core';
import { act } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { QualityBadge } from '../src/call/quality-badge';

let root: ReturnType<typeof createRoot>;

beforeEach(() => {
  vi.stubGlobal('IS_REACT_ACT_ENVIRONMENT', true);
  root = createRoot(document.body.appendChild(document.createElement('div')));
});

afterEach(() => {
  act(() => root.unmount());
  document.body.replaceChildren();
});

/** The badge's words and how many of its three bars are full. */
function show(quality: Quality): [string | null, number] | null {
  act(() => root.render(<QualityBadge quality={quality} />));
  const badge = document.querySelector('[role="img"]');
  if (!badge) return null;
  expect(badge.getAttribute('title')).toBe(badge.getAttribute('aria-label'));
  const bars = [...badge.querySelectorAll('rect')];
  expect(bars).toHaveLength(3);
  return [badge.getAttribute('aria-label'), bars.filter((bar) => bar.getAttribute('opacity') === '1').length];
}

describe('connection quality', () => {
  it('is shown as bars, and in words', () => {
    expect(show('excellent')).toEqual(['Connection: excellent', 3]);
    expect(show('good')).toEqual(['Connection: good', 2]);
    expect(show('poor')).toEqual(['Connection: poor', 1]);
    expect(show('lost')).toEqual(['Connection: lost', 0]);
  });

  it('is not shown before the server knows', () => {
    expect(show('unknown')).toBeNull();
  });
});
