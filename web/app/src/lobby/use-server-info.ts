import { explainJoinError, type Failure, type ServerApi, type ServerInfo } from '@zynk/core';
import { useCallback, useEffect, useState } from 'react';

export type ServerStatus =
  | { kind: 'asking' }
  | { kind: 'known'; info: ServerInfo }
  | { kind: 'failed'; failure: Failure };

/** Asks the server what it is. `retry` asks again. */
export function useServerInfo(api: ServerApi): { status: ServerStatus; retry: () => void } {
  const [status, setStatus] = useState<ServerStatus>({ kind: 'asking' });
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    let current = true;
    api.info().then(
      (info) => current && setStatus({ kind: 'known', info }),
      (error: unknown) => {
        const failure = explainJoinError(error);
        if (current && failure) setStatus({ kind: 'failed', failure });
      },
    );
    return () => {
      current = false;
    };
  }, [api, attempt]);

  const retry = useCallback(() => {
    setStatus({ kind: 'asking' });
    setAttempt((count) => count + 1);
  }, []);
  return { status, retry };
}
