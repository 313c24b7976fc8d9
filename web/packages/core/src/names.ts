import { type Failure, failure } from './failure';

/** The server's limit for room names and identities, in bytes of UTF-8. */
export const NAME_BYTES_MAX = 256;

const encoder = new TextEncoder();

function check(value: string, what: 'name' | 'room'): Failure | null {
  const label = what === 'name' ? 'name' : 'room name';
  if (value.trim() === '') {
    return failure(`${what}_empty`, `Enter a ${label}`, `The ${label} cannot be empty.`, what);
  }
  const bytes = encoder.encode(value.trim()).length;
  if (bytes > NAME_BYTES_MAX) {
    return failure(
      `${what}_too_long`,
      `The ${label} is too long`,
      `It takes ${bytes} bytes and at most ${NAME_BYTES_MAX} are allowed. ` +
        'Accented letters and emoji count for two to four bytes each.',
      what,
    );
  }
  return null;
}

export const checkName = (name: string): Failure | null => check(name, 'name');
export const checkRoom = (room: string): Failure | null => check(room, 'room');

/** The room named by a path such as `/room/team%20call`, or an empty string. */
export function roomFromPath(pathname: string): string {
  const match = /^\/room\/([^/]+)\/?$/.exec(pathname);
  if (!match?.[1]) return '';
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return '';
  }
}

export function roomPath(room: string): string {
  // "." and ".." would be resolved away as path segments, even when percent-encoded.
  return room === '.' || room === '..' ? '/' : `/room/${encodeURIComponent(room)}`;
}

/** The link others open to reach the same room. It carries the room's name and nothing else. */
export function inviteLink(origin: string, room: string): string {
  return new URL(roomPath(room), origin).href;
}

const ROOM_LETTERS = 'abcdefghijkmnpqrstuvwxyz';

/** A room name that is easy to read aloud and hard to guess, such as `kfm-tzqw-rab`. */
export function suggestRoom(): string {
  const bytes = crypto.getRandomValues(new Uint32Array(10));
  const letters = Array.from(bytes, (n) => ROOM_LETTERS[n % ROOM_LETTERS.length]).join('');
  return `${letters.slice(0, 3)}-${letters.slice(3, 7)}-${letters.slice(7)}`;
}

/** One or two letters that stand for a person when there is no video. */
export function initials(name: string): string {
  const words = name.trim().split(/[\s._-]+/u).filter(Boolean);
  const first = words[0] ? graphemes(words[0])[0] : undefined;
  const last = words.length > 1 ? graphemes(words[words.length - 1] ?? '')[0] : undefined;
  const text = `${first ?? ''}${last ?? ''}`.toLocaleUpperCase();
  return text === '' ? '?' : text;
}

/** A number from 0 to `count - 1` that is always the same for the same text. */
export function stableIndex(text: string, count: number): number {
  let hash = 0x811c9dc5; // FNV-1a
  for (const byte of encoder.encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash % count;
}

function graphemes(text: string): string[] {
  if (typeof Intl !== 'undefined' && 'Segmenter' in Intl) {
    return Array.from(new Intl.Segmenter().segment(text), (part) => part.segment);
  }
  return Array.from(text);
}
