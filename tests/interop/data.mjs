// LiveKit's Python SDK, its Node SDK and livekit-client in Chromium, twice: as it is, and as it was before
// calls and short streams changed their form. Each calls each other with small and large payloads, and
// receives texts, bytes and a packet of all others whole.
import { launchChromium } from '../browser/chromium.mjs';
import { until, within } from '../browser/deadline.mjs';
import { accessToken, joinWithSdk, servePage } from '../browser/sdk-page.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';
import { startPeer } from './peer-process.mjs';

const ROOM = 'data';
const LIMIT_MS = 30_000;
// What the first form of a call may carry, and what goes only as a stream of its own.
const SMALL_CALL_BYTES = 15_360;
const LARGE_CALL_BYTES = 102_400;
const REQUEST_PAYLOAD_TOO_LARGE = 1402;
// The first fits into the header of a stream, the last takes five chunks, and is a packet as well.
const STREAM_BYTES = [100, 15_000, 63_000];
const OLD = 'old-chromium';
const PROGRAMS = { python: 'data_participant.py', node: 'data-participant.mjs' };

const startProcess = async (using, server, identity) => {
  const env = { ZYNK_WS: server.ws, ZYNK_TOKEN: await accessToken(server, ROOM, identity) };
  const peer = using(startPeer(PROGRAMS[identity], [identity], env));
  const arrivals = [];
  peer.said((line) => line.arrived && arrivals.push(line) && false).catch(() => {});
  await within(`${identity} in the room`, peer.said((line) => line.there), LIMIT_MS);
  return {
    carryOut: (order) => {
      peer.tell(order);
      const isAnswer = (line) => (order.call ? line.called === order.call && line.bytes === order.bytes : line.sent);
      return peer.said(isAnswer);
    },
    arrivals: () => arrivals,
    finish: peer.finish,
  };
};

const startPage = async (using, server, url, identity, options) => {
  const browser = using(await launchChromium());
  const page = await joinWithSdk(browser, url, server, ROOM, identity, { publish: false, ...options });
  return {
    page,
    carryOut: (order) => page.evaluate((sent) => window.carryOut(sent), order),
    arrivals: () => page.evaluate(() => window.arrivals),
    finish: () => page.evaluate(() => window.__zynk.room.disconnect()),
  };
};

/** Calls of everybody to everybody else, those of one participant one after another. */
const callAll = async (peers, identity) => {
  for (const other of Object.keys(peers).filter((name) => name !== identity)) {
    for (const bytes of [SMALL_CALL_BYTES, LARGE_CALL_BYTES]) {
      const answer = await within(`${identity} calling ${other}`, peers[identity].carryOut({ call: other, bytes }), LIMIT_MS);
      const isRefused = bytes > SMALL_CALL_BYTES && [identity, other].includes(OLD);
      if (isRefused ? answer.code !== REQUEST_PAYLOAD_TOO_LARGE : !answer.right) {
        throw new Error(`${identity} called ${other} with ${bytes} bytes: ${JSON.stringify(answer)}`);
      }
    }
  }
};

const untilArrived = (peers, identity, senders, sizes) =>
  until(
    `all of ${senders} at ${identity}`,
    async () => {
      const arrivals = await peers[identity].arrivals();
      for (const sender of senders) {
        for (const [arrived, bytes] of sizes) {
          const same = arrivals.filter((each) => each.sender === sender && each.arrived === arrived && each.bytes === bytes);
          if (same.length !== 1 || !same[0].whole) throw new Error(`${arrived} of ${bytes} bytes from ${sender}: ${JSON.stringify(same)}`);
        }
      }
      return true;
    },
    LIMIT_MS,
  );

await program(async (using) => {
  const server = serverUnderTest();
  const { url } = using(await servePage());
  // The old one first, so that it sees everybody come.
  const old = await startPage(using, server, url, OLD, { old: true });
  const [chromium, python, node] = await Promise.all([
    startPage(using, server, url, 'chromium'),
    startProcess(using, server, 'python'),
    startProcess(using, server, 'node'),
  ]);
  const peers = { [OLD]: old, chromium, python, node };
  const identities = Object.keys(peers);
  const othersThan = (identity) => identities.filter((other) => other !== identity);
  await until('everybody in the room', () => old.page.evaluate((count) => window.__zynk.room.remoteParticipants.size === count, identities.length - 1), LIMIT_MS);
  await until('everybody at the newest', () => chromium.page.evaluate((count) => window.__zynk.room.remoteParticipants.size === count, identities.length - 1), LIMIT_MS);

  await Promise.all(identities.map((identity) => callAll(peers, identity)));
  console.log('all have called all');

  await Promise.all(identities.map((identity) => within(`the streams of ${identity}`, peers[identity].carryOut({ send: STREAM_BYTES }), LIMIT_MS)));
  const sizes = [...STREAM_BYTES.flatMap((bytes) => [['text', bytes], ['bytes', bytes]]), ['packet', STREAM_BYTES.at(-1)]];
  await Promise.all(identities.map((identity) => untilArrived(peers, identity, othersThan(identity), sizes)));
  console.log('all streams have arrived');

  const { size, messageBytes, announced } = await chromium.page.evaluate(() => window.sendLargest());
  console.log(`the largest message has ${messageBytes} bytes, ${size} of them payload; the server takes ${announced}`);
  if (messageBytes !== 64_000 || announced !== 65_535) throw new Error('the server limits messages');
  await Promise.all(othersThan('chromium').map((identity) => untilArrived(peers, identity, ['chromium'], [['packet', size]])));
  await Promise.all(identities.map((identity) => peers[identity].finish()));
});
