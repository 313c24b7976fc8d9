// LiveKit's Node server SDK against the server API, and its webhook receiver against our webhooks.
//
// usage: server-api.mjs WEBHOOK_PORT
//
// The server is to post its webhooks to that port of the loopback. Participants of LiveKit's Node
// realtime SDK are in the room to see what the calls do.
import http from 'node:http';
import {
  AudioFrame,
  AudioSource,
  DisconnectReason,
  dispose,
  LocalAudioTrack,
  LocalVideoTrack,
  Room,
  RoomEvent,
  TrackPublishOptions,
  TrackSource,
  VideoBufferType,
  VideoFrame,
  VideoSource,
} from '@livekit/rtc-node';
import { AccessToken, DataPacket_Kind, RoomServiceClient, WebhookReceiver } from 'livekit-server-sdk';
import { until } from '../browser/deadline.mjs';
import { program, serverUnderTest } from '../browser/server-under-test.mjs';

const ROOM = 'server-api';
const LIMIT_MS = 20_000;
// A stream that shows nothing new for so long has stopped: pictures are sent fifteen times a second.
const STILL_MS = 1000;
const webhookPort = Number(process.argv[2]);
const server = serverUnderTest();

function check(what, holds) {
  if (!holds) throw new Error(`does not hold: ${what}`);
  console.log(what);
}

async function eventually(what, condition) {
  await until(what, condition, LIMIT_MS);
  console.log(what);
}

/** Listens for webhooks; `events` are those that LiveKit's receiver accepts, `refusals` its errors. */
async function receiveWebhooks() {
  const receiver = new WebhookReceiver(server.key, server.secret);
  const events = [];
  const refusals = [];
  const listener = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    try {
      events.push(await receiver.receive(Buffer.concat(chunks).toString(), request.headers.authorization));
      response.writeHead(200).end();
    } catch (error) {
      refusals.push(String(error));
      response.writeHead(401).end();
    }
  });
  await new Promise((resolve) => listener.listen(webhookPort, '127.0.0.1', resolve));
  return { events, refusals, close: () => listener.close() };
}

/** Video frames that the streams of a participant have decoded; 0 without a stream. */
async function framesDecoded(room) {
  const { publisherStats, subscriberStats } = await room.getRtcStats();
  return [...publisherStats, ...subscriberStats].reduce(
    (sum, { stats }) => sum + (stats.case === 'inboundRtp' ? (stats.value.inbound?.framesDecoded ?? 0) : 0),
    0,
  );
}

async function standsStill(room) {
  const before = await framesDecoded(room);
  await new Promise((resolve) => setTimeout(resolve, STILL_MS));
  return (await framesDecoded(room)) === before;
}

async function join(identity) {
  const token = new AccessToken(server.key, server.secret, { identity });
  token.addGrant({ roomJoin: true, room: ROOM });
  const room = new Room();
  await room.connect(server.ws, await token.toJwt(), { autoSubscribe: true, dynacast: false });
  return { room, close: () => room.disconnect() };
}

