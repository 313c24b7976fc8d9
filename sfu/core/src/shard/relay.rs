//! The shard's part in rooms that are spread over several shards: what it wants of the others, and what they want of it.
//!
//! ```text
//!   subscription to a track that is not here ─► ask ─► Want to all siblings          receivers_changed ─► Flow
//!   Started ─► start_relayed ─► a track like others, whose origin is the sibling     forgo ─► Unwant
//!   packets ─► take_relayed ─► forward_track
//! ```
//! Wants go to all siblings because no shard knows who has a track, or will have it: the one that does answers.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rustc_hash::FxHashMap;
use zynk_protocol::{BackupUse, RoomSid, TrackSid};

use super::{Shard, TrackKey};
use crate::{
    RelayBatch, ShardIndex,
    connection::MediaPacket,
    media::receiver::{LAYERS_MAX, LayerActivity},
    relay::{RelayEntry, RelayWord, RelayedTrack, TrackLink},
    track::{Encoding, Origin, PublisherClock, RelayOrigin, Track},
};

/// A batch that has grown so large is closed, and another begun: a shell's queue counts batches.
const BATCH_BYTES: usize = 64 * 1024;
/// Tracks of one room that siblings may want of this shard; further wishes are not heard, and their subscriptions wait.
/// More than the tracks that a room of ten thousand has.
pub(super) const WANTS_MAX: usize = 32 * 1024;

/// Rooms that other shards have a share of, and what is to be said to those.
#[derive(Debug, Default)]
pub(super) struct Relay {
    rooms: FxHashMap<RoomSid, Spread>,
    /// Tracks that siblings were asked for, as long as there are subscriptions to them.
    asked: FxHashMap<TrackSid, RoomSid>,
    /// Tracks of other shards, by what those call them.
    links: FxHashMap<(ShardIndex, TrackLink), TrackKey>,
    outgoing: VecDeque<(ShardIndex, RelayBatch)>,
}

/// A room that is spread.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// The other shards that have a share of it.
    siblings: Vec<ShardIndex>,
    /// Who of them wants which track of this one, be it there or not.
    pub(super) wants: FxHashMap<TrackSid, Vec<ShardIndex>>,
}

impl Relay {
    /// Tracks of other shards.
    pub(super) fn tracks(&self) -> usize {
        self.links.len()
    }

    /// The next batch to hand over.
    pub(super) fn next(&mut self) -> Option<(ShardIndex, RelayBatch)> {
        self.outgoing.pop_front()
    }

    /// Adds a publisher's packet to what is sent to those who receive it.
    pub(super) fn push(&mut self, key: TrackKey, track: &Track, encoding: usize, packet: &MediaPacket<'_>) {
        let (Some(link), Ok(encoding)) = (link_of(key, track), u8::try_from(encoding)) else { return };
        for to in &track.relays {
            if let Some(batch) = self.batch_to(*to) {
                batch.push(link, encoding, packet);
            }
        }
    }

    /// Passes on that somebody needs a keyframe.
    pub(super) fn want_keyframe(&mut self, origin: &RelayOrigin, encoding: usize, sent_before: Duration) {
        let Ok(encoding) = u8::try_from(encoding) else { return };
        self.say(origin.shard, RelayWord::Keyframe { link: origin.link, encoding, sent_before });
    }

    /// The room is closed.
    pub(super) fn forget_room(&mut self, room: &RoomSid) {
        self.rooms.remove(room);
        self.asked.retain(|_, asked_in| asked_in != room);
    }

    fn say(&mut self, to: ShardIndex, word: RelayWord) {
        if let Some(batch) = self.batch_to(to) {
            batch.say(word);
        }
    }

    /// The batch that goes on growing.
    fn batch_to(&mut self, to: ShardIndex) -> Option<&mut RelayBatch> {
        let last = self.outgoing.iter().rposition(|(shard, _)| *shard == to);
        let has_room = |(_, batch): &(_, RelayBatch)| batch.bytes() < BATCH_BYTES;
        let open = last.filter(|index| self.outgoing.get(*index).is_some_and(has_room));
        let index = open.unwrap_or(self.outgoing.len());
        if open.is_none() {
            self.outgoing.push_back((to, RelayBatch::default()));
        }
        self.outgoing.get_mut(index).map(|(_, batch)| batch)
    }

