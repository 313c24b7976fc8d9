import type { Notice } from '@zynk/core';
import { useEffect, useState } from 'react';
import { FailureText } from '../ui/failure-text';

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
      {shown?.failure && (
        <div className="pointer-events-auto w-full max-w-md overflow-hidden rounded-xl bg-surface shadow-panel">
          <FailureText failure={shown.failure} onDismiss={() => setDismissed(shown.id)} />
        </div>
      )}
      {shown && !shown.failure && (
        <p
          key={shown.id}
          aria-hidden="true"
          className="rise pointer-events-auto max-w-md rounded-3xl border border-line bg-surface px-4 py-2 text-sm wrap-anywhere shadow-panel select-text"
        >
          {shown.text}
        </p>
      )}
    </>
  );
}
