//! One subscriber's share of one track: picks packets, renumbers them, and writes them when their turn comes.

mod redundancy;
mod treatment;

use std::{cmp::Ordering, time::Instant};

use slab::Slab;
use zynk_protocol::{MediaKind, SubscriptionSettings, TrackSid};

use crate::{
    allocator::Layers,
    connection::{Codec, Connection, Mid, PacketHead, PayloadFormat, PayloadTypes, PictureIds},
    dependency_descriptor::frame_number,
    downstream::Queued,
    ladder::{wanted_encoding, wanted_spatial},
    layers::{Announcement, LayerSelection, LayerSelector, TOP_LAYER},
    media::{
        egress::{EgressError, EgressStream, Outgoing},
        extensions::SendTime,
        srtp::Sealer,
        store::{PacketHandle, PacketInfo, StoredPacket},
    },
    red::{self, RedBuffer},
    rewriter::{EPOCHS_MAX, Epoch, Rewriter, Rewritten},
    selector::{Selection, Selector},
    shard::{EndpointKey, FirstMedia, SubscriptionKey, TrackKey},
    temporal::{TOP_TEMPORAL, TemporalSelector},
    track::Track,
};

pub(crate) use treatment::Treatment;

/// Longest dependency descriptor that is changed on its way; longer ones go as they came.
const DESCRIPTOR_BYTES_MAX: usize = 255;

/// A subscription and how far its negotiation got.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) subscriber: EndpointKey,
    pub(crate) track: TrackSid,
    /// Set once the track has started.
    pub(crate) source: Option<TrackKey>,
    pub(crate) stream_id: String,
    pub(crate) settings: SubscriptionSettings,
    /// The section that carries it, and its index.
    pub(crate) mid: Option<Mid>,
    pub(crate) section: usize,
    /// Tells the subscription from another that got its key later, and from itself on another section.
    pub(crate) serial: u32,
    /// The other side has agreed to the section: packets may flow.
    pub(crate) negotiated: bool,
    /// What the receiver's bandwidth allows.
    pub(crate) allotment: Allotment,
    /// For how long its first packet has been waited for.
    pub(crate) first_media: FirstMedia,
    /// The client has been told that it pauses for lack of room.
    pub(crate) told_paused: bool,
    /// When the allotment last fell to a smaller picture, or to none.
    pub(crate) lowered_at: Option<Instant>,
    /// A larger picture is sent, at its lowest frame rate, until the smaller one's keyframe comes; else nothing is.
    bridges: bool,
    forwarder: Forwarder,
}

/// What of a track a subscriber is given, whatever it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Allotment {
    /// As asked for: nothing has been shared out yet.
    #[default]
    All,
    UpTo(Layers),
    /// There is no room even for the lowest layers.
    Nothing,
}

impl Allotment {
    /// The highest layers, none if there are none.
    pub(crate) fn layers(self) -> Option<Layers> {
        match self {
            Self::All => Some(Layers { encoding: u8::MAX, spatial: TOP_LAYER, temporal: TOP_TEMPORAL }),
            Self::UpTo(layers) => Some(layers),
            Self::Nothing => None,
        }
    }
}

/// A packet of a track, and what the track is sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) kind: MediaKind,
    pub(crate) packet: &'a PacketHead,
    /// What the encoding's store calls it.
    pub(crate) handle: PacketHandle,
    /// The encoding that the packet belongs to.
    pub(crate) encoding: usize,
    /// Which encodings of the track are being sent.
    pub(crate) active: &'a [bool],
    /// The highest spatial layer of the encoding that is being sent.
    pub(crate) highest_layer: u8,
    /// See [`Track::serial`].
    pub(crate) track_serial: u32,
    /// The packet is of the past, from a keyframe cache: what there is since ends with this timestamp.
    pub(crate) live_from: Option<u32>,
    /// How many earlier payloads it is to go out with.
    pub(crate) earlier_payloads: u8,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forwarded {
    /// What is to be sent; none if nothing is.
    pub(crate) queued: Option<Queued>,
    /// A keyframe of this encoding is needed to start, or to switch to it.
    pub(crate) keyframe: Option<usize>,
    /// The subscriber does not accept the codec.
    pub(crate) unsupported: bool,
}

