import type { Failure } from '@zynk/core';
import type { ReactNode } from 'react';
import { CloseIcon, WarningIcon } from './icons';

export interface FailureTextProps {
  failure: Failure;
  children?: ReactNode;
  onDismiss?: () => void;
}

/** Explains a failure where it happened. `children` are ways out, such as a button to try again. */
export function FailureText({ failure, children, onDismiss }: FailureTextProps) {
  return (
    <div
      data-testid="error-text"
      data-code={failure.code}
      role="alert"
      className="rise flex gap-3 rounded-xl border border-danger-text/40 bg-danger-text/10 p-3 text-sm"
    >
      <span className="mt-0.5 shrink-0 text-danger-text">
        <WarningIcon size={20} />
      </span>
      <div className="min-w-0 flex-1">
        <p className="font-semibold">{failure.title}</p>
        <p className="mt-0.5 break-words text-muted">{failure.text}</p>
        {failure.detail && <p className="mt-1 break-words text-muted">“{failure.detail}”</p>}
        {children}
      </div>
      {onDismiss && (
        <button
          type="button"
          aria-label="Dismiss"
          className="-m-2 grid size-11 shrink-0 place-items-center rounded-xl text-muted hover:bg-raised hover:text-text"
          onClick={onDismiss}
        >
          <CloseIcon size={18} />
        </button>
      )}
    </div>
  );
}