    fn siblings(&self, room: &RoomSid) -> Vec<ShardIndex> {
        self.rooms.get(room).map(|spread| spread.siblings.clone()).unwrap_or_default()
    }

    fn is_sibling(&self, room: &RoomSid, shard: ShardIndex) -> bool {
        self.rooms.get(room).is_some_and(|spread| spread.siblings.contains(&shard))
    }

    /// What a sibling wants of this shard.
    fn wanted_by(&self, room: &RoomSid, sibling: ShardIndex) -> Vec<TrackSid> {
        let wants = self.rooms.get(room).into_iter().flat_map(|spread| &spread.wants);
        wants.filter(|(_, wanting)| wanting.contains(&sibling)).map(|(track, _)| track.clone()).collect()
    }

    /// Who wants a track of this shard.
    fn wanting(&self, room: &RoomSid, track: &TrackSid) -> &[ShardIndex] {
        let wants = self.rooms.get(room).and_then(|spread| spread.wants.get(track));
        wants.map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
impl Relay {
    pub(super) fn spread(&self, room: &RoomSid) -> Option<&Spread> {
        self.rooms.get(room)
    }
}

#[cfg(any(test, feature = "test-keys"))]
impl Relay {
    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.asked.is_empty() && self.links.is_empty() && self.outgoing.is_empty()
    }
}

/// What other shards call a track of this one.
fn link_of(key: TrackKey, track: &Track) -> Option<TrackLink> {
    Some(TrackLink { index: u32::try_from(key.0).ok()?, serial: track.serial })
}

impl Shard {
    /// Takes over who has a share of a room. Shards that are new to it are told that this one is there, and what it
    /// wants; what came from those that are gone ends.
    pub(super) fn set_siblings(&mut self, room: RoomSid, mut shards: Vec<ShardIndex>) {
        shards.retain(|shard| *shard != self.config.index);
        shards.sort_unstable();
        shards.dedup();
        let before = self.relay.siblings(&room);
        for gone in before.iter().filter(|shard| !shards.contains(shard)) {
            self.part_from(&room, *gone);
        }
        if shards.is_empty() {
            self.relay.forget_room(&room);
            return;
        }
        let joined: Vec<ShardIndex> =
            shards.iter().filter(|shard| !before.contains(shard)).copied().collect();
        self.relay.rooms.entry(room.clone()).or_default().siblings = shards;
        if before.is_empty() {
            let in_room = |sid: &&TrackSid| self.waiting_in(sid).as_ref() == Some(&room);
            let waiting: Vec<TrackSid> = self.waiting.keys().filter(in_room).cloned().collect();
            self.relay.asked.extend(waiting.into_iter().map(|sid| (sid, room.clone())));
        }
        for sibling in joined {
            self.relay.say(sibling, RelayWord::Joined { room: room.clone() });
            self.say_wants(&room, sibling);
        }
    }

    /// Takes what another shard said.
    pub(super) fn handle_relay(&mut self, from: ShardIndex, batch: &RelayBatch) {
        for entry in batch.entries() {
            match entry {
                RelayEntry::Packet(packet) => {
                    if let Some(media) = batch.media(packet) {
                        self.take_relayed(from, packet.link, usize::from(packet.encoding), media);
                    }
                }
                RelayEntry::Word(word) => {
                    self.deliver_all();
                    self.obey(from, word);
                }
            }
        }
    }

