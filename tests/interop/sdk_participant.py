"""A participant on LiveKit's Python SDK, driven like `sdk-participant.mjs`.

usage: sdk_participant.py IDENTITY OTHER…   (environment: ZYNK_WS, ZYNK_TOKEN; for encryption from end to
end ZYNK_SECRET, and ZYNK_CODEC for another codec than VP8)

Publishes a camera and a microphone and greets everybody with data packets, until standard input
closes. Prints one JSON line for each of the others as soon as their video, their audio and both
kinds of data packet have arrived.
"""

import asyncio
import json
import math
import os
import sys

import numpy as np
from livekit import rtc

WIDTH, HEIGHT, FPS = 640, 360, 15
SAMPLE_RATE, FRAME_MS = 48_000, 10
FRAMES_MIN = 15
# Of 32,767; Opus and jitter buffers leave silence well below.
LOUD = 500
GREETING_INTERVAL_S = 0.5


class Arrivals:
    """What has come from one other participant."""

    def __init__(self) -> None:
        self.video_frames = 0
        self.loud_audio_frames = 0
        self.data = set()
        self.told = False

    def complete(self) -> bool:
        return (
            self.video_frames >= FRAMES_MIN
            and self.loud_audio_frames >= FRAMES_MIN
            and self.data >= {"reliable", "lossy"}
        )


async def send_video(source: rtc.VideoSource) -> None:
    shade = 0
    while True:
        frame = np.full((HEIGHT, WIDTH, 4), shade, dtype=np.uint8)
        frame[:, : WIDTH // 2, 0] = 255 - shade
        source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, frame.tobytes()))
        shade = (shade + 8) % 256
        await asyncio.sleep(1 / FPS)


async def send_audio(source: rtc.AudioSource) -> None:
    samples = SAMPLE_RATE * FRAME_MS // 1000
    phase = 0
    while True:
        times = np.arange(phase, phase + samples) / SAMPLE_RATE
        tone = (8000 * np.sin(2 * math.pi * 440 * times)).astype(np.int16)
        phase += samples
        # Waits while the source's queue is full: this is the clock.
        await source.capture_frame(rtc.AudioFrame(tone.tobytes(), SAMPLE_RATE, 1, samples))


async def count_video(track: rtc.Track, arrivals: Arrivals) -> None:
    async for _ in rtc.VideoStream(track):
        arrivals.video_frames += 1


async def count_audio(track: rtc.Track, arrivals: Arrivals) -> None:
    async for event in rtc.AudioStream(track):
        samples = np.frombuffer(event.frame.data, dtype=np.int16)
        if samples.size and np.abs(samples.astype(np.int32)).max() > LOUD:
            arrivals.loud_audio_frames += 1


async def main() -> None:
    identity, *others = sys.argv[1:]
    arrivals = {other: Arrivals() for other in others}
    tasks = []
    room = rtc.Room()

    @room.on("track_subscribed")
    def on_track(track, _publication, participant):
        count = count_video if track.kind == rtc.TrackKind.KIND_VIDEO else count_audio
        tasks.append(asyncio.create_task(count(track, arrivals[participant.identity])))

    @room.on("data_received")
    def on_data(packet):
        greeting = packet.data.decode()
        if packet.participant and greeting == f"greetings from {packet.participant.identity}":
            arrivals[packet.participant.identity].data.add(packet.topic)

    options = rtc.RoomOptions()
    if secret := os.environ.get("ZYNK_SECRET"):
        keys = rtc.KeyProviderOptions(shared_key=secret.encode())
        options.encryption = rtc.E2EEOptions(key_provider_options=keys)
    await room.connect(os.environ["ZYNK_WS"], os.environ["ZYNK_TOKEN"], options)
    video = rtc.VideoSource(WIDTH, HEIGHT)
    audio = rtc.AudioSource(SAMPLE_RATE, 1)
    camera = rtc.LocalVideoTrack.create_video_track("camera", video)
    microphone = rtc.LocalAudioTrack.create_audio_track("microphone", audio)
    tasks += [asyncio.create_task(send_video(video)), asyncio.create_task(send_audio(audio))]
    await room.local_participant.publish_track(
        camera,
        rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA,
            video_codec=rtc.VideoCodec.Value(os.environ.get("ZYNK_CODEC", "vp8").upper()),
        ),
    )
    await room.local_participant.publish_track(
        microphone, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )

    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not closed.done():
        for reliable, topic in ((True, "reliable"), (False, "lossy")):
            await room.local_participant.publish_data(
                f"greetings from {identity}", reliable=reliable, topic=topic
            )
        for other, arrived in arrivals.items():
            if arrived.complete() and not arrived.told:
                arrived.told = True
                print(json.dumps({"complete": other}), flush=True)
        await asyncio.wait([closed], timeout=GREETING_INTERVAL_S)
    for other, arrived in arrivals.items():
        print(
            json.dumps(
                {
                    "from": other,
                    "video_frames": arrived.video_frames,
                    "loud_audio_frames": arrived.loud_audio_frames,
                    "data": sorted(arrived.data),
                }
            ),
            flush=True,
        )
    for task in tasks:
        task.cancel()
    await room.disconnect()


asyncio.run(main())
