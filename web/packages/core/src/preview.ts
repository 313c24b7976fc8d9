import {
  createLocalTracks,
  type CreateLocalTracksOptions,
  LocalAudioTrack,
  type LocalTrack,
  LocalVideoTrack,
  TrackEvent,
} from 'livekit-client';
import { explainDeviceError } from './device-failure';
import type { Failure } from './failure';
import { type ReadableStore, Store } from './store';

export interface PreviewChoice {
  cameraOn: boolean;
  microphoneOn: boolean;
  cameraId: string;
  microphoneId: string;
}

export interface PreviewState {
  camera: LocalVideoTrack | null;
  microphone: LocalAudioTrack | null;
  cameraFailure: Failure | null;
  microphoneFailure: Failure | null;
  /** Devices the browser is being asked for right now. */
  starting: { camera: boolean; microphone: boolean };
}

export interface PreviewTracks {
  camera: LocalVideoTrack | null;
  microphone: LocalAudioTrack | null;
}

type Capture = (options: CreateLocalTracksOptions) => Promise<LocalTrack[]>;
type Kind = 'camera' | 'microphone';

const idle: PreviewState = {
  camera: null,
  microphone: null,
  cameraFailure: null,
  microphoneFailure: null,
  starting: { camera: false, microphone: false },
};

/**
 * Holds the devices while the user looks at themselves before a call. `apply` states what is wanted;
 * requests run one after the other and only the newest wish counts. `take` hands the running tracks
 * over to the call, so that the camera does not blink.
 */
export class Preview {
  readonly #state = new Store<PreviewState>(idle);
  readonly #capture: Capture;
  readonly #onCaptured: () => void;
  #wish: PreviewChoice | null = null;
  #applied: PreviewChoice | null = null;
  #running: Promise<void> | null = null;

  constructor(onCaptured: () => void = () => undefined, capture: Capture = createLocalTracks) {
    this.#onCaptured = onCaptured;
    this.#capture = capture;
  }

  get state(): ReadableStore<PreviewState> {
    return this.#state;
  }

  /** Resolves when the devices match the newest wish, or are known to fail. */
  apply(choice: PreviewChoice): Promise<void> {
    this.#wish = choice;
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  /** Forgets earlier failures, so that the next `apply` asks the browser again. */
  retry(kind: Kind): void {
    if (!this.#applied) return;
    this.#applied =
      kind === 'camera' ? { ...this.#applied, cameraOn: false } : { ...this.#applied, microphoneOn: false };
  }

  /** Gives the running tracks away; the preview is then empty and stops nothing. */
  take(): PreviewTracks {
    const { camera, microphone } = this.#state.get();
    this.#wish = null;
    this.#applied = null;
    this.#state.set(idle);
    return { camera, microphone };
  }

  stop(): void {
    const { camera, microphone } = this.take();
    camera?.stop();
    microphone?.stop();
  }

  async #run(): Promise<void> {
    while (this.#wish && this.#wish !== this.#applied) {
      const wish = this.#wish;
      const before = this.#applied;
      this.#applied = wish;
      const camera = changed(before, wish, 'cameraOn', 'cameraId');
      const microphone = changed(before, wish, 'microphoneOn', 'microphoneId');
      if (camera) this.#release('camera');
      if (microphone) this.#release('microphone');
      const start = { camera: camera && wish.cameraOn, microphone: microphone && wish.microphoneOn };
      if (!start.camera && !start.microphone) continue;
      this.#state.patch({ starting: start });
      await this.#start(wish, start);
      this.#state.patch({ starting: { camera: false, microphone: false } });
      this.#onCaptured();
    }
  }

  async #start(wish: PreviewChoice, start: { camera: boolean; microphone: boolean }): Promise<void> {
    const options = {
      video: start.camera ? { deviceId: wish.cameraId || undefined } : false,
      audio: start.microphone ? { deviceId: wish.microphoneId || undefined } : false,
    } satisfies CreateLocalTracksOptions;

    // Both together means one question to the user instead of two.
    if (start.camera && start.microphone) {
      try {
        this.#keep(await this.#capture(options));
        return;
      } catch (error) {
        if (isRefusal(error)) {
          // Asking again one by one would put the same question to somebody who has just said no.
          const granted = await grantedDevices();
          if (!granted.camera) {
            this.#fail('camera', error);
            start = { ...start, camera: false };
          }
          if (!granted.microphone) {
            this.#fail('microphone', error);
            start = { ...start, microphone: false };
          }
        }
      }
    }
    if (start.microphone) await this.#startOne('microphone', { audio: options.audio, video: false });
    if (start.camera) await this.#startOne('camera', { audio: false, video: options.video });
  }

  async #startOne(kind: Kind, options: CreateLocalTracksOptions): Promise<void> {
    try {
      this.#keep(await this.#capture(options));
    } catch (error) {
      this.#fail(kind, error);
    }
  }

  #keep(tracks: LocalTrack[]): void {
    // The preview was stopped or handed over while the browser was asking.
    if (!this.#applied) {
      for (const track of tracks) track.stop();
      return;
    }
    for (const track of tracks) {
      track.once(TrackEvent.Ended, () => this.#lost(track));
      if (track instanceof LocalVideoTrack) this.#state.patch({ camera: track, cameraFailure: null });
      else if (track instanceof LocalAudioTrack) {
        this.#state.patch({ microphone: track, microphoneFailure: null });
      }
    }
  }

  #fail(kind: Kind, error: unknown): void {
    const explained = explainDeviceError(error, kind);
    this.#state.patch(kind === 'camera' ? { cameraFailure: explained } : { microphoneFailure: explained });
  }

  /** The device was unplugged, or its permission withdrawn. */
  #lost(track: LocalTrack): void {
    const gone = new DOMException('the device is gone', 'OverconstrainedError');
    const { camera, microphone } = this.#state.get();
    if (track === camera) this.#release('camera');
    else if (track === microphone) this.#release('microphone');
    else return;
    this.#fail(track === camera ? 'camera' : 'microphone', gone);
  }

  #release(kind: Kind): void {
    const state = this.#state.get();
    if (kind === 'camera') {
      this.#state.patch({ camera: null, cameraFailure: null });
      state.camera?.stop();
    } else {
      this.#state.patch({ microphone: null, microphoneFailure: null });
      state.microphone?.stop();
    }
  }
}

function changed(
  before: PreviewChoice | null,
  wish: PreviewChoice,
  on: 'cameraOn' | 'microphoneOn',
  id: 'cameraId' | 'microphoneId',
): boolean {
  if (!before) return true;
  return before[on] !== wish[on] || (wish[on] && before[id] !== wish[id]);
}

const isRefusal = (error: unknown): boolean =>
  error instanceof Error && (error.name === 'NotAllowedError' || error.name === 'SecurityError');

async function grantedDevices(): Promise<{ camera: boolean; microphone: boolean }> {
  const granted = async (name: string) => {
    try {
      const status = await navigator.permissions.query({ name: name as PermissionName });
      return status.state === 'granted';
    } catch {
      return false;
    }
  };
  const [camera, microphone] = await Promise.all([granted('camera'), granted('microphone')]);
  return { camera, microphone };
}
