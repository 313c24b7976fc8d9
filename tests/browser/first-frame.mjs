// How soon joiners see a running video.   first-frame.mjs [JOINERS]
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { firstFrames, noteFirstFrames, untilReceiving } from './received-media.mjs';
import { accessToken, joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const ROOM = 'first-frame';
const PUBLISHER = 'publisher';
const MEDIA_START_LIMIT_MS = 30_000;
// What a joiner waits for at most, on a machine that decodes, encodes and serves at the same time.
const FIRST_FRAME_LIMIT_MS = 10_000;

const joiners = Number(process.argv[2] ?? 10);

async function join(browser, server, url, identity) {
  const page = await browser.newPage();
  await page.addInitScript(noteFirstFrames);
  await page.goto(url);
  const token = await accessToken(server, ROOM, identity);
  await page.evaluate((options) => window.join(options), { url: server.ws, token, publish: false });
  const [frame] = await until('the first frame', async () => {
    const frames = await firstFrames(page);
    return frames.length > 0 && frames;
  }, FIRST_FRAME_LIMIT_MS);
  await page.close();
  return frame.sinceJoinMs;
}

await program(async (using) => {
  const server = serverUnderTest();
  const served = using(await servePage());
  await joinWithSdk(using(await launchChromium()), served.url, server, ROOM, PUBLISHER);
  const browser = using(await launchChromium());
  const audience = await joinWithSdk(browser, served.url, server, ROOM, 'audience', { publish: false });
  await untilReceiving(audience, [PUBLISHER], MEDIA_START_LIMIT_MS);
  const times = [];
  for (let index = 0; index < joiners; index += 1) {
    times.push(await join(browser, server, served.url, `joiner-${index}`));
  }
  times.sort((a, b) => a - b);
  const percentile = (percent) => times[Math.min(times.length - 1, Math.floor((times.length * percent) / 100))];
  console.log(`first frame after connecting to the room: p50 ${percentile(50)} ms, p95 ${percentile(95)} ms of ${times.join(', ')}`);
});