    fn obey(&mut self, from: ShardIndex, word: &RelayWord) {
        match word {
            // Who does not know yet that the room is spread over both will say the same when it does. What came before was
            // of a share that the other has given up since.
            RelayWord::Joined { room } => {
                if self.relay.is_sibling(room, from) {
                    for track in self.relay.wanted_by(room, from) {
                        self.take_unwant(from, room, &track);
                    }
                    self.part_from(room, from);
                    self.say_wants(room, from);
                }
            }
            RelayWord::Want { room, track } => self.take_want(from, room, track),
            RelayWord::Unwant { room, track } => self.take_unwant(from, room, track),
            RelayWord::Started(track) => self.start_relayed(from, track),
            RelayWord::Stopped { link } => {
                if let Some(key) = self.relay.links.get(&(from, *link)).copied() {
                    self.end_relayed(key);
                }
            }
            RelayWord::Muted { link, muted } => {
                if let Some(key) = self.relay.links.get(&(from, *link)).copied() {
                    self.mute(key, *muted);
                }
            }
            RelayWord::Clock { link, encoding, clock } => {
                let key = self.relay.links.get(&(from, *link));
                let track = key.and_then(|key| self.tracks.get_mut(key.0));
                if let Some(encoding) =
                    track.and_then(|track| track.encodings.get_mut(usize::from(*encoding)))
                {
                    encoding.set_clock(*clock);
                }
            }
            RelayWord::Flow { link, on } => self.set_flow(from, *link, *on),
            RelayWord::Keyframe { link, encoding, sent_before } => {
                let key = self.linked(*link);
                let is_sent = |key: &TrackKey| self.tracks.get(key.0).is_some_and(|track| !track.muted);
                if let Some(key) = key.filter(is_sent) {
                    self.want_keyframe(key, usize::from(*encoding), *sent_before);
                }
            }
        }
    }

    /// A packet of another shard's publisher: what was read from it there is not read again.
    fn take_relayed(&mut self, from: ShardIndex, link: TrackLink, index: usize, mut packet: MediaPacket<'_>) {
        let Some(key) = self.relay.links.get(&(from, link)).copied() else { return };
        let track = self.tracks.get_mut(key.0);
        let Some(encoding) = track.and_then(|track| track.encodings.get_mut(index)) else { return };
        packet.rid = encoding.rid;
        let source = encoding.follow(packet.source, packet.sequence);
        self.stats.relay_packets_received += 1;
        if let Some(level) = packet.extensions.audio_level {
            self.overhear(key, level.attenuation);
        }
        let forward = AssertUnwindSafe(|| self.forward_track(key, index, source, &packet));
        if catch_unwind(forward).is_err() {
            tracing::error!("a track of another worker failed and was ended");
            self.stats.sessions_panicked += 1;
            self.end_relayed(key);
        }
    }

    /// Who speaks in another shard comes first here as well.
    fn overhear(&mut self, key: TrackKey, attenuation: u8) {
        let Some(track) = self.tracks.get(key.0) else { return };
        if let Origin::Relay(origin) = &track.origin
            && let Some(room) = self.rooms.get_mut(&origin.room)
        {
            let level = if track.muted { u8::MAX } else { attenuation };
            room.overheard.observe(&track.sid, &track.participant, level);
        }
    }

    /// The room of those who wait for a track.
    fn waiting_in(&self, sid: &TrackSid) -> Option<RoomSid> {
        let subscription = self.subscriptions.get(self.waiting.get(sid)?.first()?.0)?;
        Some(self.endpoints.get(subscription.subscriber.0)?.room.clone())
    }

    /// Somebody waits for a track that is not here: the siblings are asked for it, once.
    pub(super) fn ask(&mut self, sid: &TrackSid) {
        if self.relay.rooms.is_empty() || self.relay.asked.contains_key(sid) {
            return;
        }
        let Some(room) = self.waiting_in(sid) else { return };
        let siblings = self.relay.siblings(&room);
        if siblings.is_empty() {
            return;
        }
        self.relay.asked.insert(sid.clone(), room.clone());
        for sibling in siblings {
            self.relay.say(sibling, RelayWord::Want { room: room.clone(), track: sid.clone() });
        }
    }

    /// Same, of a track that was here until now: what siblings said of it meanwhile was not heard.
    pub(super) fn ask_again(&mut self, sid: &TrackSid) {
        self.relay.asked.remove(sid);
        self.ask(sid);
    }

    /// Tells a sibling of everything that it was or would have been asked for.
    fn say_wants(&mut self, room: &RoomSid, sibling: ShardIndex) {
        let asked = self.relay.asked.iter().filter(|(_, asked_in)| *asked_in == room);
        let mut wanted: Vec<TrackSid> = asked.map(|(sid, _)| sid.clone()).collect();
        wanted.sort_unstable();
        for track in wanted {
            self.relay.say(sibling, RelayWord::Want { room: room.clone(), track });
        }
    }

