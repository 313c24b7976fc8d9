// A hundred reliable messages while the sender, and then the receiver, resumes: each arrives once, in order.
// UDP is cut when the sender's signal connection breaks, so that messages are on the way and not there.
import { launchChromium } from './chromium.mjs';
import { until, within } from './deadline.mjs';
import { dropUdp, passUdp } from './firewall.mjs';
import { joinWithSdk, servePage } from './sdk-page.mjs';
import { program, serverUnderTest } from './server-under-test.mjs';

const ROOM = 'resume';
const LIMIT_MS = 20_000;
const MESSAGES = 100;
// Those that the sender hands over after UDP was cut and before it resumes.
const CUT_AT = 30;
const SENDER_RESUMES_AT = 40;
const RECEIVER_RESUMES_AT = 70;

/** Counts what passes the reliable channels, before livekit-client drops what it has seen. */
const countRaw = (page) =>
  page.addInitScript(() => {
    window.raw = { sent: 0, received: 0 };
    const { send } = RTCDataChannel.prototype;
    RTCDataChannel.prototype.send = function (message) {
      if (this.label === '_reliable') window.raw.sent += 1;
      return send.call(this, message);
    };
    const { set } = Object.getOwnPropertyDescriptor(RTCDataChannel.prototype, 'onmessage');
    Object.defineProperty(RTCDataChannel.prototype, 'onmessage', {
      set(handle) {
        set.call(this, (event) => {
          if (this.label === '_reliable') window.raw.received += 1;
          return handle.call(this, event);
        });
      },
    });
  });

const send = (page, first, last) =>
  page.evaluate(
    async ([from, to]) => {
      for (let number = from; number <= to; number += 1) await window.sendData(`${number}`, { reliable: true, topic: 'count' });
    },
    [first, last],
  );

/** Breaks the page's signal connection; `resumed` waits until it has all back. */
async function breakSignal(page) {
  await page.evaluate(() => {
    window.resumes = { begun: 0, done: 0, restarted: 0 };
    const { room } = window.__zynk;
    room.on('signalReconnecting', () => (window.resumes.begun += 1));
    room.on('reconnecting', () => (window.resumes.restarted += 1));
    room.on('reconnected', () => (window.resumes.done += 1));
    return room.simulateScenario('signal-reconnect');
  });
  return {
    resumed: () =>
      until(
        'the resume',
        async () => {
          const resumes = await page.evaluate(() => window.resumes);
          if (resumes.restarted) throw new Error('it began anew instead of resuming');
          return resumes.begun === 1 && resumes.done === 1;
        },
        LIMIT_MS,
      ),
  };
}

await program(async (using) => {
  const server = serverUnderTest();
  const { url } = using(await servePage());
  const join = async (identity, options) => {
    const { context, close } = using(await launchChromium());
    await countRaw(context);
    return joinWithSdk({ newPage: () => context.newPage(), close }, url, server, ROOM, identity, { publish: false, ...options });
  };
  const receiver = await join('receiver', { dual: true });
  const sender = await join('sender');
  const numbers = () => receiver.evaluate(() => window.receivedData().map(({ text }) => Number(text)));
  await until('the sender at the receiver', () => receiver.evaluate(() => window.__zynk.room.remoteParticipants.size), LIMIT_MS);
  const untilReceived = (count) => until(`message ${count}`, async () => (await numbers()).includes(count), LIMIT_MS);

  await send(sender, 1, CUT_AT);
  await untilReceived(CUT_AT);
  dropUdp();
  await send(sender, CUT_AT + 1, SENDER_RESUMES_AT);
  const senderBack = await breakSignal(sender);
  const during = send(sender, SENDER_RESUMES_AT + 1, RECEIVER_RESUMES_AT);
  await senderBack.resumed();
  passUdp();
  await within('sending during the resume', during, LIMIT_MS);
  const receiverBack = await breakSignal(receiver);
  await within('sending to one who resumes', send(sender, RECEIVER_RESUMES_AT + 1, MESSAGES), LIMIT_MS);
  await receiverBack.resumed();
  await untilReceived(MESSAGES);

  const received = await numbers();
  const raw = { sent: await sender.evaluate(() => window.raw.sent), received: await receiver.evaluate(() => window.raw.received) };
  console.log(`received ${received.join(' ')}; ${raw.sent} were sent and ${raw.received} came through the channels`);
  const expected = Array.from({ length: MESSAGES }, (_, index) => index + 1);
  if (received.join() !== expected.join()) throw new Error('messages are lost, repeated or out of order');
  if (raw.sent <= MESSAGES) throw new Error('the sender repeated none: this resume proves nothing');
  if (raw.received !== MESSAGES) throw new Error('the server passed repetitions on');
});
