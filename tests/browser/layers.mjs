// A viewer goes down and up again among the layers of a video.   layers.mjs CODEC SCALABILITY_MODE|simulcast [PUBLISHER VIEWER]
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { launchFirefox } from './firefox.mjs';
import { followTracks, receivedTracks, untilReceiving } from './received-media.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const WIDTH = 1280;
const HEIGHT = 720;
const MEDIA_START_LIMIT_MS = 30_000;
// The sender's estimate of its bandwidth starts low: it adds its upper layers as it rises.
const TOP_LAYER_LIMIT_MS = 45_000;
const SWITCH_LIMIT_MS = 10_000;
const FOLLOW_MS = 3_000;
const PAUSE_LIMIT_MS = 1_000;
// Encoding three layers takes more of a shared machine than it may have.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 5;

const PUBLISHER = 'publisher';
const LAUNCH = { chromium: launchChromium, firefox: launchFirefox };
const [codec, layers, publisherBrowser = 'chromium', viewerBrowser = 'chromium'] = process.argv.slice(2);
const scalabilityMode = layers === 'simulcast' ? undefined : layers;
const room = `layers-${codec}-${layers}`;

const camera = async (page) => (await receivedTracks(page)).find(({ kind }) => kind === 'video');

/** Waits until pictures of `width` come; a lower layer's width may be rounded by the encoder. */
const untilWidth = (page, width, limitMs) =>
  until(
    `pictures ${width} wide`,
    async () => {
      const track = await camera(page);
      if (Math.abs(track.frameWidth - width) > width / 8) throw new Error(`receives ${JSON.stringify(track)}`);
      return track;
    },
    limitMs,
  );

/** Asserts that pictures go on while `change` happens and after it. */
async function withoutPause(page, what, change) {
  const following = followTracks(page, FOLLOW_MS);
  await change();
  const video = (await following).find(({ kind }) => kind === 'video');
  console.log(`${what}: ${JSON.stringify(video)}`);
  if (video.codec?.toLowerCase() !== `video/${codec}`) throw new Error(`${what}: video is ${video.codec}`);
  if (video.rise < FRAMES_MIN) throw new Error(`${what}: only ${video.rise} frames in ${FOLLOW_MS} ms`);
  if (video.longestPauseMs > PAUSE_LIMIT_MS) throw new Error(`${what}: the picture stood for ${video.longestPauseMs} ms`);
}

await program(async (using) => {
  const server = serverUnderTest();
  const served = using(await servePage());
  const options = { codec, scalabilityMode, width: WIDTH, height: HEIGHT };
  await joinWithSdk(using(await LAUNCH[publisherBrowser]()), served.url, server, room, PUBLISHER, options);
  const viewer = await joinWithSdk(using(await LAUNCH[viewerBrowser]()), served.url, server, room, 'viewer', { publish: false });
  await untilReceiving(viewer, [PUBLISHER], MEDIA_START_LIMIT_MS);
  const choose = (quality) => viewer.evaluate((args) => window.setVideoQuality(...args), [PUBLISHER, quality]);

  await untilWidth(viewer, WIDTH, TOP_LAYER_LIMIT_MS);
  for (const [quality, width] of [['LOW', WIDTH / 4], ['HIGH', WIDTH], ['MEDIUM', WIDTH / 2], ['LOW', WIDTH / 4], ['HIGH', WIDTH]]) {
    await withoutPause(viewer, quality, async () => {
      await choose(quality);
      await untilWidth(viewer, width, SWITCH_LIMIT_MS);
    });
    await untilWidth(viewer, width, SWITCH_LIMIT_MS);
  }
  const { lost, packets } = await camera(viewer);
  console.log(`${packets} packets received, ${lost} lost`);
  if (lost > packets / 100) throw new Error(`${lost} of ${packets} packets are missing`);
});
