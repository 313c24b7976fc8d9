// Chromium in a network where UDP does not pass: it never did, and then it stops in the middle of a call.
//   fallback.mjs publisher|viewer single|dual     who is there, with one connection for both directions or two
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { farNetwork } from './far-network.mjs';
import { followTracks, receivedTracks, transports, untilReceiving } from './received-media.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const LIMIT_MS = 20_000;
const FOLLOW_MS = 7_000;
// The server notices after 1.2 s, and the candidates of the restart come before those of the path that is gone.
const PAUSE_LIMIT_MS = 3_000;
// A call of this many pictures is under way.
const FRAMES_BEFORE = 60;
const FRAMES_AFTER = 10;

const [whoIsFar, mode] = process.argv.slice(2);

const untilOver = (page, protocol) =>
  until(
    `a path over ${protocol}`,
    async () => {
      const used = await transports(page);
      if (!used.length || used.some((other) => other !== protocol)) throw new Error(`uses ${used}`);
      return true;
    },
    LIMIT_MS,
  );

const untilFrames = (page, frames) =>
  until(
    `${frames} pictures`,
    async () => (await receivedTracks(page)).some((track) => track.kind === 'video' && track.framesDecoded >= frames),
    LIMIT_MS,
  );

/** Notes when the page reconnects, and how. */
const noteReconnections = (page) =>
  page.evaluate(() => {
    const start = performance.now();
    window.reconnections = [];
    for (const event of ['signalReconnecting', 'reconnecting', 'reconnected', 'disconnected']) {
      window.__zynk.room.on(event, () => window.reconnections.push(`${event} after ${Math.round(performance.now() - start)} ms`));
    }
  });

await program(async (using) => {
  const server = serverUnderTest();
  const far = using(farNetwork());
  const here = using(await servePage());
  const there = using(await servePage(far.near));
  const farServer = { ...server, ws: server.ws.replace('127.0.0.1', far.near) };
  const farBrowser = using(
    await launchChromium({
      executablePath: far.executable,
      args: [`--unsafely-treat-insecure-origin-as-secure=${there.url.slice(0, -1)}`],
    }),
  );
  const nearBrowser = using(await launchChromium());
  const join = (room, identity) => {
    const isFar = identity === whoIsFar;
    const options = { dual: mode === 'dual', publish: identity === 'publisher' };
    return joinWithSdk(isFar ? farBrowser : nearBrowser, (isFar ? there : here).url, isFar ? farServer : server, room, identity, options);
  };
  /** The viewer's page and the one that is far. */
  const call = async (room) => {
    const pages = { publisher: await join(room, 'publisher'), viewer: await join(room, 'viewer') };
    await untilReceiving(pages.viewer, ['publisher'], LIMIT_MS);
    return pages;
  };

  far.dropUdp();
  const without = await call('without-udp');
  await untilOver(without[whoIsFar], 'tcp');
  console.log('without UDP media flows over TCP');
  await Promise.all(Object.values(without).map((page) => page.close()));
  far.passUdp();

  const { viewer, ...others } = await call('fallback');
  const cut = { viewer, ...others }[whoIsFar];
  await untilFrames(viewer, FRAMES_BEFORE);
  await untilOver(cut, 'udp');
  await noteReconnections(cut);
  const following = followTracks(viewer, FOLLOW_MS);
  far.dropUdp();
  const video = (await following).find(({ kind }) => kind === 'video');
  const reconnections = await cut.evaluate(() => window.reconnections);
  console.log(`UDP of the ${whoIsFar} is cut: ${JSON.stringify(video)}; ${reconnections.join(', ')}`);
  await untilOver(cut, 'tcp');
  if (!reconnections[0]?.startsWith('signalReconnecting')) throw new Error('it did not resume');
  if (video.rise < FRAMES_AFTER) throw new Error(`only ${video.rise} frames came`);
  if (video.longestPauseMs > PAUSE_LIMIT_MS) throw new Error(`the picture stood for ${video.longestPauseMs} ms`);
});