    /// A subscription ended: if it was the last of its track, nothing of that is wanted any more.
    pub(super) fn forgo(&mut self, sid: &TrackSid) {
        if !self.relay.asked.contains_key(sid) || self.waiting.contains_key(sid) {
            return;
        }
        let primary = self.by_sid.get(sid).copied();
        let backup = primary.and_then(|key| self.tracks.get(key.0)?.backup);
        let has_subscribers =
            |key: TrackKey| self.tracks.get(key.0).is_some_and(|track| !track.subscribers.is_empty());
        if [primary, backup].into_iter().flatten().any(has_subscribers) {
            return;
        }
        let Some(room) = self.relay.asked.remove(sid) else { return };
        for sibling in self.relay.siblings(&room) {
            self.relay.say(sibling, RelayWord::Unwant { room: room.clone(), track: sid.clone() });
        }
        if let Some(relayed) = primary.filter(|_| self.published(sid).is_none()) {
            self.stop_track(relayed, None);
        }
    }

    /// The subscriptions of a track changed. Packets of another shard's come as long as there are any, or everybody is to
    /// change to it as soon as it comes.
    pub(super) fn receivers_changed(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let Origin::Relay(origin) = &mut track.origin else { return };
        let on = !track.subscribers.is_empty() || track.usage == Some(BackupUse::Everywhere);
        if std::mem::replace(&mut origin.flowing, on) != on {
            let (to, link) = (origin.shard, origin.link);
            self.relay.say(to, RelayWord::Flow { link, on });
        }
    }

    fn start_relayed(&mut self, from: ShardIndex, relayed: &RelayedTrack) {
        let RelayedTrack { room, sid, link, .. } = relayed;
        let is_wanted = self.relay.asked.get(sid) == Some(room) && self.relay.is_sibling(room, from);
        // A second codec has no place without the first; nor has a track that is here.
        let primary = self.by_sid.get(sid).copied();
        let place = primary.and_then(|key| self.tracks.get(key.0)).map(|track| match &track.origin {
            Origin::Publisher { .. } => None,
            Origin::Relay(origin) => Some(origin.shard),
        });
        let fits = match relayed.usage {
            None => place != Some(None),
            Some(_) => place == Some(Some(from)),
        };
        if !is_wanted || !fits {
            return;
        }
        if let Some(known) = self.relay.links.get(&(from, *link)).copied() {
            return self.mute(known, relayed.muted);
        }
        if let Some(previous) = primary.filter(|_| relayed.usage.is_none()) {
            self.stop_track(previous, None);
        }
        let encoding = |rid: &Option<_>| Encoding::new(relayed.kind, *rid);
        let serial = self.serials.draw();
        let key = TrackKey(self.tracks.insert(Track {
            sid: sid.clone(),
            serial,
            origin: Origin::Relay(RelayOrigin {
                shard: from,
                link: *link,
                room: room.clone(),
                format: relayed.format,
                flowing: false,
            }),
            kind: relayed.kind,
            source: relayed.source,
            participant: relayed.participant.clone(),
            encodings: relayed.rids.iter().take(LAYERS_MAX).map(encoding).collect(),
            activity: LayerActivity::default(),
            subscribers: Vec::new(),
            relays: Vec::new(),
            muted: relayed.muted,
            encrypted: relayed.encrypted,
            codec: relayed.codec.clone(),
            loudness: None,
            backup: None,
            usage: relayed.usage,
        }));
        self.relay.links.insert((from, *link), key);
        match primary.filter(|_| relayed.usage.is_some()) {
            Some(primary) => self.add_backup(primary, key),
            None => drop(self.by_sid.insert(sid.clone(), key)),
        }
        self.receivers_changed(key);
        self.serve_waiting(key);
    }

    /// A track of another shard ended there. Another one may have it meanwhile, and have said so before this one was heard.
    fn end_relayed(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        if let Origin::Relay(origin) = &mut track.origin {
            origin.flowing = false;
        }
        let sid = track.sid.clone();
        self.stop_track(key, None);
        if self.waiting.contains_key(&sid) {
            self.ask_again(&sid);
        }
    }

