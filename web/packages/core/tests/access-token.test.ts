import { describe, expect, it } from 'vitest';
import { checkAccessToken, readAccessToken } from '../src';

const encode = (value: unknown) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(value))))
    .replace(/\+/g, '-')
    .replace(/\//g, '_')
    .replace(/=/g, '');
const jwt = (claims: unknown) => `${encode({ alg: 'HS256' })}.${encode(claims)}.c2ln`;

describe('access tokens', () => {
  it('shows room and identity', () => {
    const token = jwt({ sub: 'ana', exp: 2_000, video: { room: 'Größe 😀' } });
    expect(readAccessToken(token, 1_000_000)).toEqual({ room: 'Größe 😀', identity: 'ana', expired: false });
  });

  it.each([
    ['', '', 'token_empty'],
    ['hello', '', 'token_malformed'],
    ['a.b.c', '', 'token_malformed'],
    [jwt({ exp: 1 }), '', 'token_expired'],
    [jwt({ video: { room: 'one' } }), 'two', 'token_other_room'],
  ])('finds what is wrong with %s', (token, room, code) => {
    expect(checkAccessToken(token, room, 1_000_000)?.code).toBe(code);
  });

  it('accepts a token for the room, or without one', () => {
    expect(checkAccessToken(jwt({ video: { room: 'one' } }), ' one ')).toBeNull();
    expect(checkAccessToken(jwt({ video: { room: 'one' } }), '')).toBeNull();
    expect(checkAccessToken(`  ${jwt({})}  `, 'any')).toBeNull();
  });
});
