/** Where on the page a failure belongs. */
export type FailureScope = 'name' | 'room' | 'token' | 'devices' | 'server' | 'call';

/** Something that went wrong, told in words a user can act on. */
export interface Failure {
  /** Stable and machine readable. */
  code: string;
  title: string;
  text: string;
  scope: FailureScope;
  /** What the server or the browser said, when it adds something. */
  detail?: string;
}

export function failure(
  code: string,
  title: string,
  text: string,
  scope: FailureScope,
  detail?: string,
): Failure {
  const clean = detail?.trim();
  return clean ? { code, title, text, scope, detail: clean.slice(0, 500) } : { code, title, text, scope };
}

/** An exception that carries its explanation. */
export class FailureError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.title);
    this.name = 'FailureError';
  }
}
