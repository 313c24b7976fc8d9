import { describe, expect, it } from 'vitest';
import {
  DEFAULT_PREFERENCES,
  DeviceWatcher,
  loadPreferences,
  loudness,
  savePreferences,
  toDeviceLists,
} from '../src';

const device = (kind: MediaDeviceKind, deviceId: string, label = '') =>
  ({ kind, deviceId, label, groupId: '' }) as MediaDeviceInfo;

describe('device menus', () => {
  it('sorts by kind, numbers what has no label and drops placeholders', () => {
    const lists = toDeviceLists([
      device('audioinput', 'm1', 'Headset'),
      device('audioinput', 'm2'),
      device('audioinput', 'm2'),
      device('videoinput', ''),
      device('audiooutput', 's1'),
    ]);
    expect(lists.microphones).toEqual([
      { id: 'm1', label: 'Headset' },
      { id: 'm2', label: 'Microphone 2' },
    ]);
    expect(lists.cameras).toEqual([]);
    expect(lists.speakers).toEqual([{ id: 's1', label: 'Speaker 1' }]);
  });

  it('follows what is plugged in until stopped', async () => {
    const plugged: MediaDeviceInfo[] = [device('videoinput', 'c1', 'Built-in')];
    const media = Object.assign(new EventTarget(), { enumerateDevices: async () => plugged });
    const watcher = new DeviceWatcher(media as unknown as MediaDevices);
    const changed = () =>
      new Promise<void>((done) => {
        const stop = watcher.lists.subscribe(() => {
          stop();
          done();
        });
      });

    const first = changed();
    watcher.start();
    await first;
    expect(watcher.lists.get().cameras).toHaveLength(1);

    plugged.push(device('videoinput', 'c2', 'USB'));
    const second = changed();
    media.dispatchEvent(new Event('devicechange'));
    await second;
    expect(watcher.lists.get().cameras.map((camera) => camera.label)).toEqual(['Built-in', 'USB']);

    watcher.stop();
    plugged.length = 0;
    media.dispatchEvent(new Event('devicechange'));
    await Promise.resolve();
    expect(watcher.lists.get().cameras).toHaveLength(2);
  });

  it('lives without any media devices', async () => {
    const watcher = new DeviceWatcher(undefined);
    watcher.start();
    await watcher.refresh();
    expect(watcher.lists.get().cameras).toEqual([]);
  });
});

describe('preferences', () => {
  it('come back as they were saved', () => {
    const chosen = { ...DEFAULT_PREFERENCES, name: 'Ana', cameraId: 'c1', microphoneOn: false };
    savePreferences(localStorage, chosen);
    expect(loadPreferences(localStorage)).toEqual(chosen);
  });

  it('survive rubbish and forbidden storage', () => {
    localStorage.setItem('zynk.preferences', '{"name":7,"cameraOn":false,"extra":1}');
    expect(loadPreferences(localStorage)).toEqual({ ...DEFAULT_PREFERENCES, cameraOn: false });
    localStorage.setItem('zynk.preferences', 'null');
    expect(loadPreferences(localStorage)).toEqual(DEFAULT_PREFERENCES);
    const forbidden = {
      getItem: () => {
        throw new Error('forbidden');
      },
      setItem: () => {
        throw new Error('full');
      },
    } as unknown as Storage;
    expect(loadPreferences(forbidden)).toEqual(DEFAULT_PREFERENCES);
    expect(() => savePreferences(forbidden, DEFAULT_PREFERENCES)).not.toThrow();
  });
});

describe('loudness', () => {
  it('is 0 for silence, 1 for a full tone and in between for speech', () => {
    const tone = (volume: number) => Float32Array.from({ length: 1024 }, (_, i) => volume * Math.sin(i / 8));
    expect(loudness(new Float32Array(1024))).toBe(0);
    expect(loudness(tone(1))).toBe(1);
    expect(loudness(tone(0.03))).toBeGreaterThan(0.3);
    expect(loudness(tone(0.03))).toBeLessThan(0.8);
  });
});
