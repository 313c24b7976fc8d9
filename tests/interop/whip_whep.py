"""aiortc as a WHIP publisher (RFC 9725) and a WHEP player.

usage: whip_whep.py publish ROOM IDENTITY
       whip_whep.py play ROOM IDENTITY [PUBLISHER]     only that publisher's tracks
       whip_whep.py both ROOM                          one of each, in one process

(environment: ZYNK_URL, ZYNK_API_KEY, ZYNK_API_SECRET)

`publish` sends until standard input closes. `play` and `both` end, with 0, when enough decoded video
and audible audio has arrived. Progress is printed as JSON lines.
"""

import asyncio
import fractions
import json
import os
import sys
from urllib.parse import urljoin

import aiohttp
import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from livekit import api

URL = os.environ["ZYNK_URL"]
WIDTH, HEIGHT = 320, 240
SAMPLE_RATE, FRAME_SAMPLES = 48_000, 960
FRAMES_MIN = 30
LOUD = 500
LIMIT_S = 30


def say(**line) -> None:
    print(json.dumps(line), flush=True)


def access_token(room: str, identity: str, publish: bool) -> str:
    grants = api.VideoGrants(
        room_join=True, room=room, can_publish=publish, can_subscribe=not publish
    )
    return api.AccessToken().with_identity(identity).with_grants(grants).to_jwt()


class Stripes(VideoStreamTrack):
    """A bright left half, a dark right half: what a player has to see again."""

    async def recv(self) -> av.VideoFrame:
        pts, time_base = await self.next_timestamp()
        pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[:, : WIDTH // 2] = 235
        pixels[:, WIDTH // 2 :] = 16 + (pts // 3000) % 8
        frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(AudioStreamTrack):
    """440 Hz."""

    def __init__(self) -> None:
        super().__init__()
        self._samples = 0
        self._start = asyncio.get_running_loop().time()

    async def recv(self) -> av.AudioFrame:
        due = self._start + self._samples / SAMPLE_RATE
        await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
        times = (np.arange(FRAME_SAMPLES) + self._samples) / SAMPLE_RATE
        tone = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._samples
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self._samples += FRAME_SAMPLES
        return frame


class Session:
    """One WHIP or WHEP resource: made by POST, ended by DELETE."""

    def __init__(self, http: aiohttp.ClientSession, connection: RTCPeerConnection, token: str) -> None:
        self._http, self._connection = http, connection
        self._headers = {"Authorization": f"Bearer {token}"}
        self._resource = ""

    async def open(self, endpoint: str) -> None:
        connected = asyncio.get_running_loop().create_future()

        @self._connection.on("connectionstatechange")
        def on_change() -> None:
            state = self._connection.connectionState
            if state == "connected" and not connected.done():
                connected.set_result(None)
            if state == "failed" and not connected.done():
                connected.set_exception(RuntimeError(f"the connection to {endpoint} failed"))

        await self._connection.setLocalDescription(await self._connection.createOffer())
        async with self._http.post(
            urljoin(URL, endpoint),
            data=self._connection.localDescription.sdp,
            headers={**self._headers, "Content-Type": "application/sdp"},
        ) as response:
            body = await response.text()
            if response.status != 201:
                raise RuntimeError(f"POST {endpoint}: {response.status} {body}")
            if response.content_type != "application/sdp":
                raise RuntimeError(f"the answer is {response.content_type}")
            if not response.headers.get("ETag"):
                raise RuntimeError("the answer has no ETag")
            self._resource = urljoin(str(response.url), response.headers["Location"])
        await self._connection.setRemoteDescription(RTCSessionDescription(body, "answer"))
        await asyncio.wait_for(connected, LIMIT_S)

    async def close(self) -> None:
        if self._resource:
            async with self._http.delete(self._resource, headers=self._headers) as response:
                if response.status != 200:
                    raise RuntimeError(f"DELETE: {response.status} {await response.text()}")
            async with self._http.delete(self._resource, headers=self._headers) as response:
                if response.status != 404:
                    raise RuntimeError(f"the session is gone, yet DELETE says {response.status}")
        await self._connection.close()


async def publish(http: aiohttp.ClientSession, room: str, identity: str) -> Session:
    connection = RTCPeerConnection()
    connection.addTransceiver(Tone(), direction="sendonly")
    connection.addTransceiver(Stripes(), direction="sendonly")
    session = Session(http, connection, access_token(room, identity, publish=True))
    await session.open(f"/whip/{room}")
    say(publishing=identity)
    return session


async def watch(track: MediaStreamTrack, stripes: bool) -> None:
    """Returns when enough video was decoded, showing the stripes if they are expected."""
    frames = 0
    while frames < FRAMES_MIN:
        frame = await track.recv()
        if stripes:
            grey = frame.to_ndarray(format="gray")
            left, right = grey[:, : grey.shape[1] // 2].mean(), grey[:, grey.shape[1] // 2 :].mean()
            if not (left > 180 and right < 60):
                raise RuntimeError(f"the picture is wrong: {left} left, {right} right")
        frames += 1
    say(video_frames=frames, width=frame.width, height=frame.height)


async def listen(track: MediaStreamTrack) -> None:
    """Returns when enough audible audio was decoded."""
    loud = 0
    while loud < FRAMES_MIN:
        frame = await track.recv()
        loud += int(np.abs(frame.to_ndarray().astype(np.int32)).max() > LOUD)
    say(loud_audio_frames=loud)


async def play(http: aiohttp.ClientSession, room: str, identity: str, publisher: str | None, stripes: bool) -> None:
    connection = RTCPeerConnection()
    video = connection.addTransceiver("video", direction="recvonly").receiver
    audio = connection.addTransceiver("audio", direction="recvonly").receiver
    session = Session(http, connection, access_token(room, identity, publish=False))
    await session.open(f"/whep/{room}" + (f"?participant={publisher}" if publisher else ""))
    say(playing=identity)
    await asyncio.wait_for(asyncio.gather(watch(video.track, stripes), listen(audio.track)), LIMIT_S)
    await session.close()


async def main() -> None:
    mode, room, *rest = sys.argv[1:]
    os.environ.setdefault("LIVEKIT_API_KEY", os.environ["ZYNK_API_KEY"])
    os.environ.setdefault("LIVEKIT_API_SECRET", os.environ["ZYNK_API_SECRET"])
    async with aiohttp.ClientSession() as http:
        if mode == "publish":
            session = await publish(http, room, rest[0])
            await asyncio.to_thread(sys.stdin.read)
            await session.close()
        elif mode == "play":
            await play(http, room, rest[0], rest[1] if len(rest) > 1 else None, stripes=False)
        else:
            session = await publish(http, room, "publisher")
            await play(http, room, "player", None, stripes=True)
            await play(http, room, "follower", "publisher", stripes=True)
            await session.close()


asyncio.run(main())
