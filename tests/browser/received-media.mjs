// What a page receives, read from WebRTC statistics. A page under test shows its livekit-client
// room as `window.__zynk.room`; the functions work alike for Playwright and Puppeteer pages.
import { until } from './deadline.mjs';

/**
 * One entry for each remote track that arrives:
 * `{ identity, trackSid, kind, source, codec, framesDecoded, frameWidth, freezes, freezeSeconds, audioEnergy, packets, lost }`.
 */
export function receivedTracks(page) {
  return page.evaluate(async () => {
    const room = window.__zynk?.room;
    if (!room) return [];
    const tracks = [];
    for (const participant of room.remoteParticipants.values()) {
      for (const publication of participant.trackPublications.values()) {
        const report = await publication.track?.getRTCStatsReport();
        if (!report) continue;
        let inbound;
        report.forEach((entry) => {
          if (entry.type === 'inbound-rtp' && entry.kind === publication.kind) inbound = entry;
        });
        if (!inbound) continue;
        let codec;
        report.forEach((entry) => {
          if (entry.type === 'codec' && entry.id === inbound.codecId) codec = entry.mimeType;
        });
        tracks.push({
          identity: participant.identity,
          trackSid: publication.trackSid,
          kind: publication.kind,
          source: publication.source,
          codec,
          framesDecoded: inbound.framesDecoded ?? 0,
          frameWidth: inbound.frameWidth,
          freezes: inbound.freezeCount,
          freezeSeconds: inbound.totalFreezesDuration,
          audioEnergy: inbound.totalAudioEnergy ?? 0,
          packets: inbound.packetsReceived,
          lost: inbound.packetsLost,
        });
      }
    }
    return tracks;
  });
}

/** Transports (`udp`, `tcp`) over which the page's connections go now. */
export function transports(page) {
  return page.evaluate(async () => {
    const { publisher, subscriber } = window.__zynk.room.engine.pcManager;
    const used = [];
    for (const connection of [publisher, subscriber].filter(Boolean)) {
      const report = await connection.getStats();
      report.forEach((entry) => {
        if (entry.type !== 'transport' || !entry.selectedCandidatePairId) return;
        used.push(report.get(report.get(entry.selectedCandidatePairId).remoteCandidateId).protocol);
      });
    }
    return used;
  });
}

const alive = (track) => (track.kind === 'video' ? track.framesDecoded > 0 : track.audioEnergy > 0);

/** Waits until the page decodes audio and video of each of `identities`. */
export function untilReceiving(page, identities, timeoutMs) {
  return until(
    `audio and video of ${identities.join(', ')}`,
    async () => {
      const tracks = await receivedTracks(page);
      const complete = identities.every((identity) =>
        ['audio', 'video'].every((kind) =>
          tracks.some((track) => track.identity === identity && track.kind === kind && alive(track)),
        ),
      );
      // The tracks are the error message when the deadline passes.
      if (!complete) throw new Error(`receives only ${JSON.stringify(tracks)}`);
      return tracks;
    },
    timeoutMs,
  );
}

/**
 * Follows all received tracks for `durationMs` and returns for each
 * `{ identity, kind, codec, rise, longestPauseMs, freezeSeconds }`: how much its frame count or audio
 * energy rose, and the longest time the frame count stood still (judged every 50 ms).
 */
export async function followTracks(page, durationMs) {
  const before = await receivedTracks(page);
  const pauses = page.evaluate(async (duration) => {
    const receivers = [];
    for (const participant of window.__zynk.room.remoteParticipants.values()) {
      for (const publication of participant.trackPublications.values()) {
        if (publication.kind === 'video' && publication.track) {
          const now = performance.now();
          receivers.push({ identity: participant.identity, source: publication.source, track: publication.track, frames: -1, since: now, pause: 0 });
        }
      }
    }
    const end = performance.now() + duration;
    while (performance.now() < end) {
      for (const entry of receivers) {
        const report = await entry.track.getRTCStatsReport();
        const now = performance.now();
        let frames = entry.frames;
        report?.forEach((stat) => {
          if (stat.type === 'inbound-rtp') frames = stat.framesDecoded;
        });
        entry.pause = Math.max(entry.pause, now - entry.since);
        if (frames !== entry.frames) {
          entry.frames = frames;
          entry.since = now;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return receivers.map(({ identity, source, pause }) => ({ identity, source, pause }));
  }, durationMs);
  const longest = await pauses;
  const after = await receivedTracks(page);
  return before.map((first) => {
    const same = (track) => track.identity === first.identity && track.source === first.source;
    const last = after.find((track) => same(track) && track.kind === first.kind);
    if (!last) throw new Error(`${first.kind} of ${first.identity} went away`);
    return {
      identity: first.identity,
      kind: first.kind,
      codec: last.codec,
      rise: first.kind === 'video' ? last.framesDecoded - first.framesDecoded : last.audioEnergy - first.audioEnergy,
      longestPauseMs: first.kind === 'video' ? Math.round(longest.find(same).pause) : undefined,
      freezeSeconds: last.freezeSeconds === undefined ? undefined : last.freezeSeconds - (first.freezeSeconds ?? 0),
      lost: last.lost,
    };
  });
}

/**
 * Installed before a page loads: notes when Join is clicked, when the signal connection of the room is
 * asked for, and when each track shows its first frame.
 */
export function noteFirstFrames() {
  const notes = { clickedMs: undefined, joiningMs: undefined, frames: [] };
  window.__firstFrames = notes;
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      notes.joiningMs ??= performance.now();
    }
  };
  document.addEventListener(
    'click',
    (event) => {
      if (event.target.closest?.('[data-testid="join-button"]')) notes.clickedMs = performance.now();
    },
    true,
  );
  document.addEventListener(
    'loadeddata',
    (event) => {
      const track = event.target.srcObject?.getVideoTracks?.()[0];
      if (track) notes.frames.push({ trackId: track.id, atMs: performance.now() });
    },
    true,
  );
}

/**
 * For each remote video: milliseconds from navigation (`sinceLoadMs`), from the click on Join
 * (`sinceClickMs`) and from the page's connecting to the room (`sinceJoinMs`) to its first frame being
 * ready to show. Needs `noteFirstFrames` in the page.
 */
export function firstFrames(page) {
  return page.evaluate(() => {
    const { clickedMs, joiningMs, frames } = window.__firstFrames;
    const found = [];
    for (const participant of window.__zynk.room.remoteParticipants.values()) {
      for (const publication of participant.videoTrackPublications.values()) {
        const id = publication.track?.mediaStreamTrack.id;
        const frame = frames.find((entry) => entry.trackId === id);
        if (frame) {
          found.push({
            identity: participant.identity,
            sinceLoadMs: Math.round(frame.atMs),
            sinceClickMs: Math.round(frame.atMs - clickedMs),
            sinceJoinMs: Math.round(frame.atMs - joiningMs),
          });
        }
      }
    }
    return found;
  });
}
