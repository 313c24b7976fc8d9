import {
  ConnectionError,
  ConnectionErrorReason,
  ConnectionState,
  DisconnectReason,
  LivekitError,
  type LocalTrack,
  Room,
  RoomEvent,
  type RoomOptions,
  Track,
} from 'livekit-client';
import { explainDisconnect, explainJoinError, explainLoss, joinTimeout, signalingMissing } from './call-failure';
import { type DeviceName, explainDeviceError, isScreenPickerClosed } from './device-failure';
import { type Failure, FailureError, failure } from './failure';
import { describeChanges, type ParticipantView, StableOrder, viewParticipants } from './participants';
import type { PreviewTracks } from './preview';
import { refused, type ServerApi } from './server';
import { onServerLeave } from './server-leave';
import { type ReadableStore, Store } from './store';

export interface JoinRequest {
  room: string;
  /** Either a guest's name or an access token; the token lives in memory only. */
  credential: { name: string } | { token: string };
  microphoneOn: boolean;
  cameraOn: boolean;
  microphoneId: string;
  cameraId: string;
  speakerId: string;
}

export type CallPhase = 'connecting' | 'connected' | 'reconnecting' | 'ended';

export interface SwitchState {
  on: boolean;
  /** A change is under way. */
  busy: boolean;
  /** The server lets this participant use it. */
  allowed: boolean;
}

/** A short message that goes away by itself. */
export interface Notice {
  id: number;
  text: string;
  failure: Failure | null;
}

export interface CallState {
  phase: CallPhase;
  roomName: string;
  participants: readonly ParticipantView[];
  microphone: SwitchState;
  camera: SwitchState;
  screen: SwitchState;
  /** Only signaling is lost while true; sound and pictures still flow. */
  mediaAlive: boolean;
  soundBlocked: boolean;
  /** The server said that it stops; the connection is being restored at the one that follows. */
  serverRestarting: boolean;
  notice: Notice | null;
  ended: Failure | null;
}

/** What a view needs of a call. */
export interface CallHandle {
  readonly state: ReadableStore<CallState>;
  setMicrophone(on: boolean): Promise<void>;
  setCamera(on: boolean): Promise<void>;
  setScreen(on: boolean): Promise<void>;
  switchDevice(kind: MediaDeviceKind, id: string): Promise<void>;
  activeDevice(kind: MediaDeviceKind): string;
  enableSound(): Promise<void>;
  notify(text: string): void;
  leave(): Promise<void>;
}

type SwitchName = 'microphone' | 'camera' | 'screen';

const SOURCES = {
  microphone: Track.Source.Microphone,
  camera: Track.Source.Camera,
  screen: Track.Source.ScreenShare,
} as const;

/** Every event after which the room may look different. */
const CHANGES = [
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.ParticipantNameChanged,
  RoomEvent.ParticipantPermissionsChanged,
  RoomEvent.ActiveSpeakersChanged,
  RoomEvent.ConnectionQualityChanged,
  RoomEvent.TrackPublished,
  RoomEvent.TrackUnpublished,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
  RoomEvent.TrackStreamStateChanged,
  RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished,
  RoomEvent.AudioPlaybackStatusChanged,
  RoomEvent.ConnectionStateChanged,
  RoomEvent.Moved,
] as const;

const NO_TRACKS = (): PreviewTracks => ({ camera: null, microphone: null });

/** After this long without signaling, the server is asked whether it has any. */
const SIGNAL_PATIENCE_MS = 3_000;
/** An attempt to join ends after this long, whatever it waits for. */
const JOIN_TIMEOUT_MS = 45_000;

const OFF: SwitchState = { on: false, busy: false, allowed: true };

/** One visit to a room, from asking for a token to the reason it ended. */
export class Call implements CallHandle {
  readonly room: Room;
  readonly request: JoinRequest;
  readonly #api: ServerApi;
  readonly #state: Store<CallState>;
  readonly #order = new StableOrder();
  readonly #busy = new Set<SwitchName>();
  #refreshPending = false;
  #cancelled = false;
  #notices = 0;

