// Two pages of the web client hold a call in Chromium for ten seconds; a third joins later.
import { launchChromium } from './chromium.mjs';
import { until } from './deadline.mjs';
import { firstFrames, followTracks, noteFirstFrames, untilReceiving } from './received-media.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';
import { identitiesOf, joinWithWebClient } from './web-client.mjs';

const ROOM = 'call';
const MEDIA_START_LIMIT_MS = 20_000;
const FOLLOW_MS = 10_000;
const PAUSE_LIMIT_MS = 1000;
// How long it takes is measured by first-frame.mjs; three pages encode and decode on one machine here.
const FIRST_FRAME_LIMIT_MS = 10_000;
// The fake camera gives 20 frames per second; a shared machine may halve that.
const FRAMES_MIN = (FOLLOW_MS / 1000) * 10;

async function join(browser, server, name) {
  const page = await browser.newPage();
  await page.addInitScript(noteFirstFrames);
  await joinWithWebClient(page, server, name, ROOM);
  return page;
}

await program(async (using) => {
  const server = serverUnderTest();
  const browser = using(await launchChromium());
  const ana = await join(browser, server, 'Ana');
  const ben = await join(browser, server, 'Ben');
  const calls = [
    [ana, 'Ana', ['Ben']],
    [ben, 'Ben', ['Ana']],
  ];
  for (const [page, , others] of calls) {
    await untilReceiving(page, await identitiesOf(page, others, MEDIA_START_LIMIT_MS), MEDIA_START_LIMIT_MS);
  }
  const [first] = await firstFrames(ben);
  console.log(`page load to first remote frame: ${first.sinceLoadMs} ms, of which after the click on Join: ${first.sinceClickMs} ms`);

  const followed = await Promise.all(calls.map(([page]) => followTracks(page, FOLLOW_MS)));
  for (const [index, [, name]] of calls.entries()) {
    console.log(`${name} receives ${JSON.stringify(followed[index])}`);
    for (const track of followed[index]) {
      if (track.kind === 'audio') {
        if (!(track.rise > 0)) throw new Error(`${name} hears silence`);
        continue;
      }
      if (track.rise < FRAMES_MIN) throw new Error(`${name} decoded only ${track.rise} frames in ${FOLLOW_MS} ms`);
      if (track.longestPauseMs > PAUSE_LIMIT_MS) throw new Error(`${name}'s picture stood still for ${track.longestPauseMs} ms`);
    }
  }

  const cleo = await join(browser, server, 'Cleo');
  await untilReceiving(cleo, await identitiesOf(cleo, ['Ana', 'Ben'], MEDIA_START_LIMIT_MS), MEDIA_START_LIMIT_MS);
  const frames = await until('both first frames', async () => {
    const found = await firstFrames(cleo);
    return found.length === 2 && found;
  }, MEDIA_START_LIMIT_MS);
  for (const { identity, sinceJoinMs, sinceClickMs, sinceLoadMs } of frames) {
    console.log(
      `third participant: first frame of ${identity} ${sinceJoinMs} ms after connecting to the room, ` +
        `${sinceClickMs} ms after the click on Join, ${sinceLoadMs} ms after page load`,
    );
  }
  const slowest = Math.max(...frames.map(({ sinceJoinMs }) => sinceJoinMs));
  if (slowest >= FIRST_FRAME_LIMIT_MS) throw new Error(`a first frame took ${slowest} ms from connecting to the room`);
  await identitiesOf(ana, ['Ben', 'Cleo'], MEDIA_START_LIMIT_MS);
});
