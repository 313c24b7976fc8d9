// LiveKit's Python SDK, its Node SDK and Chromium in one room: each receives the audio, the video and
// the reliable and lossy data packets of both others.
import { launchChromium } from '../browser/chromium.mjs';
import { until, within } from '../browser/deadline.mjs';
import { untilReceiving } from '../browser/received-media.mjs';
import { accessToken, joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';
import { startPeer } from './peer-process.mjs';

const ROOM = 'sdks';
const LIMIT_MS = 60_000;
const PROGRAMS = { python: 'sdk_participant.py', node: 'sdk-participant.mjs' };
const IDENTITIES = ['python', 'node', 'chromium'];
const othersThan = (identity) => IDENTITIES.filter((other) => other !== identity);

await program(async (using) => {
  const server = serverUnderTest();
  const peers = {};
  for (const [identity, file] of Object.entries(PROGRAMS)) {
    const env = { ZYNK_WS: server.ws, ZYNK_TOKEN: await accessToken(server, ROOM, identity) };
    peers[identity] = using(startPeer(file, [identity, ...othersThan(identity)], env));
  }
  const served = using(await servePage());
  const browser = using(await launchChromium());
  const page = await joinWithSdk(browser, served.url, server, ROOM, 'chromium');

  const chromium = async () => {
    await untilReceiving(page, othersThan('chromium'), LIMIT_MS);
    const data = await until(
      'greetings of both SDKs',
      async () => {
        const received = await page.evaluate(() => window.receivedData());
        const has = (from, topic) =>
          received.some((packet) => packet.from === from && packet.topic === topic && packet.text === `greetings from ${from}`);
        return othersThan('chromium').every((from) => has(from, 'reliable') && has(from, 'lossy')) && received.length;
      },
      LIMIT_MS,
    );
    console.log(`chromium receives audio and video of both, and ${data} data packets`);
  };
  let listening = true;
  const greet = async () => {
    while (listening) {
      await page.evaluate(() => window.sendData('greetings from chromium', { reliable: true, topic: 'reliable' }));
      await page.evaluate(() => window.sendData('greetings from chromium', { reliable: false, topic: 'lossy' }));
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  };
  const greeting = greet();
  const sdk = (identity) =>
    Promise.all(
      othersThan(identity).map((other) =>
        within(`all of ${other} at ${identity}`, peers[identity].said((line) => line.complete === other), LIMIT_MS),
      ),
    );
  const results = await Promise.allSettled([chromium(), sdk('python'), sdk('node')]);
  listening = false;
  await greeting;
  // Their last words say what each has received, which explains a failure.
  const endings = await Promise.allSettled([peers.python.finish(), peers.node.finish()]);
  for (const result of [...results, ...endings]) {
    if (result.status === 'rejected') throw result.reason;
  }
});
