import type { Failure } from '@zynk/core';
import { useEffect, useRef } from 'react';
import { Button } from '../ui/button';
import { Card } from '../ui/card';
import { FailureText } from '../ui/failure-text';

export interface EndedScreenProps {
  reason: Failure;
  joining: boolean;
  joinFailure: Failure | null;
  onRejoin: () => void;
  onHome: () => void;
}

/** Says why the call is over and offers the way back. */
export function EndedScreen({ reason, joining, joinFailure, onRejoin, onHome }: EndedScreenProps) {
  const rejoin = useRef<HTMLButtonElement>(null);
  useEffect(() => rejoin.current?.focus(), []);
  return (
    <Card title={reason.title}>
      <p
        data-testid={reason.code === 'left' ? undefined : 'error-text'}
        data-code={reason.code}
        role="status"
        className="text-muted"
      >
        {/* Tests and screen readers get the whole sentence from here. */}
        <span className="sr-only">{reason.title}. </span>
        {reason.text}
      </p>
      {reason.detail && <p className="mt-2 text-sm break-words text-muted">“{reason.detail}”</p>}
      {joinFailure && (
        <div className="mt-4">
          <FailureText failure={joinFailure} />
        </div>
      )}
      <div className="mt-6 grid gap-2">
        <Button ref={rejoin} data-testid="rejoin-button" disabled={joining} onClick={onRejoin}>
          {joining && <span className="spinner" />}
          {joining ? 'Joining…' : 'Rejoin'}
        </Button>
        <Button look="quiet" disabled={joining} onClick={onHome}>
          Back to the start
        </Button>
      </div>
    </Card>
  );
}
