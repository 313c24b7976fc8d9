import { type InputHTMLAttributes, type ReactNode, type SelectHTMLAttributes, useId } from 'react';

const BOX =
  'w-full min-h-11 rounded-xl border border-field bg-bg px-3 py-2 text-text placeholder:text-muted disabled:opacity-60 aria-invalid:border-danger-text';

export interface FieldProps extends InputHTMLAttributes<HTMLInputElement> {
  label: string;
  hint?: ReactNode;
  invalid?: boolean;
  /** Shown at the label's right. */
  aside?: ReactNode;
}

export function Field({ label, hint, invalid, aside, ...rest }: FieldProps) {
  const id = useId();
  return (
    <div>
      <div className="flex items-end justify-between">
        <label htmlFor={id} className="mb-1.5 block text-sm font-medium">
          {label}
        </label>
        {aside}
      </div>
      <input
        id={id}
        className={BOX}
        aria-invalid={invalid || undefined}
        aria-describedby={hint ? `${id}-hint` : undefined}
        {...rest}
      />
      {hint && (
        <p id={`${id}-hint`} className="mt-1.5 text-sm text-muted">
          {hint}
        </p>
      )}
    </div>
  );
}

export interface SelectFieldProps extends SelectHTMLAttributes<HTMLSelectElement> {
  label: string;
  icon: ReactNode;
}

/** A menu with its icon; the label is for screen readers. */
export function SelectField({ label, icon, children, ...rest }: SelectFieldProps) {
  return (
    <label className="relative block">
      <span className="sr-only">{label}</span>
      <span className="pointer-events-none absolute inset-y-0 left-3 grid place-items-center text-muted">{icon}</span>
      <select
        title={label}
        className="min-h-11 w-full appearance-none truncate rounded-xl border border-line bg-raised py-2 pr-9 pl-10 text-sm text-text hover:bg-hover disabled:opacity-60"
        {...rest}
      >
        {children}
      </select>
      <span aria-hidden="true" className="pointer-events-none absolute inset-y-0 right-3 grid place-items-center text-muted">
        <svg width="12" height="12" viewBox="0 0 12 12" fill="none" stroke="currentColor" strokeWidth="1.6">
          <path d="m2.5 4.5 3.5 3.5 3.5-3.5" strokeLinecap="round" strokeLinejoin="round" />
        </svg>
      </span>
    </label>
  );
}
