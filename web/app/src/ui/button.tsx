import type { ButtonHTMLAttributes, Ref } from 'react';

const LOOKS = {
  primary: 'bg-accent text-on-accent hover:bg-accent-hover',
  quiet: 'bg-raised text-text hover:bg-hover',
  danger: 'bg-danger text-white hover:bg-danger-hover',
  plain: 'text-accent hover:bg-raised',
} as const;

export interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  look?: keyof typeof LOOKS;
  ref?: Ref<HTMLButtonElement>;
}

export function Button({ look = 'primary', className = '', type = 'button', ...rest }: ButtonProps) {
  return (
    <button
      type={type}
      className={`inline-flex min-h-11 items-center justify-center gap-2 rounded-xl px-4 py-2 font-medium transition-colors disabled:cursor-not-allowed disabled:opacity-50 ${LOOKS[look]} ${className}`}
      {...rest}
    />
  );
}

export interface ToggleProps extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, 'onToggle'> {
  /** What the button switches, as a screen reader says it; the state is added by aria-pressed. */
  label: string;
  pressed: boolean;
  /** Off is the state to warn about (microphone), not the neutral one (screen sharing). */
  offLook?: 'alert' | 'neutral';
  shortcut?: string;
}

const TOGGLE_LOOKS = {
  on: 'bg-raised text-text hover:bg-hover',
  active: 'bg-accent text-on-accent hover:bg-accent-hover',
  off: 'bg-danger text-white hover:bg-danger-hover',
} as const;

/** A round button for something that is on or off. */
export function Toggle({ label, pressed, offLook = 'alert', shortcut, className = '', ...rest }: ToggleProps) {
  const look = offLook === 'alert' ? (pressed ? 'on' : 'off') : pressed ? 'active' : 'on';
  return (
    <button
      type="button"
      aria-label={label}
      aria-pressed={pressed}
      aria-keyshortcuts={shortcut}
      title={shortcut ? `${label} (${shortcut})` : label}
      className={`grid size-12 shrink-0 place-items-center rounded-full transition-colors disabled:cursor-not-allowed disabled:opacity-50 ${TOGGLE_LOOKS[look]} ${className}`}
      {...rest}
    />
  );
}
