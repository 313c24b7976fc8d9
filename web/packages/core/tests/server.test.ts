import { describe, expect, it, vi } from 'vitest';
import { type Failure, FailureError, ServerApi } from '../src';

const answer = (status: number, body: string, type = 'application/json') =>
  vi.fn(async () => new Response(body, { status, headers: { 'content-type': type } }));

async function failureOf(promise: Promise<unknown>): Promise<Failure> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FailureError);
  return (error as FailureError).failure;
}

describe('info', () => {
  it('reads the answer', async () => {
    const fetch = answer(200, '{"name":"zynk","version":"0.1.0","guest_access":false}');
    const info = await new ServerApi('https://example.org', fetch).info();
    expect(info).toEqual({ name: 'zynk', version: '0.1.0', guestAccess: false });
    expect(fetch).toHaveBeenCalledWith('https://example.org/api/v1/info', expect.anything());
  });

  it('does not take a web page for an answer', async () => {
    const page = answer(200, '<!doctype html>', 'text/html');
    expect((await failureOf(new ServerApi('', page).info())).code).toBe('unexpected_answer');
  });

  it('says when nobody answers', async () => {
    const dead = vi.fn(async () => Promise.reject(new TypeError('Failed to fetch')));
    expect((await failureOf(new ServerApi('', dead).info())).code).toBe('server_unreachable');
  });
});

describe('guest tokens', () => {
  it('sends names in the body and never in the address', async () => {
    const fetch = answer(200, '{"token":"t","identity":"guest-1","room":"team"}');
    const guest = await new ServerApi('https://example.org', fetch).guestToken('team', 'Ana');
    expect(guest).toEqual({ token: 't', identity: 'guest-1', room: 'team' });
    const [url, init] = fetch.mock.calls[0] as unknown as [string, RequestInit];
    expect(url).toBe('https://example.org/api/v1/guest-tokens');
    expect(JSON.parse(init.body as string)).toEqual({ room: 'team', name: 'Ana' });
  });

  it.each([
    [400, 'invalid_room', 'invalid_room', 'room'],
    [400, 'invalid_name', 'invalid_name', 'name'],
    [401, undefined, 'unauthorized', 'token'],
    [403, 'guests_disabled', 'guests_disabled', 'server'],
    [403, 'room_full', 'room_full', 'server'],
    [404, undefined, 'not_found', 'room'],
    [429, undefined, 'too_many_requests', 'server'],
    [503, undefined, 'server_error', 'server'],
  ])('explains %i %s', async (status, code, expected, scope) => {
    const body = JSON.stringify({ error: { code, message: 'the server says so' } });
    const failure = await failureOf(new ServerApi('', answer(status, body)).guestToken('r', 'n'));
    expect(failure).toMatchObject({ code: expected, scope, detail: 'the server says so' });
  });

  it('shows plain text but no HTML of a proxy', async () => {
    const plain = await failureOf(new ServerApi('', answer(502, 'bad gateway', 'text/plain')).guestToken('r', 'n'));
    expect(plain.detail).toBe('bad gateway');
    const page = await failureOf(new ServerApi('', answer(502, '<html>', 'text/html')).guestToken('r', 'n'));
    expect(page.detail).toBeUndefined();
  });
});

describe('refusal', () => {
  it('asks with the token in a header', async () => {
    const fetch = answer(403, 'room is full', 'text/plain');
    expect(await new ServerApi('https://example.org', fetch).refusal('secret')).toEqual({
      status: 403,
      message: 'room is full',
    });
    const [url, init] = fetch.mock.calls[0] as unknown as [string, RequestInit];
    expect(url).not.toContain('secret');
    expect(init.headers).toEqual({ authorization: 'Bearer secret' });
  });

  it('is null when the server has nothing against the token', async () => {
    expect(await new ServerApi('', answer(200, 'success', 'text/plain')).refusal('t')).toBeNull();
  });
});

it('derives the address for signaling', () => {
  expect(new ServerApi('http://localhost:7880').signalUrl).toBe('ws://localhost:7880');
  expect(new ServerApi('https://example.org').signalUrl).toBe('wss://example.org');
});