/// What was written of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Octets of the datagram.
    pub(crate) bytes: usize,
    pub(crate) payload_bytes: usize,
    /// Octets of the payload that were added for other packets.
    pub(crate) redundant_bytes: usize,
}

impl Subscription {
    pub(crate) fn new(
        subscriber: EndpointKey,
        track: TrackSid,
        stream_id: String,
        settings: SubscriptionSettings,
        serial: u32,
    ) -> Self {
        Self {
            subscriber,
            track,
            source: None,
            stream_id,
            settings,
            mid: None,
            section: 0,
            serial,
            negotiated: false,
            allotment: Allotment::default(),
            first_media: FirstMedia::default(),
            told_paused: false,
            lowered_at: None,
            bridges: true,
            forwarder: Forwarder::default(),
        }
    }

    /// Takes new settings. What was paused starts again at a keyframe.
    pub(crate) fn configure(&mut self, settings: SubscriptionSettings) {
        if settings.paused {
            self.forwarder.restart();
            self.allotment = Allotment::All;
        }
        self.settings = settings;
    }

    /// The next packet begins a new stream, for video at a keyframe.
    pub(crate) fn restart(&mut self) {
        self.forwarder.restart();
    }

    /// Of encoding `index` nothing was to be sent for a while, and packet `sequence` is next. For the receiver there is nothing
    /// in between: numbers adjoin, and timestamps say how long it was, as after silence that was not sent.
    pub(crate) fn go_on_with(&mut self, index: usize, sequence: u64) {
        if self.forwarder.selector.is_current(index)
            && let Some(rewriter) = &mut self.forwarder.rewriter
        {
            self.forwarder.talk_begins = rewriter.skip_to(sequence);
        }
    }

    /// Another source took the place of the one that sent encoding `index`.
    pub(crate) fn follow_encoding(&mut self, index: usize) {
        if !self.forwarder.selector.wants(index) {
            self.forwarder.restart();
        }
    }

    /// Puts the subscription on a section, whose numbers it goes on with. `serial` is a new one: what still waits to be
    /// sent has numbers of another section.
    pub(crate) fn assign(&mut self, mid: Mid, section: usize, rewriter: Box<Rewriter>, serial: u32) {
        self.mid = Some(mid);
        self.section = section;
        self.serial = serial;
        self.forwarder.sources.clear();
        self.forwarder.rewriter = Some(rewriter);
        self.unsettle();
    }

    /// It is to be served from another source, in its section and with its numbers.
    pub(crate) fn unsettle(&mut self) {
        self.negotiated = false;
        self.forwarder.output = None;
        self.forwarder.restart();
    }

    /// Takes the subscription off its section, and returns what the section's next one needs.
    pub(crate) fn take_off(&mut self) -> Option<Box<Rewriter>> {
        self.mid = None;
        self.unsettle();
        self.forwarder.rewriter.take()
    }

    /// Whether packets may flow at all.
    pub(crate) fn is_flowing(&self) -> bool {
        self.is_wanted() && self.allotment != Allotment::Nothing
    }

    /// Whether they would, if there is room for them.
    pub(crate) fn is_wanted(&self) -> bool {
        self.negotiated && !self.settings.paused && self.mid.is_some()
    }

    /// The encoding that is being sent.
    pub(crate) fn current_encoding(&self) -> Option<usize> {
        self.forwarder.selector.current()
    }

    /// Whether a packet that was sent is of no use any more on a path that is full: another source took the place of its own,
    /// or is about to.
    pub(crate) fn has_left_behind(&self, tag: u16) -> bool {
        let epoch = Treatment::from_tag(tag).epoch;
        let running = self.forwarder.rewriter.as_ref().map(|rewriter| rewriter.epoch());
        let Allotment::UpTo(layers) = self.allotment else { return false };
        let gives_way = |source: EpochSource| source.encoding > usize::from(layers.encoding);
        running != Some(epoch) || !self.bridges && self.forwarder.source(epoch).is_some_and(gives_way)
    }

