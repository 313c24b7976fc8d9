// A participant on LiveKit's Node SDK that exchanges calls and data streams, driven like `data_participant.py`.
//
// usage: data-participant.mjs IDENTITY   (environment: ZYNK_WS, ZYNK_TOKEN)
import { createHash, randomBytes } from 'node:crypto';
import readline from 'node:readline';
import { dispose, Room, RoomEvent, RpcError } from '@livekit/rtc-node';

const LIMIT_MS = 20_000;

const [identity] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const digest = (data) => createHash('sha256').update(data).digest('hex');
// Random, so that compression does not make one chunk of many.
const textOf = (size) => randomBytes(size).toString('base64').slice(0, size);
const reversed = (text) => [...text].reverse().join('');
const report = (arrived, sender, data, expected) =>
  say({ arrived, sender, bytes: data.length, whole: digest(data) === expected });

const room = new Room();
room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic) => report('packet', participant.identity, payload, topic));
room.registerTextStreamHandler('text', async (reader, { identity: sender }) => {
  report('text', sender, Buffer.from(await reader.readAll()), reader.info.attributes.digest);
});
room.registerByteStreamHandler('bytes', async (reader, { identity: sender }) => {
  report('bytes', sender, Buffer.concat(await reader.readAll()), reader.info.attributes.digest);
});
await room.connect(process.env.ZYNK_WS, process.env.ZYNK_TOKEN, { autoSubscribe: true, dynacast: false });
const local = room.localParticipant;
local.registerRpcMethod('reverse', async ({ payload }) => reversed(payload));

async function call(other, size) {
  const payload = textOf(size);
  try {
    const answer = await local.performRpc({ destinationIdentity: other, method: 'reverse', payload, responseTimeout: LIMIT_MS });
    return { right: answer === reversed(payload) };
  } catch (error) {
    if (error instanceof RpcError) return { code: error.code };
    throw error;
  }
}

async function send(size) {
  const text = textOf(size);
  await local.sendText(text, { topic: 'text', attributes: { digest: digest(text) } });
  const data = randomBytes(size);
  const writer = await local.streamBytes({ name: 'bytes', topic: 'bytes', totalSize: size, attributes: { digest: digest(data) } });
  await writer.write(data);
  await writer.close();
}

say({ there: identity });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.call) {
    say({ called: order.call, bytes: order.bytes, ...(await call(order.call, order.bytes)) });
  } else {
    for (const size of order.send) await send(size);
    const packet = randomBytes(order.send.at(-1));
    await local.publishData(packet, { reliable: true, topic: digest(packet) });
    say({ sent: order.send });
  }
}
await room.disconnect();
await dispose();
process.exit(0);
