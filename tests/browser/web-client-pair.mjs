// The web client in Chromium and in Firefox, in one room.
import { launchChromium } from './chromium.mjs';
import { launchFirefox } from './firefox.mjs';
import { followTracks, untilReceiving } from './received-media.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';
import { identitiesOf, joinWithWebClient } from './web-client.mjs';

const ROOM = 'pair';
const MEDIA_START_LIMIT_MS = 30_000;
const FOLLOW_MS = 3_000;

await program(async (using) => {
  const server = serverUnderTest();
  const names = ['Chromium', 'Firefox'];
  const browsers = [using(await launchChromium()), using(await launchFirefox())];
  const pages = [];
  for (const [index, browser] of browsers.entries()) {
    const page = await browser.newPage();
    await joinWithWebClient(page, server, names[index], ROOM);
    pages.push(page);
  }
  for (const [index, page] of pages.entries()) {
    const others = await identitiesOf(page, names.filter((_, other) => other !== index), MEDIA_START_LIMIT_MS);
    await untilReceiving(page, others, MEDIA_START_LIMIT_MS);
    const tracks = await followTracks(page, FOLLOW_MS);
    console.log(`${names[index]} receives ${JSON.stringify(tracks)}`);
    for (const track of tracks) {
      if (!(track.rise > 0)) throw new Error(`${track.kind} has stopped`);
    }
  }
});
