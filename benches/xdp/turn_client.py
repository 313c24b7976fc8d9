"""As much of a TURN client as a channel needs (RFC 8656, RFC 8489)."""

import contextlib
import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass

CHANNEL = 0x4001
USER, PASSWORD = "alice", "wonderland"
COOKIE = 0x2112A442
ALLOCATE, REFRESH, CHANNEL_BIND = 0x003, 0x004, 0x009
REQUESTED_TRANSPORT, XOR_RELAYED_ADDRESS = 0x0019, 0x0016
CHANNEL_NUMBER, XOR_PEER_ADDRESS = 0x000C, 0x0012
USERNAME, MESSAGE_INTEGRITY, REALM, NONCE = 0x0006, 0x0008, 0x0014, 0x0015
INTEGRITY_BYTES = 24
UDP = 17
TRIES = 20


class Refused(Exception):
    """The server's answer to a STUN request is an error; holds its attributes."""


@dataclass
class Turn:
    """A client's allocation at one server (RFC 8656), and what signs its requests (RFC 8489 section 9.2)."""

    client: socket.socket
    server: tuple[str, int]
    realm: bytes = b""
    nonce: bytes = b""
    relayed: tuple[str, int] = ("", 0)

    def allocate(self) -> None:
        answer = self.ask(ALLOCATE, attribute(REQUESTED_TRANSPORT, bytes([UDP, 0, 0, 0])))
        port, address = struct.unpack("!xxHI", answer[XOR_RELAYED_ADDRESS])
        self.relayed = (socket.inet_ntoa(struct.pack("!I", address ^ COOKIE)), port ^ COOKIE >> 16)

    def bind(self, peer: tuple[str, int]) -> None:
        """Also keeps the channel, its permission and the allocation from ending."""
        (address,) = struct.unpack("!I", socket.inet_aton(peer[0]))
        channel = attribute(CHANNEL_NUMBER, struct.pack("!HH", CHANNEL, 0))
        mapped = struct.pack("!BBHI", 0, 1, peer[1] ^ COOKIE >> 16, address ^ COOKIE)
        self.ask(CHANNEL_BIND, channel + attribute(XOR_PEER_ADDRESS, mapped))
        self.ask(REFRESH, b"")

    def ask(self, method: int, body: bytes) -> dict[int, bytes]:
        """The first is refused, for want of the server's realm and nonce or of a new nonce."""
        try:
            return self.try_once(method, body)
        except Refused as refused:
            (answer,) = refused.args
            if NONCE not in answer:
                raise
            self.realm, self.nonce = answer.get(REALM, self.realm), answer[NONCE]
            return self.try_once(method, body)

    def try_once(self, method: int, body: bytes) -> dict[int, bytes]:
        transaction = os.urandom(12)
        if self.nonce:
            body += attribute(USERNAME, USER.encode()) + attribute(REALM, self.realm) + attribute(NONCE, self.nonce)
        # The HMAC is of all before it, and of a length that counts it in.
        length = len(body) + (INTEGRITY_BYTES if self.nonce else 0)
        message = struct.pack("!HHI", method, length, COOKIE) + transaction + body
        if self.nonce:
            key = hashlib.md5(f"{USER}:{self.realm.decode()}:{PASSWORD}".encode()).digest()
            message += attribute(MESSAGE_INTEGRITY, hmac.digest(key, message, "sha1"))
        for _ in range(TRIES):
            self.client.sendto(message, self.server)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while True:
                    answer, source = self.client.recvfrom(2048)
                    if source == self.server and answer[8:20] == transaction:
                        break
                attributes = parse_attributes(answer[20:])
                if answer[0] & 1 and answer[1] & 0x10:
                    raise Refused(attributes)
                return attributes
        raise TimeoutError(f"no answer from {self.server}")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    while len(data) >= 4:
        kind, length = struct.unpack("!HH", data[:4])
        attributes[kind] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]
    return attributes
