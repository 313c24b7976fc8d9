import type { Picture } from '@zynk/core';
import { useEffect, useRef, useState } from 'react';

export interface VideoViewProps {
  track: Picture['track'];
  /** Shown as in a mirror, as people are used to seeing themselves. */
  mirrored?: boolean;
  /** `contain` shows all of the picture; `auto` fills the box unless that would cut off too much. */
  fit: 'contain' | 'auto';
  /** Shows a recent frame in place of the track. Left out where the picture cannot be lost. */
  frozen?: boolean;
  onFirstFrame?: () => void;
  testId?: string;
  label?: string;
}

/** More than this share of the picture is never cut off to fill a tile. */
const CROP_MAX = 0.45;
/**
 * How often a frame is set aside. The SDK empties the video element in the same moment in which it tells
 * that the connection has to be rebuilt, so a frame taken then comes too late.
 */
const KEEP_MS = 1_000;
/** Frames set aside are at most this wide. */
const KEPT_WIDTH_MAX = 640;
/** A frame kept over a reconnect gives way at the latest now, even if no new one has come. */
const HOLD_MS_MAX = 5_000;

/** Attaches a track to a video element. The SDK watches the element's size and visibility. */
export function VideoView({ track, mirrored, fit, frozen, onFirstFrame, testId, label }: VideoViewProps) {
  const video = useRef<HTMLVideoElement>(null);
  const still = useRef<HTMLCanvasElement>(null);
  const [cover, setCover] = useState(fit === 'auto');
  // Outlasts `frozen` until there is a new picture to show.
  const [held, setHeld] = useState(false);
  if (frozen && !held) setHeld(true);

  useEffect(() => {
    const element = video.current;
    if (!element) return;
    track.attach(element);
    return () => {
      track.detach(element);
    };
  }, [track]);

  useEffect(() => {
    const element = video.current;
    if (!element || !onFirstFrame) return;
    return whenNextFrame(element, onFirstFrame);
  }, [track, onFirstFrame]);

  useEffect(() => {
    const element = video.current;
    if (!element) return;
    const choose = () => setCover(fit === 'auto' && cropShare(element) <= CROP_MAX);
    const observer = new ResizeObserver(choose);
    observer.observe(element);
    element.addEventListener('resize', choose);
    element.addEventListener('loadedmetadata', choose);
    return () => {
      observer.disconnect();
      element.removeEventListener('resize', choose);
      element.removeEventListener('loadedmetadata', choose);
    };
  }, [fit]);

  const canFreeze = frozen !== undefined;
  useEffect(() => {
    const element = video.current;
    if (!element || !canFreeze || frozen) return;
    let cancelFrame = () => {};
    const timer = setInterval(() => {
      cancelFrame();
      cancelFrame = whenNextFrame(element, () => copyFrame(element, still.current));
    }, KEEP_MS);
    return () => {
      clearInterval(timer);
      cancelFrame();
    };
  }, [track, frozen, canFreeze]);

  useEffect(() => {
    const element = video.current;
    if (!element || frozen) return;
    const release = () => setHeld(false);
    const timer = setTimeout(release, HOLD_MS_MAX);
    const cancel = whenNextFrame(element, release);
    return () => {
      clearTimeout(timer);
      cancel();
    };
  }, [frozen, track]);

  const shape = `absolute inset-0 size-full ${cover ? 'object-cover' : 'object-contain'} ${mirrored ? '-scale-x-100' : ''}`;
  return (
    <>
      <video ref={video} data-testid={testId} aria-label={label} className={shape} autoPlay playsInline muted />
      <canvas ref={still} aria-hidden="true" className={`${shape} ${held ? '' : 'hidden'}`} />
    </>
  );
}

/** The share of the picture that is lost when it fills its box. */
function cropShare(element: HTMLVideoElement): number {
  const { videoWidth, videoHeight, clientWidth, clientHeight } = element;
  if (!videoWidth || !videoHeight || !clientWidth || !clientHeight) return 0;
  const picture = videoWidth / videoHeight;
  const box = clientWidth / clientHeight;
  return 1 - Math.min(picture, box) / Math.max(picture, box);
}

function copyFrame(element: HTMLVideoElement, canvas: HTMLCanvasElement | null): void {
  const context = canvas?.getContext('2d');
  if (!canvas || !context || element.videoWidth === 0) return;
  const scale = Math.min(1, KEPT_WIDTH_MAX / element.videoWidth);
  canvas.width = Math.round(element.videoWidth * scale);
  canvas.height = Math.round(element.videoHeight * scale);
  context.drawImage(element, 0, 0, canvas.width, canvas.height);
}

/** Calls back once, when a frame has been presented. Returns the function that calls it off. */
function whenNextFrame(element: HTMLVideoElement, callback: () => void): () => void {
  if ('requestVideoFrameCallback' in element) {
    const handle = element.requestVideoFrameCallback(() => callback());
    return () => element.cancelVideoFrameCallback(handle);
  }
  const media = element as HTMLMediaElement;
  media.addEventListener('loadeddata', callback, { once: true });
  return () => media.removeEventListener('loadeddata', callback);
}
