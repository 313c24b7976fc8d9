"""LiveKit's Python server SDK against the server API, and its webhook receiver against our webhooks.

usage: server_api.py WEBHOOK_PORT   (environment: ZYNK_URL, ZYNK_API_KEY, ZYNK_API_SECRET)

The server is to post its webhooks to that port of the loopback. A participant of LiveKit's realtime
SDK is in the room to see what the calls do.
"""

import asyncio
import contextlib
import inspect
import itertools
import os
import sys

from aiohttp import web
from livekit import api, rtc

URL, KEY, SECRET = (os.environ[f"ZYNK_{name}"] for name in ("URL", "API_KEY", "API_SECRET"))
ROOM = "server-api"
LIMIT_S = 20
# A stream that shows nothing new for so long has stopped: pictures are sent fifteen times a second.
STILL_S = 1


async def until(what: str, condition) -> None:
    """Waits for a condition on this participant's or this receiver's side of things."""
    end = asyncio.get_running_loop().time() + LIMIT_S

    async def holds() -> bool:
        result = condition()
        return await result if inspect.isawaitable(result) else result

    while not await holds():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"waited {LIMIT_S} s until {what}")
        await asyncio.sleep(0.05)
    print(what, flush=True)


def check(what: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(what)
    print(what, flush=True)


async def receive_webhooks(port: int, events: list, refusals: list) -> web.AppRunner:
    receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))

    async def hook(request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        try:
            events.append(receiver.receive(body, request.headers["Authorization"]))
        except Exception as error:  # whatever the SDK finds wrong is what the test reports
            refusals.append(repr(error))
            return web.Response(status=401)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def join(identity: str) -> rtc.Room:
    grants = api.VideoGrants(room_join=True, room=ROOM)
    token = api.AccessToken(KEY, SECRET).with_identity(identity).with_grants(grants).to_jwt()
    room = rtc.Room()
    await room.connect(URL.replace("http", "ws", 1), token)
    return room


async def send_silence(source: rtc.AudioSource) -> None:
    while True:
        await source.capture_frame(rtc.AudioFrame.create(48_000, 1, 480))


async def send_pictures(source: rtc.VideoSource) -> None:
    for shade in itertools.cycle(range(0, 256, 8)):
        source.capture_frame(rtc.VideoFrame(320, 180, rtc.VideoBufferType.RGBA, bytes([shade]) * (320 * 180 * 4)))
        await asyncio.sleep(1 / 15)


async def frames_decoded(room: rtc.Room) -> int:
    """Video frames that the streams of a participant have decoded; 0 without a stream."""
    stats = await room.get_rtc_stats()
    reports = [*stats.publisher_stats, *stats.subscriber_stats]
    return sum(r.inbound_rtp.inbound.frames_decoded for r in reports if r.WhichOneof("stats") == "inbound_rtp")


async def main() -> None:
    events, refusals = [], []
    receiver = await receive_webhooks(int(sys.argv[1]), events, refusals)
    lk = api.LiveKitAPI(URL, KEY, SECRET)

    created = await lk.room.create_room(
        api.CreateRoomRequest(name=ROOM, metadata="first", max_participants=5, empty_timeout=60)
    )
    check("create_room answers the room", created.name == ROOM and created.sid.startswith("RM_"))
    again = await lk.room.create_room(api.CreateRoomRequest(name=ROOM))
    check("create_room of an existing room answers the same", again.sid == created.sid)
    rooms = (await lk.room.list_rooms(api.ListRoomsRequest(names=[ROOM, "no such room"]))).rooms
    check("list_rooms lists it", [(room.sid, room.metadata) for room in rooms] == [(created.sid, "first")])

    room, listener = await join("ana"), await join("ben")
    changes, data, reasons = [], [], []
    room.on("participant_name_changed", lambda *_: changes.append("name"))
    room.on("participant_metadata_changed", lambda *_: changes.append("metadata"))
    room.on("room_metadata_changed", lambda *_: changes.append("room metadata"))
    room.on("data_received", lambda packet: data.append((packet.data, packet.topic)))
    room.on("disconnected", lambda reason: reasons.append(reason))
    subscribed = []
    listener.on("track_subscribed", lambda track, *_: subscribed.append(track.sid))

    async def stands_still() -> bool:
        before = await frames_decoded(listener)
        await asyncio.sleep(STILL_S)
        return await frames_decoded(listener) == before

    async def sees(frames: int) -> bool:
        return await frames_decoded(listener) > frames

    source, pictures = rtc.AudioSource(48_000, 1), rtc.VideoSource(320, 180)
    sending = asyncio.gather(send_silence(source), send_pictures(pictures))
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    publication = await room.local_participant.publish_track(
        track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )
    camera = await room.local_participant.publish_track(
        rtc.LocalVideoTrack.create_video_track("camera", pictures),
        rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=False),
    )
    heard = lambda: listener.remote_participants["ana"].track_publications.get(publication.sid)
    await until("the listener is subscribed", lambda: heard() is not None and heard().subscribed)
    await until("and sees pictures", lambda: sees(5))

    listed = (await lk.room.list_participants(api.ListParticipantsRequest(room=ROOM))).participants
    check("list_participants lists both", sorted(p.identity for p in listed) == ["ana", "ben"])
    ana = api.RoomParticipantIdentity(room=ROOM, identity="ana")
    found = await lk.room.get_participant(ana)
    check(
        "get_participant knows the tracks",
        {t.sid: t.source for t in found.tracks}
        == {publication.sid: api.TrackSource.MICROPHONE, camera.sid: api.TrackSource.CAMERA},
    )

    muted = await lk.room.mute_published_track(
        api.MuteRoomTrackRequest(room=ROOM, identity="ana", track_sid=publication.sid, muted=True)
    )
    check("mute_published_track answers the track, muted", muted.track.sid == publication.sid and muted.track.muted)
    await until("the listener sees it muted", lambda: heard().muted)
    await until("the publisher is muted", lambda: publication.muted)

    updated = await lk.room.update_participant(
        api.UpdateParticipantRequest(
            room=ROOM, identity="ana", name="Ana", metadata="second", attributes={"hand": "raised"}
        )
    )
    check("update_participant answers the participant", (updated.name, updated.metadata) == ("Ana", "second"))
    await until("the participant learns of it", lambda: {"name", "metadata"} <= set(changes))
    await until("with its attributes", lambda: room.local_participant.attributes.get("hand") == "raised")

    changed = await lk.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=ROOM, metadata="third"))
    check("update_room_metadata answers the room", changed.metadata == "third")
    await until("the participant learns of that", lambda: "room metadata" in changes and room.metadata == "third")

    await lk.room.send_data(
        api.SendDataRequest(
            room=ROOM, data=b"to ana", kind=0, destination_identities=["ana"], topic="notice"
        )
    )
    await until("send_data arrives", lambda: (b"to ana", "notice") in data)

    subscriptions = {"room": ROOM, "identity": "ben", "track_sids": [camera.sid]}
    await lk.room.update_subscriptions(api.UpdateSubscriptionsRequest(subscribe=False, **subscriptions))
    # LiveKit's native core does not tell of a subscription that the server ends before there is a new one.
    await until("update_subscriptions unsubscribes", stands_still)
    before = await frames_decoded(listener)
    await lk.room.update_subscriptions(api.UpdateSubscriptionsRequest(subscribe=True, **subscriptions))
    await until("and subscribes", lambda: subscribed.count(camera.sid) == 2)
    await until("and pictures come again", lambda: sees(before + 5))

    await lk.room.remove_participant(ana)
    await until("remove_participant ends the session", lambda: bool(reasons))
    check("as removed", reasons[0] == rtc.DisconnectReason.PARTICIPANT_REMOVED)
    await until("the other sees it leave", lambda: "ana" not in listener.remote_participants)
    try:
        await lk.room.get_participant(ana)
    except api.TwirpError as error:
        check("get_participant of one who left is not_found", (error.code, error.status) == ("not_found", 404))
    else:
        raise AssertionError("get_participant of one who left succeeds")

    await lk.room.delete_room(api.DeleteRoomRequest(room=ROOM))
    rooms = (await lk.room.list_rooms(api.ListRoomsRequest(names=[ROOM]))).rooms
    check("delete_room deletes", not rooms)

    expected = {
        "room_started",
        "participant_joined",
        "track_published",
        "track_unpublished",
        "participant_left",
        "room_finished",
    }
    await until("all webhooks have arrived and been accepted", lambda: expected <= {e.event for e in events})
    check(f"none was refused: {refusals}", not refusals)
    joined = next(e for e in events if e.event == "participant_joined")
    check("a webhook names room and participant", joined.room.name == ROOM and joined.participant.identity in ("ana", "ben"))

    stranger = api.LiveKitAPI(URL, KEY, "not the secret, but as long as one")
    try:
        await stranger.room.list_rooms(api.ListRoomsRequest())
    except api.TwirpError as error:
        check("a foreign token is refused", error.status == 401)
    else:
        raise AssertionError("a foreign token is accepted")

    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    await listener.disconnect()
    await stranger.aclose()
    await lk.aclose()
    await receiver.cleanup()


asyncio.run(asyncio.wait_for(main(), 90))
