// A participant on LiveKit's Node SDK, driven like `sdk_participant.py`.
//
// usage: sdk-participant.mjs IDENTITY OTHER…   (environment: ZYNK_WS, ZYNK_TOKEN)
//
// Publishes a camera and a microphone and greets everybody with data packets, until standard input
// closes. Prints one JSON line for each of the others as soon as their video, their audio and both
// kinds of data packet have arrived.
import {
  AudioFrame,
  AudioSource,
  AudioStream,
  dispose,
  LocalAudioTrack,
  LocalVideoTrack,
  Room,
  RoomEvent,
  TrackKind,
  TrackPublishOptions,
  TrackSource,
  VideoBufferType,
  VideoFrame,
  VideoSource,
  VideoStream,
} from '@livekit/rtc-node';

const [WIDTH, HEIGHT, FPS] = [640, 360, 15];
const [SAMPLE_RATE, FRAME_MS] = [48_000, 10];
const FRAMES_MIN = 15;
// Of 32,767; Opus and jitter buffers leave silence well below.
const LOUD = 500;
const GREETING_INTERVAL_MS = 500;

const [identity, ...others] = process.argv.slice(2);
const arrivals = new Map(
  others.map((other) => [other, { videoFrames: 0, loudAudioFrames: 0, data: new Set(), told: false }]),
);
const complete = ({ videoFrames, loudAudioFrames, data }) =>
  videoFrames >= FRAMES_MIN && loudAudioFrames >= FRAMES_MIN && data.has('reliable') && data.has('lossy');

let leaving = false;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function sendVideo(source) {
  for (let shade = 0; !leaving; shade = (shade + 8) % 256) {
    const data = new Uint8Array(WIDTH * HEIGHT * 4).fill(shade);
    data.fill(255 - shade, 0, data.length / 2);
    source.captureFrame(new VideoFrame(data, WIDTH, HEIGHT, VideoBufferType.RGBA));
    await pause(1000 / FPS);
  }
}

async function sendAudio(source) {
  const samples = (SAMPLE_RATE * FRAME_MS) / 1000;
  for (let phase = 0; !leaving; phase += samples) {
    const tone = Int16Array.from({ length: samples }, (_, i) => 8000 * Math.sin((2 * Math.PI * 440 * (phase + i)) / SAMPLE_RATE));
    // Waits while the source's queue is full: this is the clock.
    await source.captureFrame(new AudioFrame(tone, SAMPLE_RATE, 1, samples));
  }
}

async function countVideo(track, arrived) {
  for await (const _ of new VideoStream(track)) arrived.videoFrames += 1;
}

async function countAudio(track, arrived) {
  for await (const frame of new AudioStream(track)) {
    if (frame.data.some((sample) => Math.abs(sample) > LOUD)) arrived.loudAudioFrames += 1;
  }
}

const room = new Room();
room.on(RoomEvent.TrackSubscribed, (track, _publication, participant) => {
  const arrived = arrivals.get(participant.identity);
  if (track.kind === TrackKind.KIND_VIDEO) countVideo(track, arrived);
  else countAudio(track, arrived);
});
room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic) => {
  if (participant && new TextDecoder().decode(payload) === `greetings from ${participant.identity}`) {
    arrivals.get(participant.identity).data.add(topic);
  }
});

await room.connect(process.env.ZYNK_WS, process.env.ZYNK_TOKEN, { autoSubscribe: true, dynacast: false });
const video = new VideoSource(WIDTH, HEIGHT);
const audio = new AudioSource(SAMPLE_RATE, 1);
const sending = [sendVideo(video), sendAudio(audio)];
await room.localParticipant.publishTrack(
  LocalVideoTrack.createVideoTrack('camera', video),
  new TrackPublishOptions({ source: TrackSource.SOURCE_CAMERA }),
);
await room.localParticipant.publishTrack(
  LocalAudioTrack.createAudioTrack('microphone', audio),
  new TrackPublishOptions({ source: TrackSource.SOURCE_MICROPHONE }),
);

process.stdin.resume();
process.stdin.on('end', () => {
  leaving = true;
});
const greeting = new TextEncoder().encode(`greetings from ${identity}`);
while (!leaving) {
  await room.localParticipant.publishData(greeting, { reliable: true, topic: 'reliable' });
  await room.localParticipant.publishData(greeting, { reliable: false, topic: 'lossy' });
  for (const [other, arrived] of arrivals) {
    if (complete(arrived) && !arrived.told) {
      arrived.told = true;
      console.log(JSON.stringify({ complete: other }));
    }
  }
  await pause(GREETING_INTERVAL_MS);
}
for (const [other, { videoFrames, loudAudioFrames, data }] of arrivals) {
  console.log(JSON.stringify({ from: other, videoFrames, loudAudioFrames, data: [...data] }));
}
await Promise.allSettled(sending);
await room.disconnect();
await dispose();
process.exit(0);
