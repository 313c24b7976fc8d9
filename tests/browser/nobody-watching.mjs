// A publisher's video stops while nobody watches, and comes back with a viewer.
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { receivedTracks } from './received-media.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const ROOM = 'nobody-watching';
const PUBLISHER = 'publisher';
const START_LIMIT_MS = 20_000;
const STOPS_IN_MS = 5_000;
const QUIET_KBPS = 20;
const MEASURED_MS = 2_000;
// It takes tens of milliseconds; machines that run this may be busy.
const RETURN_LIMIT_MS = 5_000;

async function kbps(page, durationMs) {
  const read = () => page.evaluate(async () => [await window.videoBytesSent(), performance.now()]);
  const [before, from] = await read();
  await page.waitForTimeout(durationMs);
  const [after, to] = await read();
  return ((after - before) * 8) / (to - from);
}

async function untilQuiet(page, what, since) {
  await until(
    `the video to stop ${what}`,
    async () => {
      const rate = await kbps(page, 500);
      if (rate >= QUIET_KBPS) throw new Error(`sends ${rate.toFixed(0)} kbit/s`);
      return true;
    },
    STOPS_IN_MS + 1_000,
  );
  const after = Date.now() - since;
  const rate = await kbps(page, MEASURED_MS);
  console.log(`${what}: under ${QUIET_KBPS} kbit/s within ${after} ms, ${rate.toFixed(1)} kbit/s from then on`);
  if (rate >= QUIET_KBPS) throw new Error(`${what}: ${rate} kbit/s are still sent`);
}

/** Milliseconds from asking for the video to its first new frame. */
async function untilFrames(page, viewer) {
  const decoded = async () => (await receivedTracks(viewer)).find(({ kind }) => kind === 'video')?.framesDecoded ?? 0;
  const asked = Date.now();
  await viewer.evaluate((publisher) => window.subscribe(publisher, true), PUBLISHER);
  await until('a frame', decoded, RETURN_LIMIT_MS);
  const took = Date.now() - asked;
  const rate = await kbps(page, MEASURED_MS);
  console.log(`with a viewer: first frame ${took} ms after asking for it, ${rate.toFixed(0)} kbit/s`);
  if (rate < 5 * QUIET_KBPS) throw new Error(`${rate} kbit/s are no video`);
}

await program(async (using) => {
  const server = serverUnderTest();
  const served = using(await servePage());
  const publisher = await joinWithSdk(using(await launchChromium()), served.url, server, ROOM, PUBLISHER, { dynacast: true });
  const published = Date.now();
  await untilQuiet(publisher, 'alone from the start', published);

  const viewer = await joinWithSdk(using(await launchChromium()), served.url, server, ROOM, 'viewer', { publish: false, autoSubscribe: false });
  await until('the publication', () => viewer.evaluate((identity) => window.__zynk.room.remoteParticipants.get(identity)?.videoTrackPublications.size, PUBLISHER), START_LIMIT_MS);
  for (const round of [1, 2]) {
    await untilFrames(publisher, viewer);
    const left = Date.now();
    await viewer.evaluate((identity) => window.subscribe(identity, false), PUBLISHER);
    await untilQuiet(publisher, `after viewer ${round} left`, left);
  }
});