await program(async (using) => {
  // Opened first, so closed last: the native side ends after the rooms it holds.
  using({ close: () => dispose() });
  const webhooks = using(await receiveWebhooks());
  const api = new RoomServiceClient(server.http, server.key, server.secret);

  const created = await api.createRoom({ name: ROOM, metadata: 'first', maxParticipants: 5, emptyTimeout: 60 });
  check('createRoom answers the room', created.name === ROOM && created.sid.startsWith('RM_'));
  check('createRoom of an existing room answers the same', (await api.createRoom({ name: ROOM })).sid === created.sid);
  const rooms = await api.listRooms([ROOM, 'no such room']);
  check('listRooms lists it', rooms.length === 1 && rooms[0].sid === created.sid && rooms[0].metadata === 'first');

  const ana = using(await join('ana')).room;
  const ben = using(await join('ben')).room;
  const changes = new Set();
  const data = [];
  let reason;
  ana.on(RoomEvent.ParticipantNameChanged, () => changes.add('name'));
  ana.on(RoomEvent.ParticipantMetadataChanged, () => changes.add('metadata'));
  ana.on(RoomEvent.RoomMetadataChanged, () => changes.add('room metadata'));
  ana.on(RoomEvent.DataReceived, (payload, _participant, _kind, topic) => data.push(`${topic}: ${new TextDecoder().decode(payload)}`));
  ana.on(RoomEvent.Disconnected, (why) => {
    reason = why;
  });
  const subscribed = [];
  ben.on(RoomEvent.TrackSubscribed, (track) => subscribed.push(track.sid));
  const source = new AudioSource(48_000, 1);
  const publication = await ana.localParticipant.publishTrack(
    LocalAudioTrack.createAudioTrack('microphone', source),
    new TrackPublishOptions({ source: TrackSource.SOURCE_MICROPHONE }),
  );
  const pictures = new VideoSource(320, 180);
  const camera = await ana.localParticipant.publishTrack(
    LocalVideoTrack.createVideoTrack('camera', pictures),
    new TrackPublishOptions({ source: TrackSource.SOURCE_CAMERA, simulcast: false }),
  );
  let sending = true;
  const sendAudio = async () => {
    while (sending) await source.captureFrame(AudioFrame.create(48_000, 1, 480));
  };
  const sendPictures = async () => {
    for (let shade = 0; sending; shade = (shade + 8) % 256) {
      pictures.captureFrame(new VideoFrame(new Uint8Array(320 * 180 * 4).fill(shade), 320, 180, VideoBufferType.RGBA));
      await new Promise((resolve) => setTimeout(resolve, 1000 / 15));
    }
  };
  const sent = Promise.all([sendAudio(), sendPictures()]);
  const heard = () => ben.remoteParticipants.get('ana')?.trackPublications.get(publication.sid);
  await eventually('the listener is subscribed', () => heard()?.subscribed);
  await eventually('and sees pictures', async () => (await framesDecoded(ben)) > 5);

  const listed = await api.listParticipants(ROOM);
  check('listParticipants lists both', listed.map(({ identity }) => identity).sort().join() === 'ana,ben');
  const found = await api.getParticipant(ROOM, 'ana');
  const sids = [publication.sid, camera.sid].sort().join();
  check('getParticipant knows the tracks', found.tracks.map(({ sid }) => sid).sort().join() === sids);

  const muted = await api.mutePublishedTrack(ROOM, 'ana', publication.sid, true);
  check('mutePublishedTrack answers the track, muted', muted.sid === publication.sid && muted.muted);
  await eventually('the listener sees it muted', () => heard().muted);
  await eventually('the publisher is muted', () => publication.muted);

  const updated = await api.updateParticipant(ROOM, 'ana', { name: 'Ana', metadata: 'second', attributes: { hand: 'raised' } });
  check('updateParticipant answers the participant', updated.name === 'Ana' && updated.metadata === 'second');
  await eventually('the participant learns of it', () => changes.has('name') && changes.has('metadata'));
  await eventually('with its attributes', () => ana.localParticipant.attributes.hand === 'raised');

  check('updateRoomMetadata answers the room', (await api.updateRoomMetadata(ROOM, 'third')).metadata === 'third');
  await eventually('the participant learns of that', () => changes.has('room metadata') && ana.metadata === 'third');

  await api.sendData(ROOM, new TextEncoder().encode('to ana'), DataPacket_Kind.RELIABLE, { destinationIdentities: ['ana'], topic: 'notice' });
  await eventually('sendData arrives', () => data.includes('notice: to ana'));

  await api.updateSubscriptions(ROOM, 'ben', [camera.sid], false);
  // LiveKit's native core does not tell of a subscription that the server ends before there is a new one.
  await eventually('updateSubscriptions unsubscribes', () => standsStill(ben));
  const before = await framesDecoded(ben);
  await api.updateSubscriptions(ROOM, 'ben', [camera.sid], true);
  await eventually('and subscribes', () => subscribed.filter((sid) => sid === camera.sid).length === 2);
  await eventually('and pictures come again', async () => (await framesDecoded(ben)) > before + 5);

  sending = false;
  await sent;
  await api.removeParticipant(ROOM, 'ana');
  await eventually('removeParticipant ends the session', () => reason !== undefined);
  check('as removed', reason === DisconnectReason.PARTICIPANT_REMOVED);
  await eventually('the other sees it leave', () => !ben.remoteParticipants.has('ana'));
  const missing = await api.getParticipant(ROOM, 'ana').catch((error) => error);
  check('getParticipant of one who left is not_found', missing.code === 'not_found' && missing.status === 404);

  await api.deleteRoom(ROOM);
  check('deleteRoom deletes', (await api.listRooms([ROOM])).length === 0);

  const expected = ['room_started', 'participant_joined', 'track_published', 'track_unpublished', 'participant_left', 'room_finished'];
  await eventually('all webhooks have arrived and been accepted', () =>
    expected.every((name) => webhooks.events.some(({ event }) => event === name)),
  );
  check(`none was refused: ${webhooks.refusals}`, webhooks.refusals.length === 0);
  const joined = webhooks.events.find(({ event }) => event === 'participant_joined');
  check('a webhook names room and participant', joined.room.name === ROOM && ['ana', 'ben'].includes(joined.participant.identity));

  const stranger = new RoomServiceClient(server.http, server.key, 'not the secret, but as long as one');
  const refused = await stranger.listRooms().catch((error) => error);
  check('a foreign token is refused', refused.status === 401);
});
