import { watchLevel } from '@zynk/core';
import { useEffect, useRef } from 'react';

/** Shows how loud the microphone is. It draws by itself, sixty times a second, without React. */
export function LevelMeter({ track }: { track: MediaStreamTrack }) {
  const meter = useRef<HTMLDivElement>(null);
  const bar = useRef<HTMLDivElement>(null);

  useEffect(() => {
    try {
      return watchLevel(track, (level) => {
        bar.current?.style.setProperty('transform', `scaleX(${level.toFixed(3)})`);
        meter.current?.setAttribute('aria-valuenow', String(Math.round(level * 10) * 10));
      });
    } catch (error) {
      // A page may only open so many audio contexts; the meter is not worth an error.
      console.warn('the level meter could not start', error);
      return;
    }
  }, [track]);

  return (
    <div
      ref={meter}
      role="meter"
      aria-label="Microphone level"
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={0}
      data-testid="microphone-level"
      className="h-1.5 w-full overflow-hidden rounded-full bg-raised"
    >
      <div ref={bar} className="h-full origin-left scale-x-0 rounded-full bg-ok" />
    </div>
  );
}