    /// A sibling wants a track: it is told of it, now or when it starts.
    fn take_want(&mut self, from: ShardIndex, room: &RoomSid, sid: &TrackSid) {
        let Some(spread) = self.relay.rooms.get_mut(room) else { return };
        let has_room = spread.wants.len() < WANTS_MAX || spread.wants.contains_key(sid);
        if !spread.siblings.contains(&from) || !has_room {
            return;
        }
        let wanting = spread.wants.entry(sid.clone()).or_default();
        if !wanting.contains(&from) {
            wanting.push(from);
        }
        let Some(primary) = self.published_in(room, sid) else { return };
        let backup = self.tracks.get(primary.0).and_then(|track| track.backup);
        for key in [Some(primary), backup].into_iter().flatten() {
            self.say_started(key, &[from]);
        }
    }

    /// A track that has its publisher here, and in that room: it may have moved to another.
    fn published_in(&self, room: &RoomSid, sid: &TrackSid) -> Option<TrackKey> {
        self.published(sid).filter(|key| self.room_of(*key).is_some_and(|(of, _)| of == *room))
    }

    /// A sibling wants a track no more. It may have begun to want it anew, and take for an answer to that what it is told
    /// until it hears this: so it is told that the track ended.
    fn take_unwant(&mut self, from: ShardIndex, room: &RoomSid, sid: &TrackSid) {
        let Some(spread) = self.relay.rooms.get_mut(room) else { return };
        let Some(wanting) = spread.wants.get_mut(sid).filter(|wanting| wanting.contains(&from)) else {
            return;
        };
        wanting.retain(|shard| *shard != from);
        if wanting.is_empty() {
            spread.wants.remove(sid);
        }
        let Some(primary) = self.published_in(room, sid) else { return };
        let backup = self.tracks.get(primary.0).and_then(|track| track.backup);
        for key in [Some(primary), backup].into_iter().flatten() {
            let Some(track) = self.tracks.get_mut(key.0) else { continue };
            track.relays.retain(|shard| *shard != from);
            if let Some(link) = link_of(key, track) {
                self.relay.say(from, RelayWord::Stopped { link });
            }
        }
    }

    /// Begins or ends to send packets of a track to a sibling that wants it.
    fn set_flow(&mut self, to: ShardIndex, link: TrackLink, on: bool) {
        let Some(key) = self.linked(link) else { return };
        let Some((room, sid)) = self.room_of(key) else { return };
        let is_wanted = self.relay.wanting(&room, &sid).contains(&to);
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        track.relays.retain(|shard| *shard != to);
        if !on || !is_wanted {
            return;
        }
        track.relays.push(to);
        let clocks: Vec<Option<PublisherClock>> = track.encodings.iter().map(Encoding::clock).collect();
        for (encoding, clock) in (0..).zip(clocks) {
            if let Some(clock) = clock {
                self.relay.say(to, RelayWord::Clock { link, encoding, clock });
            }
        }
    }

    /// The track of this shard that others call so.
    fn linked(&self, link: TrackLink) -> Option<TrackKey> {
        let key = TrackKey(usize::try_from(link.index).ok()?);
        let track = self.tracks.get(key.0).filter(|track| track.serial == link.serial)?;
        track.publisher().map(|_| key)
    }

    /// Room and id of a track that has its publisher here.
    fn room_of(&self, key: TrackKey) -> Option<(RoomSid, TrackSid)> {
        let track = self.tracks.get(key.0)?;
        Some((self.endpoints.get(track.publisher()?.0)?.room.clone(), track.sid.clone()))
    }

    /// A track has started here: those who want it are told.
    pub(super) fn tell_started(&mut self, key: TrackKey) {
        if self.relay.rooms.is_empty() {
            return;
        }
        let Some((room, sid)) = self.room_of(key) else { return };
        let wanting = self.relay.wanting(&room, &sid).to_vec();
        self.say_started(key, &wanting);
    }

