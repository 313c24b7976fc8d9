// MoveParticipant, asked for with LiveKit's Node server SDK: a participant goes from one room to another without joining
// anew, and its media goes with it. Chromium with one connection moves first, then one with two, then LiveKit's Node SDK.
import { Room, RoomEvent, dispose } from '@livekit/rtc-node';
import { RoomServiceClient } from 'livekit-server-sdk';
import { launchChromium } from '../browser/chromium.mjs';
import { until } from '../browser/deadline.mjs';
import { untilReceiving } from '../browser/received-media.mjs';
import { accessToken, joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';

const [LOBBY, STAGE] = ['lobby', 'stage'];
const LIMIT_MS = 30_000;

function check(what, holds) {
  if (!holds) throw new Error(`does not hold: ${what}`);
  console.log(what);
}

/** What a page has seen of its session, and who is with it. */
const stateOf = (page) =>
  page.evaluate(() => {
    const { room } = window.__zynk;
    return {
      room: room.name,
      state: room.state,
      others: [...room.remoteParticipants.keys()].sort(),
      tracks: [...room.localParticipant.trackPublications.keys()].sort(),
      seen: window.seen,
    };
  });

/** Notes each time that a page's session moves, or is interrupted. */
const watch = (page) =>
  page.evaluate(() => {
    window.seen = [];
    const { room } = window.__zynk;
    for (const event of ['moved', 'signalReconnecting', 'reconnecting', 'disconnected']) {
      room.on(event, () => window.seen.push(event));
    }
  });

await program(async (using) => {
  using({ close: () => dispose() });
  const server = serverUnderTest();
  const api = new RoomServiceClient(server.http, server.key, server.secret);
  const served = using(await servePage());
  const browser = using(await launchChromium());
  const join = (room, identity, options) => joinWithSdk(browser, served.url, server, room, identity, { width: 320, height: 180, fps: 15, ...options });

  const carol = await join(STAGE, 'carol');
  const ana = await join(LOBBY, 'ana');
  const ben = new Room();
  using({ close: () => ben.disconnect() });
  const benSeen = [];
  ben.on(RoomEvent.Disconnected, () => benSeen.push('disconnected'));
  ben.on(RoomEvent.Reconnecting, () => benSeen.push('reconnecting'));
  const subscribed = [];
  ben.on(RoomEvent.TrackSubscribed, (track, _publication, { identity }) => subscribed.push(`${identity} ${track.kind}`));
  await ben.connect(server.ws, await accessToken(server, LOBBY, 'ben'), { autoSubscribe: true, dynacast: false });
  await until('the Node SDK receives who is there', () => subscribed.length === 2, LIMIT_MS);

  await watch(ana);
  const { tracks } = await stateOf(ana);
  await api.moveParticipant(LOBBY, 'ana', STAGE);
  await untilReceiving(ana, ['carol'], LIMIT_MS);
  await untilReceiving(carol, ['ana'], LIMIT_MS);
  const moved = await stateOf(ana);
  check('Chromium is in the other room', moved.room === STAGE && moved.state === 'connected');
  check('with those who are there', moved.others.join() === 'carol');
  check('with the tracks that it had', moved.tracks.length === 2 && moved.tracks.join() === tracks.join());
  check('and nothing was interrupted', moved.seen.join() === 'moved');
  await until('those whom it left see it leave', () => !ben.remoteParticipants.has('ana'), LIMIT_MS);
  const left = await api.listParticipants(LOBBY);
  check('the server API finds it where it is', left.length === 1 && (await api.getParticipant(STAGE, 'ana')).tracks.length === 2);

  // Requests of after the move reach the new room, and so does a resume, with the token of the move.
  await ana.evaluate(() => window.__zynk.room.localParticipant.setMicrophoneEnabled(false));
  const muted = () => carol.evaluate(() => [...window.__zynk.room.remoteParticipants.get('ana').audioTrackPublications.values()][0].isMuted);
  await until('the other room sees it mute', muted, LIMIT_MS);
  await ana.evaluate(() => window.__zynk.room.localParticipant.setMicrophoneEnabled(true));
  await ana.evaluate(() => {
    window.resumed = new Promise((resolve) => window.__zynk.room.once('reconnected', resolve));
    return window.__zynk.room.simulateScenario('signal-reconnect');
  });
  await ana.evaluate(() => window.resumed);
  const resumed = await stateOf(ana);
  check('it resumes in the other room', resumed.room === STAGE && resumed.others.join() === 'carol');
  check('without starting over', resumed.seen.join() === 'moved,signalReconnecting');

  const dora = await join(LOBBY, 'dora', { dual: true });
  await watch(dora);
  await until('the Node SDK receives the next', () => subscribed.filter((track) => track.startsWith('dora')).length === 2, LIMIT_MS);
  await api.moveParticipant(LOBBY, 'dora', STAGE);
  await untilReceiving(dora, ['ana', 'carol'], LIMIT_MS);
  await untilReceiving(carol, ['ana', 'dora'], LIMIT_MS);
  check('Chromium with two connections moves as well', (await stateOf(dora)).seen.join() === 'moved');

  subscribed.length = 0;
  await api.moveParticipant(LOBBY, 'ben', STAGE);
  await until('the Node SDK receives all of the other room', () => subscribed.length === 6, LIMIT_MS);
  const others = [...ben.remoteParticipants.keys()].sort();
  check('and knows them', others.join() === 'ana,carol,dora' && benSeen.length === 0);
  check('nobody is left', (await api.listParticipants(LOBBY)).length === 0);

  const stranger = await api.moveParticipant(STAGE, 'nobody', LOBBY).catch((error) => error);
  check('who is not there cannot be moved', stranger.code === 'not_found');
});
