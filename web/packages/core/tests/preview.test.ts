import { type CreateLocalTracksOptions, LocalAudioTrack, type LocalTrack, LocalVideoTrack } from 'livekit-client';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Preview, type PreviewChoice } from '../src';

const choice: PreviewChoice = { cameraOn: true, microphoneOn: true, cameraId: '', microphoneId: '' };

/** A track that is of the right class and does nothing but count how often it was stopped. */
function track(kind: 'audio' | 'video') {
  const prototype = kind === 'video' ? LocalVideoTrack.prototype : LocalAudioTrack.prototype;
  const stop = vi.fn();
  return Object.assign(Object.create(prototype) as LocalTrack, { stop, once: vi.fn() });
}

type Answer = (options: CreateLocalTracksOptions) => LocalTrack[];

function capture(answer: Answer = (options) => [
  ...(options.audio ? [track('audio')] : []),
  ...(options.video ? [track('video')] : []),
]) {
  return vi.fn(async (options: CreateLocalTracksOptions) => answer(options));
}

const failing = (name: string) => () => {
  throw Object.assign(new Error(name), { name });
};

function permissions(states: Record<string, string>) {
  vi.stubGlobal('navigator', {
    permissions: { query: async ({ name }: { name: string }) => ({ state: states[name] }) },
  });
}

afterEach(() => vi.unstubAllGlobals());

describe('preview', () => {
  it('asks for both devices in one question', async () => {
    const ask = capture();
    const preview = new Preview(undefined, ask);
    await preview.apply(choice);
    expect(ask).toHaveBeenCalledTimes(1);
    expect(preview.state.get().camera).toBeInstanceOf(LocalVideoTrack);
    expect(preview.state.get().microphone).toBeInstanceOf(LocalAudioTrack);
  });

  it('asks for nothing when both are off', async () => {
    const ask = capture();
    await new Preview(undefined, ask).apply({ ...choice, cameraOn: false, microphoneOn: false });
    expect(ask).not.toHaveBeenCalled();
  });

  it('keeps the microphone when there is no camera', async () => {
    const ask = capture((options) => (options.video ? failing('NotFoundError')() : [track('audio')]));
    const preview = new Preview(undefined, ask);
    await preview.apply(choice);
    expect(preview.state.get().microphone).not.toBeNull();
    expect(preview.state.get().cameraFailure?.code).toBe('camera_missing');
    expect(preview.state.get().microphoneFailure).toBeNull();
  });

  it('does not repeat a question that was answered with no', async () => {
    permissions({ camera: 'denied', microphone: 'denied' });
    const ask = capture(failing('NotAllowedError'));
    const preview = new Preview(undefined, ask);
    await preview.apply(choice);
    expect(ask).toHaveBeenCalledTimes(1);
    expect(preview.state.get().cameraFailure?.code).toBe('camera_denied');
    expect(preview.state.get().microphoneFailure?.code).toBe('microphone_denied');
  });

  it('takes the device that is allowed when the other is not', async () => {
    permissions({ camera: 'denied', microphone: 'granted' });
    const ask = capture((options) => (options.video ? failing('NotAllowedError')() : [track('audio')]));
    const preview = new Preview(undefined, ask);
    await preview.apply(choice);
    expect(preview.state.get().microphone).not.toBeNull();
    expect(preview.state.get().cameraFailure?.code).toBe('camera_denied');
  });

  it('restarts only what changed', async () => {
    const ask = capture();
    const preview = new Preview(undefined, ask);
    await preview.apply(choice);
    const { camera, microphone } = preview.state.get();
    await preview.apply({ ...choice, cameraId: 'other' });
    expect(camera?.stop).toHaveBeenCalled();
    expect(microphone?.stop).not.toHaveBeenCalled();
    expect(preview.state.get().microphone).toBe(microphone);
    expect(ask.mock.calls[1]?.[0]).toMatchObject({ audio: false, video: { deviceId: 'other' } });
  });

  it('tries again after a failure only when asked to', async () => {
    let broken = true;
    const ask = capture(() => (broken ? failing('NotReadableError')() : [track('video')]));
    const preview = new Preview(undefined, ask);
    const wish = { ...choice, microphoneOn: false };
    await preview.apply(wish);
    expect(preview.state.get().cameraFailure?.code).toBe('camera_in_use');
    broken = false;
    preview.retry('camera');
    await preview.apply({ ...wish });
    expect(preview.state.get().cameraFailure).toBeNull();
    expect(preview.state.get().camera).not.toBeNull();
  });

  it('hands its tracks over running', async () => {
    const preview = new Preview(undefined, capture());
    await preview.apply(choice);
    const { camera } = preview.take();
    preview.stop();
    expect(camera?.stop).not.toHaveBeenCalled();
    expect(preview.state.get().camera).toBeNull();
  });

  it('stops a device that arrives after the preview was closed', async () => {
    const late = track('video');
    let arrive: (tracks: LocalTrack[]) => void = () => undefined;
    const preview = new Preview(undefined, () => new Promise((done) => (arrive = done)));
    const applied = preview.apply({ ...choice, microphoneOn: false });
    preview.stop();
    arrive([late]);
    await applied;
    expect(late.stop).toHaveBeenCalled();
    expect(preview.state.get().camera).toBeNull();
  });
});
