// Chromium sends VP9 with VP8 as its backup codec; aiortc, which has no VP9, plays it through WHEP.
//   backup-codec.mjs simulcast     a viewer that decodes VP9 stays with it
//   backup-codec.mjs regression    everybody goes over to VP8
import { launchChromium } from '../browser/chromium.mjs';
import { until, within } from '../browser/deadline.mjs';
import { followTracks, receivedTracks, untilReceiving } from '../browser/received-media.mjs';
import { joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';
import { startPeer } from './peer-process.mjs';

const POLICIES = { simulcast: { number: 1, after: 'video/VP9' }, regression: { number: 0, after: 'video/VP8' } };
const PUBLISHER = 'publisher';
const LIMIT_MS = 40_000;
const FOLLOW_MS = 2_000;

const [policyName] = process.argv.slice(2);
const policy = POLICIES[policyName];
const room = `backup-${policyName}`;

const untilCodec = (page, codec) =>
  until(
    `pictures in ${codec}`,
    async () => {
      const video = (await receivedTracks(page)).find(({ kind }) => kind === 'video');
      if (video?.codec !== codec) throw new Error(`receives ${JSON.stringify(video)}`);
      return video;
    },
    LIMIT_MS,
  );

/** Codecs in which the page sends pictures now. */
const sentCodecs = (page) =>
  page.evaluate(async () => {
    const codecs = new Set();
    for (const { sender } of window.__zynk.room.engine.pcManager.publisher.getTransceivers()) {
      const report = await sender.getStats();
      report.forEach((entry) => {
        if (entry.type === 'outbound-rtp' && entry.kind === 'video' && entry.active && entry.framesSent > 0) {
          codecs.add(report.get(entry.codecId)?.mimeType);
        }
      });
    }
    return [...codecs].sort();
  });

const untilSending = (page, codecs) =>
  until(
    `sending ${codecs}`,
    async () => {
      const sent = await sentCodecs(page);
      if (sent.join() !== codecs.join()) throw new Error(`sends ${sent}`);
      return sent;
    },
    LIMIT_MS,
  );

await program(async (using) => {
  const server = serverUnderTest();
  const served = using(await servePage());
  const options = { codec: 'vp9', backupCodec: 'vp8', backupCodecPolicy: policy.number };
  const publisher = await joinWithSdk(using(await launchChromium()), served.url, server, room, PUBLISHER, options);
  const viewer = await joinWithSdk(using(await launchChromium()), served.url, server, room, 'viewer', { publish: false });
  await untilReceiving(viewer, [PUBLISHER], LIMIT_MS);
  await untilCodec(viewer, 'video/VP9');
  await untilSending(publisher, ['video/VP9']);

  const player = using(startPeer('whip_whep.py', ['play', room, 'whep-player', PUBLISHER]));
  await within('decoded video at the WHEP player', player.said((line) => line.video_frames), LIMIT_MS);
  await within('audible audio at the WHEP player', player.said((line) => line.loud_audio_frames), LIMIT_MS);
  await untilCodec(viewer, policy.after);
  const [video] = (await followTracks(viewer, FOLLOW_MS)).filter(({ kind }) => kind === 'video');
  console.log(`the viewer receives ${JSON.stringify(video)}`);
  if (!(video.rise > 0)) throw new Error('the viewer sees nothing more');
  await player.finish();
  // Nobody needs the other codec any more: its encoder rests.
  await untilSending(publisher, [policy.after]);
});
