import type { Call } from '@zynk/core';

type Room = Call['room'];

declare global {
  interface Window {
    /**
     * A hook for debugging and for tests in a browser: the SDK's room while a call is running. It
     * gives nothing that a script on this page could not reach anyway.
     */
    __zynk?: { room: Room };
  }
}

export function exposeRoom(room: Room | null): void {
  if (room) window.__zynk = { room };
  else delete window.__zynk;
}

/** Set when the first frame of anybody else's video is on the page. */
export const FIRST_REMOTE_FRAME = 'zynk:first-remote-frame';

let marked = false;

export function markFirstFrame(): void {
  if (marked) return;
  marked = true;
  performance.mark(FIRST_REMOTE_FRAME);
}

export function resetFirstFrame(): void {
  marked = false;
  performance.clearMarks(FIRST_REMOTE_FRAME);
}
