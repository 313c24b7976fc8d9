import type { Quality } from '@zynk/core';
import { QualityIcon } from '../ui/icons';

const BADGES: Record<Exclude<Quality, 'unknown'>, { bars: number; words: string; look: string }> = {
  excellent: { bars: 3, words: 'Connection: excellent', look: '' },
  good: { bars: 2, words: 'Connection: good', look: '' },
  poor: { bars: 1, words: 'Connection: poor', look: 'text-amber-400' },
  lost: { bars: 0, words: 'Connection: lost', look: 'text-red-400' },
};

/** How well somebody is connected; nothing until the server knows. */
export function QualityBadge({ quality }: { quality: Quality }) {
  if (quality === 'unknown') return null;
  const { bars, words, look } = BADGES[quality];
  return (
    <span role="img" aria-label={words} title={words} className={look} data-testid="connection-quality">
      <QualityIcon bars={bars} />
    </span>
  );
}
