"""Two peers of aiortc that reach each other through relayed addresses alone.

usage: turn_relay.py URL USER PASSWORD     e.g. turn:127.0.0.1:3478?transport=tcp

Ends with 0 when decoded audio and messages have come through in both directions. For `turns:` the variable
SSL_CERT_FILE names the certificate to trust.
"""

import asyncio
import json
import sys

import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
)
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack

LIMIT_S = 40
MESSAGES = 100
AUDIO_FRAMES_MIN = 50


def say(**line) -> None:
    print(json.dumps(line), flush=True)


class Tone(AudioStreamTrack):
    """Something louder than the silence of its parent."""

    async def recv(self):
        frame = await super().recv()
        samples = np.arange(frame.samples) + frame.pts
        tone = (8000 * np.sin(2 * np.pi * 440 * samples / frame.sample_rate)).astype(np.int16)
        frame.planes[0].update(tone.tobytes())
        return frame


class Peer:
    """A connection that sends a tone, and says when it has heard one and got all messages."""

    def __init__(self, name: str, server: RTCIceServer) -> None:
        self.name = name
        self.connection = RTCPeerConnection(
            RTCConfiguration(iceServers=[server], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
        )
        loop = asyncio.get_running_loop()
        self.heard, self.told = loop.create_future(), loop.create_future()
        self.messages: list[str] = []
        self.connection.addTrack(Tone())

        @self.connection.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            self.listening = asyncio.create_task(self.listen(track))

        @self.connection.on("datachannel")
        def on_channel(channel) -> None:
            self.use(channel)
            self.send(channel)

        @self.connection.on("connectionstatechange")
        def on_change() -> None:
            say(peer=self.name, state=self.connection.connectionState)
            if self.connection.connectionState == "failed":
                for future in (self.heard, self.told):
                    if not future.done():
                        future.set_exception(RuntimeError(f"{self.name}'s connection failed"))

    def open_channel(self) -> None:
        channel = self.connection.createDataChannel("through the relay")
        self.use(channel)
        channel.on("open", lambda: self.send(channel))

    def use(self, channel) -> None:
        @channel.on("message")
        def on_message(message: str) -> None:
            self.messages.append(message)
            if len(self.messages) == MESSAGES:
                self.told.set_result(None)

    def send(self, channel) -> None:
        for number in range(MESSAGES):
            channel.send(f"{self.name} {number} " + "x" * (number * 10))

    async def listen(self, track: MediaStreamTrack) -> None:
        loud = 0
        while loud < AUDIO_FRAMES_MIN:
            frame = await track.recv()
            loud += int(np.abs(frame.to_ndarray().astype(np.int32)).max() > 500)
        self.heard.set_result(None)

    def check_candidates(self) -> None:
        lines = self.connection.localDescription.sdp.splitlines()
        candidates = [line for line in lines if line.startswith("a=candidate:")]
        say(peer=self.name, candidates=candidates)
        if not candidates or not all(" typ relay " in f"{line} " for line in candidates):
            raise RuntimeError(f"{self.name} is to have relayed candidates and no others: {candidates}")


async def main() -> None:
    url, user, password = sys.argv[1:]
    server = RTCIceServer(urls=url, username=user, credential=password)
    alice, bob = Peer("alice", server), Peer("bob", server)
    alice.open_channel()
    await alice.connection.setLocalDescription(await alice.connection.createOffer())
    alice.check_candidates()
    await bob.connection.setRemoteDescription(alice.connection.localDescription)
    await bob.connection.setLocalDescription(await bob.connection.createAnswer())
    bob.check_candidates()
    await alice.connection.setRemoteDescription(bob.connection.localDescription)
    done = asyncio.gather(alice.heard, alice.told, bob.heard, bob.told)
    await asyncio.wait_for(done, LIMIT_S)
    for peer, other in ((alice, "bob"), (bob, "alice")):
        if peer.messages != [f"{other} {number} " + "x" * (number * 10) for number in range(MESSAGES)]:
            raise RuntimeError(f"{peer.name} got other messages than {other} sent")
    await asyncio.gather(alice.connection.close(), bob.connection.close())


asyncio.run(main())