    /// Takes a new allotment. What paused starts again at a keyframe. `bridges`: whether there is room for the lowest
    /// layers of what is being sent until a smaller picture begins.
    pub(crate) fn allot(&mut self, now: Instant, allotment: Allotment, bridges: bool) {
        self.bridges = bridges;
        let lowered = match (self.allotment.layers(), allotment.layers()) {
            (Some(before), Some(after)) => after.picture() < before.picture(),
            (before, after) => after.is_none() && before.is_some(),
        };
        if lowered && self.allotment != Allotment::All {
            self.lowered_at = Some(now);
        }
        if allotment == Allotment::Nothing {
            self.forwarder.restart();
        }
        self.allotment = allotment;
    }

    /// What is to be sent at best, of a track that sends these encodings.
    fn target(&self, active: &[bool]) -> Option<Target> {
        let allotted = self.allotment.layers()?;
        let wanted = wanted_encoding(active.len(), self.settings.quality).min(allotted.encoding.into());
        Some(Target {
            encoding: Selector::target(active, wanted)?,
            spatial: wanted_spatial(active.len(), self.settings.quality).min(allotted.spatial),
            temporal: allotted.temporal,
            bridges: self.bridges,
        })
    }

    /// The encoding to be sent, of a track that sends these.
    pub(crate) fn target_encoding(&self, active: &[bool]) -> Option<usize> {
        self.target(active).map(|target| target.encoding)
    }

    /// Whether a keyframe would bring what is to be sent and is not sent yet.
    pub(crate) fn wants_keyframe(&self, active: &[bool], highest_layer: u8) -> bool {
        self.target(active).is_some_and(|target| {
            self.forwarder.selector.wants(target.encoding)
                || self.forwarder.layers.wants(target.spatial, highest_layer)
        })
    }

