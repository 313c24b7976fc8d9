import { type ReadableStore, Store } from './store';

export interface DeviceOption {
  id: string;
  label: string;
}

export interface DeviceLists {
  cameras: DeviceOption[];
  microphones: DeviceOption[];
  speakers: DeviceOption[];
}

const NONE: DeviceLists = { cameras: [], microphones: [], speakers: [] };

/**
 * Turns the browser's devices into menus. Devices without an id are placeholders shown before
 * permission is given; they cannot be chosen and are left out.
 */
export function toDeviceLists(devices: readonly MediaDeviceInfo[]): DeviceLists {
  const pick = (kind: MediaDeviceKind, noun: string): DeviceOption[] => {
    const seen = new Set<string>();
    const options: DeviceOption[] = [];
    for (const device of devices) {
      if (device.kind !== kind || device.deviceId === '' || seen.has(device.deviceId)) continue;
      seen.add(device.deviceId);
      options.push({ id: device.deviceId, label: device.label || `${noun} ${options.length + 1}` });
    }
    return options;
  };
  return {
    cameras: pick('videoinput', 'Camera'),
    microphones: pick('audioinput', 'Microphone'),
    speakers: pick('audiooutput', 'Speaker'),
  };
}

/** Keeps the menus in step with what is plugged in. */
export class DeviceWatcher {
  readonly #mediaDevices: MediaDevices | undefined;
  readonly #lists = new Store<DeviceLists>(NONE);
  #stop: (() => void) | undefined;

  constructor(mediaDevices: MediaDevices | undefined) {
    this.#mediaDevices = mediaDevices;
  }

  get lists(): ReadableStore<DeviceLists> {
    return this.#lists;
  }

  start(): void {
    if (this.#stop || !this.#mediaDevices) return;
    const devices = this.#mediaDevices;
    const refresh = () => void this.refresh();
    devices.addEventListener('devicechange', refresh);
    this.#stop = () => devices.removeEventListener('devicechange', refresh);
    refresh();
  }

  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
  }

  /** Labels appear only after permission was given, so this is called after every capture as well. */
  async refresh(): Promise<void> {
    try {
      const devices = await this.#mediaDevices?.enumerateDevices();
      if (devices) this.#lists.set(toDeviceLists(devices));
    } catch {
      this.#lists.set(NONE);
    }
  }
}

/** Whether sound can be sent to a chosen speaker; otherwise the system decides. */
export function canChooseSpeaker(): boolean {
  return typeof HTMLMediaElement !== 'undefined' && 'setSinkId' in HTMLMediaElement.prototype;
}

/** Phones and insecure pages cannot share a screen. */
export function canShareScreen(mediaDevices: MediaDevices | undefined): boolean {
  return typeof mediaDevices?.getDisplayMedia === 'function';
}
