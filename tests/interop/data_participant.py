"""A participant on LiveKit's Python SDK that exchanges calls and data streams, driven like `data-participant.mjs`.

usage: data_participant.py IDENTITY   (environment: ZYNK_WS, ZYNK_TOKEN)

Prints one JSON line when it is there, one for each stream or large packet that arrives, and one for each
order that it has carried out. Orders are JSON lines on standard input, which ends it when it closes:
`{"call", "bytes"}`: calls `reverse` of that participant; `{"send": [bytes, …]}`: sends a text and a byte
stream of each size, and one data packet of the last.
"""

import asyncio
import hashlib
import json
import os
import random
import string
import sys

from livekit import rtc

LIMIT_S = 20


def say(**line) -> None:
    print(json.dumps(line), flush=True)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text_of(size: int) -> str:
    # Random, so that compression does not make one chunk of many.
    return "".join(random.choices(string.ascii_letters + string.digits, k=size))


def report(kind: str, sender: str, data: bytes, expected: str) -> None:
    say(arrived=kind, sender=sender, bytes=len(data), whole=digest(data) == expected)


async def read_text(reader: rtc.TextStreamReader, sender: str) -> None:
    text = await reader.read_all()
    report("text", sender, text.encode(), reader.info.attributes["digest"])


async def read_bytes(reader: rtc.ByteStreamReader, sender: str) -> None:
    data = b"".join([chunk async for chunk in reader])
    report("bytes", sender, data, reader.info.attributes["digest"])


async def call(local: rtc.LocalParticipant, other: str, size: int) -> dict:
    payload = text_of(size)
    try:
        answer = await local.perform_rpc(
            destination_identity=other, method="reverse", payload=payload, response_timeout=LIMIT_S
        )
    except rtc.RpcError as error:
        return {"code": error.code}
    return {"right": answer == payload[::-1]}


async def send(local: rtc.LocalParticipant, size: int) -> None:
    text, data = text_of(size), random.randbytes(size)
    await local.send_text(text, topic="text", attributes={"digest": digest(text.encode())})
    writer = await local.stream_bytes("bytes", topic="bytes", total_size=size, attributes={"digest": digest(data)})
    await writer.write(data)
    await writer.aclose()


async def main() -> None:
    (identity,) = sys.argv[1:]
    room = rtc.Room()
    tasks = set()

    def spawn(work) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    @room.on("data_received")
    def on_data(packet):
        report("packet", packet.participant.identity, packet.data, packet.topic)

    room.register_text_stream_handler("text", lambda reader, sender: spawn(read_text(reader, sender)))
    room.register_byte_stream_handler("bytes", lambda reader, sender: spawn(read_bytes(reader, sender)))
    await room.connect(os.environ["ZYNK_WS"], os.environ["ZYNK_TOKEN"])
    local = room.local_participant

    @local.register_rpc_method("reverse")
    async def reverse(invocation: rtc.RpcInvocationData) -> str:
        return invocation.payload[::-1]

    say(there=identity)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        if "call" in order:
            say(called=order["call"], bytes=order["bytes"], **await call(local, order["call"], order["bytes"]))
        else:
            for size in order["send"]:
                await send(local, size)
            packet = random.randbytes(order["send"][-1])
            await local.publish_data(packet, reliable=True, topic=digest(packet))
            say(sent=order["send"])
    await room.disconnect()


asyncio.run(main())