    /// Decides on a packet, and numbers it if it is to be sent. `key` is the subscription's own.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        key: SubscriptionKey,
        arrival: Arrival<'_>,
        connection: &Connection,
    ) -> Forwarded {
        #[cfg(test)]
        connection.fail_if_faulty();
        let (Some(mid), Some(track)) = (self.mid.filter(|_| self.is_flowing()), self.source) else {
            return Forwarded::default();
        };
        let Some(target) = self.target(arrival.active) else { return Forwarded::default() };
        let Choice { action, keyframe } = self.forwarder.choose(arrival, target);
        let numbered = match action {
            Action::Send { marker, announce } => {
                self.forwarder.send(now, (mid, track), arrival, (marker, announce), connection)
            }
            Action::LeaveOut => Some(self.forwarder.leave_out(arrival.packet)),
            Action::Ignore => Some(None),
        };
        let Some(numbered) = numbered else { return Forwarded { unsupported: true, ..Forwarded::default() } };
        let queued = numbered.map(|Numbered { sequence, treatment }| Queued {
            subscription: key,
            serial: self.serial,
            handle: arrival.handle,
            sequence,
            tag: treatment.to_tag(),
        });
        Forwarded { queued, keyframe, unsupported: false }
    }

    /// Writes and seals a packet that was queued, at the front of `buffer`. None if it is gone: too old, of a track that has
    /// ended, or of a source too long ago.
    pub(crate) fn write(
        &self,
        queued: &Queued,
        again: bool,
        tracks: &Slab<Track>,
        stream: &mut EgressStream,
        output: &mut WriteTo<'_>,
    ) -> Option<Written> {
        let mut treatment = Treatment::from_tag(queued.tag);
        let rewriter = self.forwarder.rewriter.as_ref()?;
        let offsets = rewriter.offsets(treatment.epoch)?;
        let source = self.forwarder.source(treatment.epoch)?;
        let track = tracks.get(source.track.0).filter(|track| track.serial == source.track_serial)?;
        let encoding = track.encodings.get(source.encoding)?;
        let stored = if again {
            encoding.store.get_recent(queued.handle, output.now)?
        } else {
            encoding.store.get(queued.handle)?
        };
        let codec = source.output.codec;
        let mut payload = match codec {
            _ if treatment.empty => &[],
            Codec::Red if source.output.unwrap_red => red::own_payload(stored.payload)?,
            _ => stored.payload,
        };
        let (mut payload_type, mut redundant_bytes) = (source.output.payload_types.media, 0);
        let mut buffer = None;
        if treatment.earlier_payloads > 0 {
            let found = source.with_earlier(&encoding.store, queued.handle, &stored, treatment);
            // What goes out again is what went out before, or nothing.
            if again && found.map_or(0, |(red, _)| red.earlier_payloads()) != treatment.earlier_payloads {
                return None;
            }
            treatment = treatment.alone();
            if let Some((red, types)) = found {
                treatment.earlier_payloads = red.earlier_payloads();
                payload_type = types.red;
                redundant_bytes = red.bytes().saturating_sub(payload.len());
                payload = buffer.insert(RedBuffer::default()).write(&red, types.own)?;
            }
        }
        let left_out = match codec {
            Codec::Vp8 => rewriter.pictures_left_out(treatment.epoch, stored.info.sequence)?,
            _ => 0,
        };
        let patch = (offsets.moves_ids() || left_out != 0)
            .then(|| Some(offsets.ids(PictureIds::of(codec, payload)?, left_out)))
            .flatten()
            .and_then(|ids| ids.patch(codec, payload));
        let mut changed = None;
        let descriptor = match frame_number(stored.descriptor) {
            Some(number) if offsets.moves_frames() || treatment.announce.is_some() => {
                let targets = treatment.announce.and_then(|announce| {
                    encoding.targets.get(queued.handle)?.limited(
                        stored.descriptor,
                        announce.highest,
                        announce.explicit,
                    )
                });
                let changed = changed.insert(Descriptor::default());
                changed.set(targets.as_deref().unwrap_or(stored.descriptor), offsets.frame(number))
            }
            _ => None,
        };
        let bare;
        let packet = if treatment.empty {
            bare = bare_info(stored.info);
            StoredPacket { info: &bare, descriptor: &[], payload }
        } else {
            StoredPacket { payload, ..stored }
        };
        let out = Outgoing {
            payload_type,
            rtx_payload_type: source.output.payload_types.rtx,
            sequence: queued.sequence,
            timestamp: offsets.timestamp(stored.info.timestamp),
            marker: treatment.marker,
            patch,
            descriptor: descriptor.filter(|_| !treatment.empty),
            transport_sequence: output.transport_sequence,
            send_time: output.send_time,
        };
        let written = if again {
            stream.write_rtx(output.sealer, output.buffer, &packet, &out)
        } else {
            stream.write(output.sealer, output.buffer, &packet, queued.handle, treatment.to_tag(), &out)
        };
        match written {
            Ok(bytes) => Some(Written { bytes, payload_bytes: payload.len(), redundant_bytes }),
            Err(EgressError::NoRtx) => None,
            Err(error) => {
                tracing::trace!(%error, "a packet was not written");
                None
            }
        }
    }

    /// The running source of what is sent: track, encoding, what is subtracted from its timestamps, and its clock.
    pub(crate) fn running_source(&self) -> Option<RunningSource> {
        let rewriter = self.forwarder.rewriter.as_ref()?;
        let epoch = rewriter.epoch();
        let source = self.forwarder.source(epoch)?;
        let offsets = rewriter.offsets(epoch)?;
        Some(RunningSource {
            track: source.track,
            encoding: source.encoding,
            timestamp_offset: offsets.timestamp_offset(),
            clock_rate_hz: source.output.clock_rate_hz,
        })
    }
}

/// See [`Subscription::running_source`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningSource {
    pub(crate) track: TrackKey,
    pub(crate) encoding: usize,
    /// What the rewriter adds to timestamps.
    pub(crate) timestamp_offset: u32,
    pub(crate) clock_rate_hz: u32,
}

/// Where a packet is written to, and with what.
#[derive(Debug)]
pub(crate) struct WriteTo<'a> {
    pub(crate) now: Instant,
    pub(crate) sealer: &'a Sealer,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) transport_sequence: u16,
    pub(crate) send_time: SendTime,
}

/// A dependency descriptor that is changed.
struct Descriptor {
    octets: [u8; DESCRIPTOR_BYTES_MAX],
}

impl Default for Descriptor {
    fn default() -> Self {
        Self { octets: [0; DESCRIPTOR_BYTES_MAX] }
    }
}

impl Descriptor {
    /// The descriptor with another frame number; none if it is too long.
    fn set(&mut self, descriptor: &[u8], number: u16) -> Option<&[u8]> {
        let octets = self.octets.get_mut(..descriptor.len())?;
        octets.copy_from_slice(descriptor);
        octets.get_mut(1..3)?.copy_from_slice(&number.to_be_bytes());
        Some(octets)
    }
}

