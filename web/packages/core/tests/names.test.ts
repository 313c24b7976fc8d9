import { describe, expect, it } from 'vitest';
import { checkName, checkRoom, initials, inviteLink, roomFromPath, stableIndex, suggestRoom } from '../src';

describe('names', () => {
  it('refuses empty and blank names', () => {
    expect(checkName('  ')?.code).toBe('name_empty');
    expect(checkRoom('')?.code).toBe('room_empty');
  });

  it('counts bytes, not letters', () => {
    expect(checkRoom('a'.repeat(256))).toBeNull();
    expect(checkRoom('a'.repeat(257))?.code).toBe('room_too_long');
    expect(checkName('é'.repeat(128))).toBeNull();
    expect(checkName('é'.repeat(129))?.text).toContain('258 bytes');
  });

  it('ignores spaces around a name', () => {
    expect(checkName(` ${'a'.repeat(256)} `)).toBeNull();
  });
});

describe('links', () => {
  it('reads back what it writes', () => {
    for (const room of ['team', 'team call', 'a/b?c#d', 'Größe 😀', '100%']) {
      expect(roomFromPath(new URL(inviteLink('https://example.org', room)).pathname)).toBe(room);
    }
  });

  it('takes other and broken paths for no room', () => {
    for (const path of ['/', '/room/', '/room/a/b', '/other/a', '/room/%E0%A4%A']) {
      expect(roomFromPath(path)).toBe('');
    }
  });

  it('does not write links that a browser would resolve away', () => {
    expect(inviteLink('https://example.org', '..')).toBe('https://example.org/');
  });
});

describe('suggestions', () => {
  it('differ and are valid', () => {
    const rooms = new Set(Array.from({ length: 50 }, suggestRoom));
    expect(rooms.size).toBe(50);
    for (const room of rooms) expect(room).toMatch(/^[a-z]{3}-[a-z]{4}-[a-z]{3}$/);
  });
});

describe('initials', () => {
  it.each([
    ['Ana', 'A'],
    ['ana maria lopez', 'AL'],
    ['guest-7f3a', 'G7'],
    ['  ', '?'],
    ['👩‍🚀 Zoe', '👩‍🚀Z'],
  ])('%s becomes %s', (name, expected) => {
    expect(initials(name)).toBe(expected);
  });

  it('picks a stable number in range', () => {
    expect(stableIndex('ana', 8)).toBe(stableIndex('ana', 8));
    for (const name of ['a', 'b', 'ü', '']) expect(stableIndex(name, 8)).toBeLessThan(8);
  });
});
