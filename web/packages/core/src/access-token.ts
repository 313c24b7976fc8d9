import { type Failure, failure } from './failure';

/** The parts of a pasted access token this page shows. Nothing here is verified: the server does that. */
export interface TokenContent {
  room: string;
  identity: string;
  expired: boolean;
}

/** Reads a JWT's claims; null when the text is no JWT. */
export function readAccessToken(token: string, now = Date.now()): TokenContent | null {
  const payload = token.trim().split('.')[1];
  if (!payload || token.trim().split('.').length !== 3) return null;
  try {
    const binary = atob(payload.replace(/-/g, '+').replace(/_/g, '/'));
    const json = new TextDecoder().decode(Uint8Array.from(binary, (c) => c.charCodeAt(0)));
    const claims = JSON.parse(json) as { sub?: unknown; exp?: unknown; video?: { room?: unknown } };
    return {
      room: typeof claims.video?.room === 'string' ? claims.video.room : '',
      identity: typeof claims.sub === 'string' ? claims.sub : '',
      expired: typeof claims.exp === 'number' && claims.exp * 1000 <= now,
    };
  } catch {
    return null;
  }
}

/** Finds what is wrong with a pasted token before the server is asked. */
export function checkAccessToken(token: string, room: string, now = Date.now()): Failure | null {
  if (token.trim() === '') {
    return failure(
      'token_empty',
      'Paste your access token',
      'This server lets people in with an access token only. Ask whoever runs it for one.',
      'token',
    );
  }
  const content = readAccessToken(token, now);
  if (!content) {
    return failure(
      'token_malformed',
      'This is not an access token',
      'An access token is one long line with two dots in it. Copy all of it, without quotes.',
      'token',
    );
  }
  if (content.expired) {
    return failure('token_expired', 'This access token has expired', 'Ask for a new one.', 'token');
  }
  if (content.room !== '' && room.trim() !== '' && content.room !== room.trim()) {
    return failure(
      'token_other_room',
      'The access token is for another room',
      `It opens the room “${content.room}”. Clear the room field or enter that name.`,
      'token',
    );
  }
  return null;
}
