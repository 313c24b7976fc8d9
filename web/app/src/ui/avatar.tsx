import { initials, stableIndex } from '@zynk/core';

const HUES = ['hue-0', 'hue-1', 'hue-2', 'hue-3', 'hue-4', 'hue-5', 'hue-6', 'hue-7'] as const;

export function hueClass(identity: string): string {
  return HUES[stableIndex(identity, HUES.length)] ?? HUES[0];
}

/** A person's initials in a circle, for when there is no picture of them. */
export function Avatar({ identity, name, className = '' }: { identity: string; name: string; className?: string }) {
  return (
    <span
      aria-hidden="true"
      className={`avatar ${hueClass(identity)} grid shrink-0 place-items-center rounded-full font-semibold select-none ${className}`}
    >
      {initials(name)}
    </span>
  );
}