  constructor(api: ServerApi, request: JoinRequest, createRoom = (options: RoomOptions) => new Room(options)) {
    this.#api = api;
    this.request = request;
    this.room = createRoom({
      adaptiveStream: true,
      dynacast: true,
      publishDefaults: { videoCodec: 'vp8', simulcast: true },
      audioCaptureDefaults: { deviceId: request.microphoneId || undefined },
      videoCaptureDefaults: { deviceId: request.cameraId || undefined },
      audioOutput: request.speakerId ? { deviceId: request.speakerId } : undefined,
    });
    this.#state = new Store<CallState>({
      phase: 'connecting',
      roomName: request.room,
      participants: [],
      microphone: OFF,
      camera: OFF,
      screen: OFF,
      mediaAlive: false,
      soundBlocked: false,
      serverRestarting: false,
      notice: null,
      ended: null,
    });
    for (const event of CHANGES) this.room.on(event, this.#scheduleRefresh);
    this.room.on(RoomEvent.Disconnected, this.#onDisconnected);
    onServerLeave(this.room, (reason) => {
      if (reason === DisconnectReason.SERVER_SHUTDOWN) this.#state.patch({ serverRestarting: true });
    });
  }

  get state(): ReadableStore<CallState> {
    return this.#state;
  }

  /** What to ask for when the user rejoins: the switches as they are now. */
  get rejoinRequest(): JoinRequest {
    const { microphone, camera } = this.#state.get();
    return {
      ...this.request,
      microphoneOn: microphone.on,
      cameraOn: camera.on,
      microphoneId: this.activeDevice('audioinput'),
      cameraId: this.activeDevice('videoinput'),
      speakerId: this.activeDevice('audiooutput'),
    };
  }

  /**
   * Joins. Returns null once inside, the failure otherwise; a call the user cancelled gives
   * `cancelled`. `takeTracks` is called once inside and hands over the preview's devices, so a failed
   * attempt leaves the preview running.
   */
  async start(takeTracks: () => PreviewTracks = NO_TRACKS): Promise<Failure | 'cancelled' | null> {
    let token = '';
    try {
      token = await this.#token();
      if (this.#cancelled) throw ConnectionError.cancelled('left before joining');
      await this.#connect(token);
    } catch (error) {
      this.#state.patch({ phase: 'ended' });
      if (this.#cancelled) return 'cancelled';
      return (await this.#refusal(error, token)) ?? explainJoinError(error) ?? 'cancelled';
    }
    if (this.#cancelled) {
      await this.room.disconnect();
      this.#state.patch({ phase: 'ended' });
      return 'cancelled';
    }
    this.#refresh();
    const tracks = takeTracks();
    void this.#publishFirst('microphone', this.request.microphoneOn, tracks.microphone);
    void this.#publishFirst('camera', this.request.cameraOn, tracks.camera);
    return null;
  }

  setMicrophone = (on: boolean): Promise<void> =>
    this.#switch('microphone', on, () => this.room.localParticipant.setMicrophoneEnabled(on));

  setCamera = (on: boolean): Promise<void> =>
    this.#switch('camera', on, () => this.room.localParticipant.setCameraEnabled(on));

  setScreen = (on: boolean): Promise<void> =>
    this.#switch('screen', on, () =>
      this.room.localParticipant.setScreenShareEnabled(on, { audio: true, contentHint: 'detail' }),
    );

  async switchDevice(kind: MediaDeviceKind, id: string): Promise<void> {
    try {
      await this.room.switchActiveDevice(kind, id);
    } catch (error) {
      this.#complain(explainDeviceError(error, DEVICE_NAMES[kind]));
    }
    this.#refresh();
  }

  activeDevice(kind: MediaDeviceKind): string {
    const wished = {
      audioinput: this.request.microphoneId,
      videoinput: this.request.cameraId,
      audiooutput: this.request.speakerId,
    };
    return this.room.getActiveDevice(kind) ?? wished[kind];
  }

  async enableSound(): Promise<void> {
    try {
      await this.room.startAudio();
      await this.room.startVideo();
    } catch {
      this.notify('The browser still blocks sound. Allow sound for this page in its settings.');
    }
    this.#refresh();
  }

  notify = (text: string): void => {
    this.#state.patch({ notice: { id: ++this.#notices, text, failure: null } });
  };

  async leave(): Promise<void> {
    this.#cancelled = true;
    await this.room.disconnect();
  }

  async #token(): Promise<string> {
    const { credential, room } = this.request;
    if ('token' in credential) return credential.token;
    const guest = await this.#api.guestToken(room, credential.name);
    this.#state.patch({ roomName: guest.room });
    return guest.token;
  }

  /**
   * Connects, but not for ever: the SDK goes on trying for as long as an address answers 404, and has
   * no limit for the whole of an attempt.
   */
  async #connect(token: string): Promise<void> {
    let overdue: Failure | undefined;
    const giveUp = (problem: Failure) => {
      overdue = problem;
      void this.room.disconnect();
    };
    const probe = setTimeout(async () => {
      const answer = await this.#api.refusal(token);
      if (answer?.status === 404) giveUp(signalingMissing());
    }, SIGNAL_PATIENCE_MS);
    const deadline = setTimeout(() => giveUp(joinTimeout()), JOIN_TIMEOUT_MS);
    this.room.once(RoomEvent.SignalConnected, () => clearTimeout(probe));
    try {
      await this.room.connect(this.#api.signalUrl, token);
    } catch (error) {
      throw overdue ? new FailureError(overdue) : error;
    } finally {
      clearTimeout(probe);
      clearTimeout(deadline);
    }
  }

  /** The server's own words, where the SDK hides them behind a general error. */
  async #refusal(error: unknown, token: string): Promise<Failure | null> {
    const vague =
      error instanceof ConnectionError &&
      (error.reason === ConnectionErrorReason.InternalError ||
        error.reason === ConnectionErrorReason.WebSocket ||
        error.reason === ConnectionErrorReason.ServiceNotFound);
    if (!vague || token === '') return null;
    const answer = await this.#api.refusal(token);
    // 404 says that there is no such endpoint unless it speaks of the room.
    if (!answer || (answer.status === 404 && !/room/i.test(answer.message))) return null;
    return refused(answer.status, answer.message);
  }

  async #publishFirst(name: 'microphone' | 'camera', on: boolean, track: LocalTrack | null): Promise<void> {
    if (!on || !this.#allowed(name)) {
      track?.stop();
      return;
    }
    if (!track) {
      await (name === 'microphone' ? this.setMicrophone(true) : this.setCamera(true));
      return;
    }
    await this.#switch(name, true, () => this.room.localParticipant.publishTrack(track));
  }

  async #switch(name: SwitchName, on: boolean, act: () => Promise<unknown>): Promise<void> {
    if (this.#busy.has(name) || this.room.state === ConnectionState.Disconnected) return;
    this.#busy.add(name);
    this.#refresh();
    try {
      await act();
    } catch (error) {
      if (name !== 'screen' || !on || !isScreenPickerClosed(error)) {
        this.#complain(explainSwitchError(error, name));
      }
    } finally {
      this.#busy.delete(name);
      this.#refresh();
    }
  }

  #complain(problem: Failure): void {
    if (this.#state.get().phase === 'ended') return;
    this.#state.patch({ notice: { id: ++this.#notices, text: problem.title, failure: problem } });
  }

  readonly #onDisconnected = (reason?: DisconnectReason): void => {
    // Before the room is entered, `start` reports the failure.
    if (this.#state.get().phase === 'connecting') return;
    const { phase, serverRestarting } = this.#state.get();
    // The SDK gives no reason when it gives up.
    const lost = phase === 'reconnecting' && (reason === undefined || reason === DisconnectReason.UNKNOWN_REASON);
    this.#state.patch({ phase: 'ended', ended: lost ? explainLoss(serverRestarting) : explainDisconnect(reason) });
  };

  /** Events come in bursts; one look at the room after each burst is enough. */
  readonly #scheduleRefresh = (): void => {
    if (this.#refreshPending) return;
    this.#refreshPending = true;
    queueMicrotask(() => {
      this.#refreshPending = false;
      this.#refresh();
    });
  };

  #refresh(): void {
    const before = this.#state.get();
    const phase = this.#phase(before.phase);
    if (phase === 'connecting' || phase === 'ended') return;
    const rebuilding = this.room.state === ConnectionState.Reconnecting;
    const next: CallState = {
      ...before,
      phase,
      mediaAlive: !rebuilding,
      // It says so before the connection breaks.
      serverRestarting: before.serverRestarting && (phase === 'reconnecting' || before.phase !== 'reconnecting'),
      roomName: this.room.name || before.roomName,
      soundBlocked: !this.room.canPlaybackAudio,
      microphone: this.#switchState('microphone', before.microphone),
      camera: this.#switchState('camera', before.camera),
      screen: this.#switchState('screen', before.screen),
    };
    if (rebuilding) {
      // The SDK forgets everybody while it rebuilds the connection. They stay on the page with their
      // last frame, and so do the switches, because the tracks are published again afterwards.
      this.#state.set({ ...next, microphone: before.microphone, camera: before.camera, screen: before.screen });
      return;
    }
    next.participants = viewParticipants(this.room, this.#order, before.participants);
    if (before.participants.length > 0) {
      const rejoined = before.phase === 'reconnecting';
      const news =
        describeChanges(before.participants, next.participants) || (rejoined ? '' : switchedOff(before, next));
      if (news) next.notice = { id: ++this.#notices, text: news, failure: null };
    }
    this.#state.set(next);
  }

  #phase(current: CallPhase): CallPhase {
    switch (this.room.state) {
      case ConnectionState.Connected:
        return 'connected';
      case ConnectionState.Reconnecting:
      case ConnectionState.SignalReconnecting:
        return 'reconnecting';
      default:
        return current;
    }
  }

  #switchState(name: SwitchName, before: SwitchState): SwitchState {
    const publication = this.room.localParticipant.getTrackPublication(SOURCES[name]);
    const next = {
      on: publication?.track !== undefined && !publication.isMuted,
      busy: this.#busy.has(name),
      allowed: this.#allowed(name),
    };
    const same = next.on === before.on && next.busy === before.busy && next.allowed === before.allowed;
    return same ? before : next;
  }

  #allowed(name: SwitchName): boolean {
    const permissions = this.room.localParticipant.permissions;
    if (!permissions) return true;
    if (!permissions.canPublish) return false;
    const sources = permissions.canPublishSources;
    return sources.length === 0 || sources.some((source) => Track.sourceFromProto(source) === SOURCES[name]);
  }
}

const DEVICE_NAMES: Record<MediaDeviceKind, DeviceName> = {
  audioinput: 'microphone',
  videoinput: 'camera',
  audiooutput: 'speaker',
};

/** A device that does not start and a server that does not take the track are different troubles. */
function explainSwitchError(error: unknown, name: SwitchName): Failure {
  const publishing = error instanceof LivekitError && error.name !== 'DeviceUnsupportedError';
  if (!publishing) return explainDeviceError(error, name);
  return failure(
    `${name}_not_published`,
    `Your ${name} could not be sent`,
    'The server did not take it. Turn it off and on again.',
    'call',
    error.message,
  );
}

/** A device that went off without the user's doing deserves a word. */
function switchedOff(before: CallState, next: CallState): string {
  if (before.microphone.on && !before.microphone.busy && !next.microphone.on && !next.microphone.busy) {
    return 'Your microphone was turned off';
  }
  if (before.camera.on && !before.camera.busy && !next.camera.on && !next.camera.busy) {
    return 'Your camera was turned off';
  }
  return '';
}
