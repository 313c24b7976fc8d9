// A WHIP publisher is seen and heard in Chromium; Chromium is seen and heard by a WHEP player.
import { launchChromium } from '../browser/chromium.mjs';
import { within } from '../browser/deadline.mjs';
import { followTracks, untilReceiving } from '../browser/received-media.mjs';
import { joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';
import { startPeer } from './peer-process.mjs';

const ROOM = 'whip';
const LIMIT_MS = 40_000;

await program(async (using) => {
  const server = serverUnderTest();
  const publisher = using(startPeer('whip_whep.py', ['publish', ROOM, 'whip-publisher']));
  await within('WHIP', publisher.said((line) => line.publishing), LIMIT_MS);

  const served = using(await servePage());
  const browser = using(await launchChromium());
  const page = await joinWithSdk(browser, served.url, server, ROOM, 'chromium');
  await untilReceiving(page, ['whip-publisher'], LIMIT_MS);
  const tracks = await followTracks(page, 2000);
  console.log(`chromium receives ${JSON.stringify(tracks)}`);
  for (const track of tracks) {
    if (!(track.rise > 0)) throw new Error(`the publisher's ${track.kind} has stopped`);
  }

  const player = using(startPeer('whip_whep.py', ['play', ROOM, 'whep-player', 'chromium']));
  await within('decoded video at the WHEP player', player.said((line) => line.video_frames), LIMIT_MS);
  await within('audible audio at the WHEP player', player.said((line) => line.loud_audio_frames), LIMIT_MS);
  await player.finish();
  await publisher.finish();
  await within(
    'the WHIP publisher leaving the room',
    page.evaluate(async () => {
      while (window.__zynk.room.remoteParticipants.has('whip-publisher')) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }),
    LIMIT_MS,
  );
});