/// What is sent of a packet of which nothing is sent but its number.
fn bare_info(info: &PacketInfo) -> PacketInfo {
    PacketInfo { audio_level: None, orientation: None, playout_delay: None, capture_time: None, ..*info }
}

/// The best that is to be sent of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    encoding: usize,
    spatial: u8,
    temporal: u8,
    /// See [`Subscription::bridges`].
    bridges: bool,
}

#[derive(Debug, Default)]
struct Forwarder {
    selector: Selector,
    layers: LayerSelector,
    temporal: TemporalSelector,
    /// The section's, as long as there is one.
    rewriter: Option<Box<Rewriter>>,
    output: Option<OutputFormat>,
    /// The next packet is the first after a pause (RFC 3551, section 4.1: marker).
    talk_begins: bool,
    /// Where the rewriter's last sources come from, at most [`EPOCHS_MAX`]: most streams have one or two all their life.
    sources: Vec<EpochSource>,
}

/// Where a source's packets are, and how they go out.
#[derive(Clone, Copy, Debug)]
struct EpochSource {
    epoch: Epoch,
    track: TrackKey,
    track_serial: u32,
    encoding: usize,
    output: OutputFormat,
    /// The publisher's number of its first packet that was sent so.
    first: u64,
}

/// A packet that is to be sent.
#[derive(Clone, Copy, Debug)]
struct Numbered {
    sequence: u64,
    treatment: Treatment,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Send it, with this marker bit.
    Send { marker: bool, announce: Option<Announcement> },
    /// It belongs to the stream that is sent, but is not.
    LeaveOut,
    /// It belongs to another stream.
    Ignore,
}

#[derive(Clone, Copy, Debug)]
struct Choice {
    action: Action,
    /// See [`Forwarded::keyframe`].
    keyframe: Option<usize>,
}

/// How packets of a format go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutputFormat {
    /// Of which track, and which of its publisher's formats: cheaper to compare than the formats themselves.
    of: (u32, u32),
    codec: Codec,
    /// RTP clock, Hz.
    clock_rate_hz: u32,
    payload_types: PayloadTypes,
    /// The subscriber takes no redundancy: send the packet's own payload alone.
    unwrap_red: bool,
    /// It takes it: how packets go out that carry earlier payloads.
    red: Option<RedTypes>,
}

/// Payload types of Opus with redundancy, of a subscriber that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RedTypes {
    /// Of the packet.
    red: u8,
    /// Of the payloads in it.
    own: u8,
}

impl Forwarder {
    fn restart(&mut self) {
        self.selector.reset();
        self.switch();
    }

    /// The newest are found first.
    #[inline]
    fn source(&self, epoch: Epoch) -> Option<EpochSource> {
        self.sources.iter().rfind(|source| source.epoch == epoch).copied()
    }

