// Calls and data streams of the page's participant, as `tests/interop/data_participant.py` has them.
const { RoomEvent, RpcError } = window.LivekitClient;

const LIMIT_MS = 20_000;
const RANDOM_BYTES_AT_ONCE = 65_536;

window.arrivals = [];

const encode = (text) => new TextEncoder().encode(text);
const reversed = (text) => [...text].reverse().join('');

async function digest(data) {
  const hash = await crypto.subtle.digest('SHA-256', data);
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function bytesOf(size) {
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += RANDOM_BYTES_AT_ONCE) crypto.getRandomValues(data.subarray(at, at + RANDOM_BYTES_AT_ONCE));
  return data;
}

// Random, so that compression does not make one chunk of many.
const textOf = (size) => Array.from(bytesOf(size), (byte) => String.fromCharCode(97 + (byte % 26))).join('');

const report = async (arrived, sender, data, expected) =>
  window.arrivals.push({ arrived, sender, bytes: data.length, whole: (await digest(data)) === expected });

/** To be called before the room is connected. */
window.exchangeData = (room) => {
  room.registerRpcMethod('reverse', async ({ payload }) => reversed(payload));
  room.registerTextStreamHandler('text', async (reader, { identity }) => {
    await report('text', identity, encode(await reader.readAll()), reader.info.attributes.digest);
  });
  room.registerByteStreamHandler('bytes', async (reader, { identity }) => {
    const data = await new Blob(await reader.readAll()).arrayBuffer();
    await report('bytes', identity, new Uint8Array(data), reader.info.attributes.digest);
  });
  room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic) => report('packet', participant?.identity, payload, topic));
};

async function call(local, other, size) {
  const payload = textOf(size);
  try {
    const answer = await local.performRpc({ destinationIdentity: other, method: 'reverse', payload, responseTimeout: LIMIT_MS });
    return { right: answer === reversed(payload) };
  } catch (error) {
    if (error instanceof RpcError) return { code: error.code };
    throw error;
  }
}

async function send(local, size) {
  const text = textOf(size);
  await local.sendText(text, { topic: 'text', attributes: { digest: await digest(encode(text)) } });
  const data = bytesOf(size);
  const writer = await local.streamBytes({ name: 'bytes', topic: 'bytes', totalSize: size, attributes: { digest: await digest(data) } });
  await writer.write(data);
  await writer.close();
}

window.carryOut = async (order) => {
  const local = window.__zynk.room.localParticipant;
  if (order.call) return { called: order.call, bytes: order.bytes, ...(await call(local, order.call, order.bytes)) };
  for (const size of order.send) await send(local, size);
  const packet = bytesOf(order.send.at(-1));
  await local.publishData(packet, { reliable: true, topic: await digest(packet) });
  return { sent: order.send };
};

/** Sends the largest packet that livekit-client lets pass and says how large it is, with all its headers. */
window.sendLargest = async () => {
  const { localParticipant, engine } = window.__zynk.room;
  let messageBytes;
  const send = RTCDataChannel.prototype.send;
  RTCDataChannel.prototype.send = function (message) {
    messageBytes = message.byteLength;
    return send.call(this, message);
  };
  for (let size = 64_000; ; size -= 1) {
    const packet = bytesOf(size);
    try {
      await localParticipant.publishData(packet, { reliable: true, topic: await digest(packet) });
    } catch {
      continue;
    }
    RTCDataChannel.prototype.send = send;
    return { size, messageBytes, announced: engine.pcManager.getMaxPublisherMessageSize() };
  }
};
