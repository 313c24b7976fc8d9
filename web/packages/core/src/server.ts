import { type Failure, FailureError, failure } from './failure';

/** What `GET /api/v1/info` says about the server. */
export interface ServerInfo {
  name: string;
  version: string;
  /** Whether a name is enough to join; otherwise an access token is needed. */
  guestAccess: boolean;
}

export interface GuestToken {
  token: string;
  identity: string;
  room: string;
}

export const REQUEST_TIMEOUT_MS = 10_000;

type Fetch = typeof fetch;

/** Talks to the product API of the server the page came from. */
export class ServerApi {
  readonly #origin: string;
  readonly #fetch: Fetch;

  constructor(origin: string, fetchFunction: Fetch = (...args) => fetch(...args)) {
    this.#origin = origin;
    this.#fetch = fetchFunction;
  }

  /** The address livekit-client connects to. */
  get signalUrl(): string {
    return this.#origin.replace(/^http/, 'ws');
  }

  async info(): Promise<ServerInfo> {
    const body = await this.#json('/api/v1/info', { headers: { accept: 'application/json' } });
    if (typeof body.guest_access !== 'boolean') throw new FailureError(unexpectedAnswer());
    return {
      name: text(body.name) ?? 'zynk',
      version: text(body.version) ?? '',
      guestAccess: body.guest_access,
    };
  }

  async guestToken(room: string, name: string): Promise<GuestToken> {
    const body = await this.#json('/api/v1/guest-tokens', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ room, name }),
    });
    const token = text(body.token);
    if (!token) throw new FailureError(unexpectedAnswer());
    return { token, identity: text(body.identity) ?? '', room: text(body.room) ?? room };
  }

  /**
   * Asks why signaling refuses this token: status and text of the validation endpoint, or null when
   * the server has nothing against it or cannot be asked. The token travels in a header.
   */
  async refusal(token: string): Promise<{ status: number; message: string } | null> {
    try {
      const response = await this.#fetch(`${this.#origin}/rtc/validate`, {
        headers: { authorization: `Bearer ${token}` },
        cache: 'no-store',
        signal: AbortSignal.timeout(3_000),
      });
      if (response.ok) return null;
      return { status: response.status, message: plainText(response, await response.text()) };
    } catch {
      return null;
    }
  }

  async #json(path: string, init: RequestInit): Promise<Record<string, unknown>> {
    let response: Response;
    try {
      response = await this.#fetch(this.#origin + path, {
        ...init,
        cache: 'no-store',
        credentials: 'same-origin',
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
    } catch (error) {
      throw new FailureError(unreachable(error));
    }
    const raw = await response.text().catch(() => '');
    let body: unknown;
    try {
      body = JSON.parse(raw);
    } catch {
      body = undefined;
    }
    if (!response.ok) {
      const error = isRecord(body) && isRecord(body.error) ? body.error : undefined;
      throw new FailureError(
        refused(response.status, text(error?.message) ?? plainText(response, raw), text(error?.code)),
      );
    }
    if (!isRecord(body)) throw new FailureError(unexpectedAnswer());
    return body;
  }
}

export function unreachable(error?: unknown): Failure {
  const timedOut = error instanceof DOMException && error.name === 'TimeoutError';
  return failure(
    'server_unreachable',
    'The server cannot be reached',
    timedOut
      ? 'It did not answer in time. Check your connection and try again.'
      : 'Check your internet connection, or ask whoever runs the server whether it is up. Then try again.',
    'server',
  );
}

const FULL_ROOM = /(room|server)\s+is\s+full|max(imum)?[ _-]*(number[ _-]*of[ _-]*)?participants/i;

/** Explains an answer with an error status; `message` is the server's own text. */
export function refused(status: number, message = '', code?: string): Failure {
  if (code === 'room_full' || FULL_ROOM.test(message)) {
    return failure(
      'room_full',
      'The room is full',
      'No more people can join right now. Try again when somebody has left.',
      'server',
      message,
    );
  }
  switch (status) {
    case 400: {
      const scope = code === 'invalid_room' ? 'room' : code === 'invalid_name' ? 'name' : 'server';
      const title = 'The server did not accept this';
      return failure(code ?? 'bad_request', title, 'Change what you entered and try again.', scope, message);
    }
    case 401:
      return failure(
        code ?? 'unauthorized',
        'Your access was not accepted',
        'The access token is wrong or has expired. Ask for a new one.',
        'token',
        message,
      );
    case 403:
      return failure(
        code ?? 'forbidden',
        'You may not join this room',
        'Ask whoever runs the call to let you in.',
        'server',
        message,
      );
    case 404:
      return failure(
        code ?? 'not_found',
        'This room does not exist',
        'Check the name for typing errors, or ask for a new invite link.',
        'room',
        message,
      );
    case 429:
      return failure(
        code ?? 'too_many_requests',
        'Too many attempts',
        'The server asks you to slow down. Wait a minute and try again.',
        'server',
        message,
      );
    default:
      return failure(
        code ?? 'server_error',
        status >= 500 ? 'The server has a problem' : 'The server refused',
        `It answered with status ${status}. Try again in a moment; if it stays, tell whoever runs the server.`,
        'server',
        message,
      );
  }
}

function unexpectedAnswer(): Failure {
  return failure(
    'unexpected_answer',
    'The server gave an answer this page does not understand',
    'Reload the page. If that does not help, the server may be of another version.',
    'server',
  );
}

/** The body as a sentence for the user: error pages in HTML are of no use to anybody. */
function plainText(response: Response, body: string): string {
  const html = response.headers.get('content-type')?.includes('html') || body.trimStart().startsWith('<');
  return html ? '' : body.trim();
}

const text = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : undefined;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
