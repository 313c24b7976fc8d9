// Chromium and LiveKit's Python SDK with encryption from end to end: each decodes the other's video, audio and
// data, and somebody with another secret receives all of it and decodes none.   e2ee.mjs CODEC
import { launchChromium } from '../browser/chromium.mjs';
import { until, within } from '../browser/deadline.mjs';
import { receivedTracks, untilReceiving } from '../browser/received-media.mjs';
import { accessToken, joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';
import { startPeer } from './peer-process.mjs';

const ROOM = 'e2ee';
const SECRET = 'of those who are in the call';
const LIMIT_MS = 30_000;
const PACKETS_MIN = 50;

const [codec] = process.argv.slice(2);

await program(async (using) => {
  const server = serverUnderTest();
  const { url } = using(await servePage());
  const join = async (identity, options) => joinWithSdk(using(await launchChromium()), url, server, ROOM, identity, { codec, ...options });
  const chromium = await join('chromium', { secret: SECRET });
  const env = { ZYNK_WS: server.ws, ZYNK_TOKEN: await accessToken(server, ROOM, 'python'), ZYNK_SECRET: SECRET, ZYNK_CODEC: codec };
  const python = using(startPeer('sdk_participant.py', ['python', 'chromium'], env));
  const stranger = await join('stranger', { secret: 'of somebody else', publish: false });

  let listening = true;
  const greet = async () => {
    while (listening) {
      for (const [topic, reliable] of [['reliable', true], ['lossy', false]]) {
        await chromium.evaluate((options) => window.sendData('greetings from chromium', options), { reliable, topic });
      }
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  };
  const greeting = greet();
  await within('all of Chromium at the Python SDK', python.said((line) => line.complete === 'chromium'), LIMIT_MS);
  listening = false;
  await greeting;
  await untilReceiving(chromium, ['python'], LIMIT_MS);
  await until(
    'data of the Python SDK',
    () => chromium.evaluate(() => window.receivedData().some(({ from, text }) => from === 'python' && text === 'greetings from python')),
    LIMIT_MS,
  );
  const tracks = (await receivedTracks(chromium)).filter(({ identity }) => identity === 'python');
  console.log(`Chromium decodes ${JSON.stringify(tracks)}`);
  const video = tracks.find(({ kind }) => kind === 'video');
  if (video.codec?.toLowerCase() !== `video/${codec}`) throw new Error(`video comes as ${video.codec}`);

  const received = await until(
    'packets at the stranger',
    async () => {
      const videos = (await receivedTracks(stranger)).filter(({ kind }) => kind === 'video');
      if (videos.length !== 2 || videos.some(({ packets }) => packets < PACKETS_MIN)) throw new Error(JSON.stringify(videos));
      return videos;
    },
    LIMIT_MS,
  );
  console.log(`the stranger receives ${JSON.stringify(received)}`);
  if (received.some(({ framesDecoded }) => framesDecoded > 0)) throw new Error('the stranger decodes it');
  if ((await stranger.evaluate(() => window.receivedData())).length) throw new Error('the stranger reads data');
  await python.finish();
});
