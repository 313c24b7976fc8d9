import { ConnectionError, ConnectionState, DisconnectReason, type Room, RoomEvent } from 'livekit-client';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Call, type JoinRequest, ServerApi } from '../src';

type Listener = (...args: unknown[]) => void;

/** The part of the SDK's room that a call uses, moved by hand. */
class FakeRoom {
  state = ConnectionState.Disconnected;
  name = 'team';
  canPlaybackAudio = true;
  remoteParticipants = new Map<string, unknown>();
  localParticipant = { ...participant('me'), isLocal: true, setMicrophoneEnabled: vi.fn(async () => undefined) };
  connect = vi.fn(async () => {
    this.state = ConnectionState.Connected;
  });
  disconnect = vi.fn(async () => {
    this.state = ConnectionState.Disconnected;
    this.emit(RoomEvent.Disconnected, DisconnectReason.CLIENT_INITIATED);
  });
  getActiveDevice = () => undefined;
  readonly #listeners = new Map<string, Set<Listener>>();

  on(event: string, listener: Listener) {
    this.#listeners.set(event, (this.#listeners.get(event) ?? new Set()).add(listener));
    return this;
  }

  once = this.on;

  emit(event: string, ...args: unknown[]) {
    for (const listener of this.#listeners.get(event) ?? []) listener(...args);
  }

  join(identity: string) {
    this.remoteParticipants.set(identity, participant(identity));
    this.emit(RoomEvent.ParticipantConnected);
  }
}

function participant(identity: string) {
  return {
    identity,
    name: identity.toUpperCase(),
    isLocal: false,
    isSpeaking: false,
    connectionQuality: 'good',
    joinedAt: new Date(0),
    audioTrackPublications: new Map(),
    permissions: undefined,
    getTrackPublication: () => undefined,
  };
}

const request: JoinRequest = {
  room: 'team',
  credential: { token: 'secret' },
  microphoneOn: false,
  cameraOn: false,
  microphoneId: '',
  cameraId: '',
  speakerId: '',
};

function setUp(answer = new Response('success')) {
  const room = new FakeRoom();
  const fetch = vi.fn(async () => answer);
  const call = new Call(new ServerApi('http://localhost:7880', fetch), request, () => room as unknown as Room);
  return { room, call, fetch };
}

const names = (call: Call) => call.state.get().participants.map((view) => view.identity);
const settled = () => new Promise((done) => setTimeout(done));

afterEach(() => vi.useRealTimers());

describe('joining', () => {
  it('connects to signaling on the same host and shows who is there', async () => {
    const { room, call } = setUp();
    room.remoteParticipants.set('ana', participant('ana'));
    expect(await call.start()).toBeNull();
    expect(room.connect).toHaveBeenCalledWith('ws://localhost:7880', 'secret');
    expect(call.state.get().phase).toBe('connected');
    expect(names(call)).toEqual(['me', 'ana']);
    expect(call.state.get().notice).toBeNull();
  });

  it('leaves the preview alone when joining fails, and tells the words of the server', async () => {
    const { room, call } = setUp(new Response('room is full', { status: 403 }));
    room.connect.mockRejectedValue(ConnectionError.internal('vague', { status: 403 }));
    const take = vi.fn();
    expect(await call.start(take)).toMatchObject({ code: 'room_full', detail: 'room is full' });
    expect(take).not.toHaveBeenCalled();
  });

  it('can be called off', async () => {
    const { room, call } = setUp();
    room.connect.mockImplementation(
      () => new Promise((_, fail) => room.on(RoomEvent.Disconnected, () => fail(ConnectionError.cancelled('')))),
    );
    const joined = call.start();
    await settled();
    await call.leave();
    expect(await joined).toBe('cancelled');
  });

  it('gives up on an address that knows no signaling', async () => {
    vi.useFakeTimers();
    const { room, call } = setUp(new Response('', { status: 404 }));
    room.connect.mockImplementation(
      () => new Promise((_, fail) => room.on(RoomEvent.Disconnected, () => fail(ConnectionError.cancelled('')))),
    );
    const joined = call.start();
    await vi.advanceTimersByTimeAsync(4_000);
    expect(await joined).toMatchObject({ code: 'signaling_missing' });
  });
});

describe('during a call', () => {
  it('announces people once per burst of events', async () => {
    const { room, call } = setUp();
    await call.start();
    room.join('ana');
    room.join('ben');
    await settled();
    expect(names(call)).toEqual(['me', 'ana', 'ben']);
    expect(call.state.get().notice?.text).toBe('ANA and BEN joined');
  });

  it('keeps everybody in place while the connection is rebuilt', async () => {
    const { room, call } = setUp();
    await call.start();
    room.join('ana');
    room.join('ben');
    await settled();
    const before = call.state.get();

    room.remoteParticipants.clear();
    room.emit(RoomEvent.ParticipantDisconnected);
    room.state = ConnectionState.Reconnecting;
    room.emit(RoomEvent.ConnectionStateChanged);
    await settled();
    expect(call.state.get()).toMatchObject({ phase: 'reconnecting', mediaAlive: false });
    expect(call.state.get().participants).toBe(before.participants);

    room.state = ConnectionState.Connected;
    room.join('ben');
    room.join('ana');
    await settled();
    expect(call.state.get().phase).toBe('connected');
    expect(names(call)).toEqual(['me', 'ana', 'ben']);
    expect(call.state.get().notice).toBe(before.notice);
  });

  it.each([
    [true, 'server_shutdown'],
    [false, 'server_gone'],
  ])('knows a server that said goodbye (%s) from one that is gone', async (saidGoodbye, code) => {
    const { room, call } = setUp();
    const handled = vi.fn();
    const client = { onLeave: handled };
    Object.assign(room, { engine: { client } });
    await call.start();
    room.emit(RoomEvent.Connected);
    room.emit(RoomEvent.Reconnected);
    if (saidGoodbye) (client.onLeave as Listener)({ reason: DisconnectReason.SERVER_SHUTDOWN });
    expect(handled).toHaveBeenCalledTimes(saidGoodbye ? 1 : 0);
    // Something else changes before the connection breaks.
    room.emit(RoomEvent.ConnectionStateChanged);
    await settled();
    room.state = ConnectionState.Reconnecting;
    room.emit(RoomEvent.ConnectionStateChanged);
    await settled();
    expect(call.state.get()).toMatchObject({ phase: 'reconnecting', serverRestarting: saidGoodbye });

    room.state = ConnectionState.Connected;
    room.emit(RoomEvent.ConnectionStateChanged);
    await settled();
    expect(call.state.get().serverRestarting).toBe(false);

    if (saidGoodbye) (client.onLeave as Listener)({ reason: DisconnectReason.SERVER_SHUTDOWN });
    room.state = ConnectionState.Reconnecting;
    room.emit(RoomEvent.ConnectionStateChanged);
    await settled();
    room.state = ConnectionState.Disconnected;
    room.emit(RoomEvent.Disconnected, undefined);
    await settled();
    expect(call.state.get()).toMatchObject({ phase: 'ended', ended: { code } });
  });

  it('explains a device that fails', async () => {
    const { room, call } = setUp();
    await call.start();
    room.localParticipant.setMicrophoneEnabled.mockRejectedValue(
      Object.assign(new Error(), { name: 'NotReadableError' }),
    );
    await call.setMicrophone(true);
    expect(call.state.get().notice?.failure?.code).toBe('microphone_in_use');
    expect(call.state.get().microphone.busy).toBe(false);
  });

  it('says why it ended', async () => {
    const { room, call } = setUp();
    await call.start();
    room.state = ConnectionState.Disconnected;
    room.emit(RoomEvent.Disconnected, DisconnectReason.DUPLICATE_IDENTITY);
    await settled();
    expect(call.state.get()).toMatchObject({ phase: 'ended', ended: { code: 'duplicate_identity' } });
  });
});