    fn switch(&mut self) {
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.switch();
        }
    }

    /// Decides on a packet.
    fn choose(&mut self, arrival: Arrival<'_>, target: Target) -> Choice {
        let Arrival { kind, packet, encoding, highest_layer, live_from, .. } = arrival;
        let ignore = Choice { action: Action::Ignore, keyframe: None };
        if packet.empty {
            // Padding of a sender that probes without retransmission payloads.
            let action = if self.selector.is_current(encoding) { Action::LeaveOut } else { Action::Ignore };
            return Choice { action, ..ignore };
        }
        let can_start = kind == MediaKind::Audio || packet.keyframe;
        let selection = self.selector.select(encoding, target.encoding, can_start);
        let keyframe = self.selector.wants(target.encoding).then_some(target.encoding);
        match selection {
            Selection::Forward => {}
            Selection::Switch => {
                self.switch();
                if let Some(rewriter) = &mut self.rewriter {
                    rewriter.catch_up(live_from);
                }
                self.layers.start(packet.layer);
                self.temporal.start(target.temporal);
            }
            Selection::Drop => return Choice { keyframe, ..ignore },
        }
        if encoding > target.encoding && !target.bridges {
            return Choice { action: Action::LeaveOut, keyframe };
        }
        if let Some(layer) = packet.temporal {
            let wanted = match encoding.cmp(&target.encoding) {
                // On its way down: as little as there can be of it until the keyframe comes.
                Ordering::Greater => 0,
                // What is caught up with is not watched.
                Ordering::Equal if live_from.is_some_and(|live| live != packet.timestamp) => 0,
                Ordering::Equal => target.temporal,
                Ordering::Less => TOP_TEMPORAL,
            };
            if !self.temporal.select(packet.timestamp, layer, packet.keyframe, wanted) {
                return Choice { action: Action::LeaveOut, keyframe };
            }
        }
        let Some(layer) = packet.layer else {
            return Choice { action: Action::Send { marker: packet.marker, announce: None }, keyframe };
        };
        let action = match self.layers.select(packet, layer, target.spatial) {
            LayerSelection::Forward { picture_end, announce } => {
                Action::Send { marker: packet.marker || picture_end, announce }
            }
            LayerSelection::Drop => Action::LeaveOut,
        };
        // In a keyframe, the layers above are about to come.
        let lacks_layer = !layer.refresh && self.layers.wants(target.spatial, highest_layer);
        Choice { action, keyframe: keyframe.or(lacks_layer.then_some(encoding)) }
    }

    /// Numbers a packet. `None` if its codec is not accepted, `Some(None)` if it comes too late, or before the
    /// source's start.
    fn send(
        &mut self,
        now: Instant,
        (mid, track): (Mid, TrackKey),
        arrival: Arrival<'_>,
        (marker, announce): (bool, Option<Announcement>),
        connection: &Connection,
    ) -> Option<Option<Numbered>> {
        let Arrival { packet, encoding, track_serial, .. } = arrival;
        let output = match self.output {
            Some(output) if output.of == (track_serial, packet.format.number) => output,
            _ => {
                let output = OutputFormat::new(mid, track_serial, packet.format, connection)?;
                self.output = Some(output);
                output
            }
        };
        let Some(rewriter) = self.rewriter.as_mut() else { return Some(None) };
        let Some(Rewritten { sequence, .. }) = rewriter.rewrite(now, packet) else { return Some(None) };
        let epoch = rewriter.epoch();
        if self.sources.last().is_none_or(|source| source.epoch != epoch || source.output != output) {
            self.sources.retain(|source| source.epoch != epoch);
            if self.sources.len() >= EPOCHS_MAX {
                self.sources.remove(0);
            }
            let first = packet.sequence;
            self.sources.push(EpochSource { epoch, track, track_serial, encoding, output, first });
        }
        // Only what a descriptor can be made to say.
        let announce = announce.filter(|_| packet.has_targets);
        let wanted = arrival.earlier_payloads;
        let earlier_payloads = match output.red {
            Some(_) if wanted > packet.earlier_payloads => wanted,
            _ => 0,
        };
        let marker = std::mem::take(&mut self.talk_begins) || marker;
        let treatment = Treatment { epoch, marker, empty: false, announce, earlier_payloads };
        Some(Some(Numbered { sequence, treatment }))
    }

    /// Leaves a packet out. If the receiver waits for it, an empty one goes in its place.
    fn leave_out(&mut self, packet: &PacketHead) -> Option<Numbered> {
        let rewriter = self.rewriter.as_mut()?;
        let Rewritten { sequence, .. } = rewriter.leave_out(packet)?;
        let treatment = Treatment {
            epoch: rewriter.epoch(),
            marker: false,
            empty: true,
            announce: None,
            earlier_payloads: 0,
        };
        Some(Numbered { sequence, treatment })
    }
}

impl OutputFormat {
    /// None if the subscriber does not accept the codec.
    fn new(mid: Mid, track_serial: u32, format: PayloadFormat, connection: &Connection) -> Option<Self> {
        let PayloadFormat { codec, clock_rate_hz, number, .. } = format;
        let types = |format: &PayloadFormat| connection.payload_types(mid, format).ok();
        let is_opus = matches!(codec, Codec::Opus | Codec::Red);
        let plain = is_opus.then(|| types(&Connection::without_red(&format))).flatten();
        let with_red = is_opus.then(|| types(&Connection::with_red(&format))).flatten();
        let direct = types(&format);
        Some(Self {
            of: (track_serial, number),
            codec,
            clock_rate_hz,
            payload_types: direct.or(plain)?,
            unwrap_red: direct.is_none(),
            red: with_red.zip(plain).map(|(red, plain)| RedTypes { red: red.media, own: plain.media }),
        })
    }
}

#[cfg(test)]
mod tests;