    fn say_started(&mut self, key: TrackKey, to: &[ShardIndex]) {
        let Some((room, sid)) = self.room_of(key) else { return };
        let Some(track) = self.tracks.get(key.0) else { return };
        let Some(link) = link_of(key, track) else { return };
        let relayed = RelayedTrack {
            room,
            sid,
            link,
            kind: track.kind,
            source: track.source,
            participant: track.participant.clone(),
            rids: track.encodings.iter().map(|encoding| encoding.rid).collect(),
            codec: track.codec.clone(),
            format: self.format_of(track),
            muted: track.muted,
            encrypted: track.encrypted,
            usage: track.usage,
        };
        for sibling in to {
            self.relay.say(*sibling, RelayWord::Started(Box::new(relayed.clone())));
        }
    }

    /// A track ended, which is out of the table: those who want it are told if it was published here, else the one who sends
    /// its packets.
    pub(super) fn tell_stopped(&mut self, key: TrackKey, track: &Track) {
        match &track.origin {
            Origin::Relay(origin) => {
                self.relay.links.remove(&(origin.shard, origin.link));
                if origin.flowing {
                    self.relay.say(origin.shard, RelayWord::Flow { link: origin.link, on: false });
                }
            }
            Origin::Publisher { endpoint, .. } => {
                if self.relay.rooms.is_empty() {
                    return;
                }
                let room = self.endpoints.get(endpoint.0).map(|publisher| publisher.room.clone());
                let (Some(room), Some(link)) = (room, link_of(key, track)) else { return };
                for sibling in self.relay.wanting(&room, &track.sid).to_vec() {
                    self.relay.say(sibling, RelayWord::Stopped { link });
                }
            }
        }
    }

    /// A track that has its publisher here leaves a room: for the room's other shards it has ended. Those that have not
    /// heard so from signaling yet ask for it again, in vain.
    pub(super) fn tell_moved(&mut self, key: TrackKey, from: &RoomSid) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        track.relays.clear();
        let (sid, is_primary) = (track.sid.clone(), track.usage.is_none());
        let Some(link) = link_of(key, track) else { return };
        for sibling in self.relay.wanting(from, &sid).to_vec() {
            self.relay.say(sibling, RelayWord::Stopped { link });
        }
        if let Some(spread) = self.relay.rooms.get_mut(from)
            && is_primary
        {
            spread.wants.remove(&sid);
        }
    }

    /// A track was muted or unmuted here.
    pub(super) fn tell_muted(&mut self, key: TrackKey) {
        if self.relay.rooms.is_empty() {
            return;
        }
        let Some((room, sid)) = self.room_of(key) else { return };
        let Some(track) = self.tracks.get(key.0) else { return };
        let Some(link) = link_of(key, track) else { return };
        let muted = track.muted;
        for sibling in self.relay.wanting(&room, &sid).to_vec() {
            self.relay.say(sibling, RelayWord::Muted { link, muted });
        }
    }

    /// A publisher's report told its clock, of an encoding: those who are sent its packets are told.
    pub(super) fn tell_clock(&mut self, key: TrackKey, encoding: usize, clock: PublisherClock) {
        let Some(track) = self.tracks.get(key.0).filter(|track| !track.relays.is_empty()) else { return };
        let (Some(link), Ok(encoding)) = (link_of(key, track), u8::try_from(encoding)) else { return };
        for sibling in track.relays.clone() {
            self.relay.say(sibling, RelayWord::Clock { link, encoding, clock });
        }
    }

    /// A shard has no share of a room any more, or begins anew: what it wanted is forgotten, and what came from it ends.
    fn part_from(&mut self, room: &RoomSid, gone: ShardIndex) {
        if let Some(spread) = self.relay.rooms.get_mut(room) {
            spread.wants.retain(|_, wanting| {
                wanting.retain(|shard| *shard != gone);
                !wanting.is_empty()
            });
        }
        for (_, track) in &mut self.tracks {
            let publisher = track.publisher().and_then(|publisher| self.endpoints.get(publisher.0));
            if publisher.is_some_and(|publisher| publisher.room == *room) {
                track.relays.retain(|shard| *shard != gone);
            }
        }
        let mut ended = Vec::new();
        for (index, track) in &mut self.tracks {
            if let Origin::Relay(origin) = &mut track.origin
                && origin.shard == gone
                && origin.room == *room
            {
                origin.flowing = false;
                ended.push(TrackKey(index));
            }
        }
        for key in ended {
            self.stop_track(key, None);
        }
    }
}
