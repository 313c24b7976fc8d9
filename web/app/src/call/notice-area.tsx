import type { Notice } from '@zynk/core';
import { useEffect, useState } from 'react';
import { FailureText } from '../ui/failure-text';
import { CloseIcon } from '../ui/icons';

const NEWS_MS = 5_000;
const FAILURE_MS = 15_000;

/** One message at a time; a newer one replaces it. News is also read out by screen readers. */
export function NoticeArea({ notice }: { notice: Notice | null }) {
  const [dismissed, setDismissed] = useState(0);
  const shown = notice && notice.id !== dismissed ? notice : null;

  useEffect(() => {
    if (!notice) return;
    const timer = setTimeout(() => setDismissed(notice.id), notice.failure ? FAILURE_MS : NEWS_MS);
    return () => clearTimeout(timer);
  }, [notice]);

  return (
    <>
      <p role="status" aria-live="polite" data-testid="announcement" className="sr-only">
        {notice && !notice.failure ? notice.text : ''}
      </p>
      <div className="pointer-events-none absolute inset-x-0 bottom-3 z-20 flex justify-center px-2">
        {shown?.failure && (
          <div className="pointer-events-auto flex max-w-md items-start gap-1 rounded-xl bg-surface shadow-panel">
            <FailureText failure={shown.failure} />
            <button
              type="button"
              aria-label="Dismiss"
              className="grid size-11 shrink-0 place-items-center rounded-xl text-muted hover:bg-raised"
              onClick={() => setDismissed(shown.id)}
            >
              <CloseIcon size={18} />
            </button>
          </div>
        )}
        {shown && !shown.failure && (
          <p
            key={shown.id}
            aria-hidden="true"
            className="rise max-w-md rounded-full border border-line bg-surface px-4 py-2 text-sm break-all shadow-panel select-text"
          >
            {shown.text}
          </p>
        )}
      </div>
    </>
  );
}
