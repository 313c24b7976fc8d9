// Two browsers exchange audio and video in one codec.   codecs.mjs CODEC BROWSER BROWSER
import { launchChromium } from './chromium.mjs';
import { launchFirefox } from './firefox.mjs';
import { followTracks, untilReceiving } from './received-media.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const MEDIA_START_LIMIT_MS = 30_000;
const FOLLOW_MS = 3_000;
// Fake cameras give 20 to 30 frames per second; a shared machine may halve that.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 8;

const LAUNCH = { chromium: launchChromium, firefox: launchFirefox };
const [codec, ...browsers] = process.argv.slice(2);

await program(async (using) => {
  const server = serverUnderTest();
  const page = using(await servePage());
  const identities = browsers.map((name, index) => `${name}-${index}`);
  const pages = [];
  for (const [index, name] of browsers.entries()) {
    const browser = using(await LAUNCH[name]());
    pages.push(await joinWithSdk(browser, page.url, server, `codec-${codec}`, identities[index], { codec }));
  }
  for (const [index, receiver] of pages.entries()) {
    const others = identities.filter((_, other) => other !== index);
    await untilReceiving(receiver, others, MEDIA_START_LIMIT_MS);
    const tracks = await followTracks(receiver, FOLLOW_MS);
    console.log(`${identities[index]} receives ${JSON.stringify(tracks)}`);
    for (const track of tracks) {
      if (track.kind === 'video') {
        if (track.codec?.toLowerCase() !== `video/${codec}`) throw new Error(`video is ${track.codec}, not ${codec}`);
        if (track.rise < FRAMES_MIN) throw new Error(`only ${track.rise} frames in ${FOLLOW_MS} ms`);
      } else if (!(track.rise > 0)) {
        throw new Error('the audio is silent');
      }
    }
  }
});
