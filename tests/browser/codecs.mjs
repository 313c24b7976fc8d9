// Two browsers exchange audio and video in one codec.   codecs.mjs CODEC BROWSER BROWSER
import { launchChromium } from './chromium.mjs';
import { launchFirefox } from './firefox.mjs';
import { followTracks, untilReceiving } from './received-media.mjs';
import { accessToken, joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const MEDIA_START_LIMIT_MS = 30_000;
const FOLLOW_MS = 3_000;
// Fake cameras give 20 to 30 frames per second; a shared machine may halve that.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 8;

const LAUNCH = { chromium: launchChromium, firefox: launchFirefox };
const [codec, ...browsers] = process.argv.slice(2);

const room = `codec-${codec}`;

/** In Firefox livekit-client publishes VP8 whatever it is told: other codecs go through WHIP there. */
const publishesBesideSdk = (name) => name === 'firefox' && codec !== 'vp8';

/** Joins and publishes; returns the page, and the identity that publishes. */
async function join(browser, name, index, pageUrl, server) {
  const identity = `${name}-${index}`;
  if (!publishesBesideSdk(name)) {
    return { page: await joinWithSdk(browser, pageUrl, server, room, identity, { codec }), publisher: identity };
  }
  const page = await joinWithSdk(browser, pageUrl, server, room, identity, { publish: false });
  const publisher = `${identity}-whip`;
  const token = await accessToken(server, room, publisher);
  await page.evaluate((whip) => window.publishWhip(whip), { endpoint: `${server.http}/whip/${room}`, token, codec });
  return { page, publisher };
}

await program(async (using) => {
  const server = serverUnderTest();
  const served = using(await servePage());
  const participants = [];
  for (const [index, name] of browsers.entries()) {
    participants.push(await join(using(await LAUNCH[name]()), name, index, served.url, server));
  }
  for (const participant of participants) {
    const receiver = participant.page;
    const others = participants.filter((other) => other !== participant).map(({ publisher }) => publisher);
    await untilReceiving(receiver, others, MEDIA_START_LIMIT_MS);
    const tracks = (await followTracks(receiver, FOLLOW_MS)).filter(({ identity }) => others.includes(identity));
    console.log(`${browsers.join(' with ')}: ${others} received as ${JSON.stringify(tracks)}`);
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
