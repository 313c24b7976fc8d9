//! One subscriber's share of one track: picks packets, renumbers them, hands them to the connection.

use std::{sync::Arc, time::Instant};

use zynk_protocol::{MediaKind, SubscriptionSettings, TrackQuality, TrackSid};

use crate::{
    connection::{
        Codec, Connection, ForwardedPacket, MediaPacket, Mid, PacketExtensions, PayloadFormat, Pt,
        red_primary,
    },
    layers::{Announcement, LayerSelection, LayerSelector, TOP_LAYER, wanted_layer},
    rewriter::{Rewriter, Rewritten},
    selector::{Selection, Selector},
    shard::{EndpointKey, TrackKey},
    vp9,
};

/// A subscription and how far its negotiation got.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) subscriber: EndpointKey,
    pub(crate) track: TrackSid,
    /// Set once the track has started.
    pub(crate) source: Option<TrackKey>,
    pub(crate) stream_id: String,
    pub(crate) settings: SubscriptionSettings,
    /// The section that carries it.
    pub(crate) mid: Option<Mid>,
    /// The other side has agreed to the section: packets may flow.
    pub(crate) negotiated: bool,
    forwarder: Forwarder,
}

/// A packet of a track, and what the track is sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) kind: MediaKind,
    pub(crate) packet: &'a MediaPacket,
    /// The encoding that the packet belongs to.
    pub(crate) encoding: usize,
    /// Which encodings of the track are being sent.
    pub(crate) active: &'a [bool],
    /// The highest spatial layer of the encoding that is being sent.
    pub(crate) highest_layer: u8,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// Payload bytes handed to the connection; none if nothing was.
    pub(crate) sent_bytes: Option<usize>,
    /// A keyframe of this encoding is needed to start, or to switch to it.
    pub(crate) keyframe: Option<usize>,
    /// The subscriber does not accept the codec.
    pub(crate) unsupported: bool,
}

impl Subscription {
    pub(crate) fn new(
        subscriber: EndpointKey,
        track: TrackSid,
        stream_id: String,
        settings: SubscriptionSettings,
    ) -> Self {
        let forwarder = Forwarder {
            selector: Selector::default(),
            layers: LayerSelector::default(),
            rewriter: None,
            output: None,
        };
        Self { subscriber, track, source: None, stream_id, settings, mid: None, negotiated: false, forwarder }
    }

    /// Takes new settings. What was paused starts again at a keyframe.
    pub(crate) fn configure(&mut self, settings: SubscriptionSettings) {
        if settings.paused {
            self.forwarder.restart();
        }
        self.settings = settings;
    }

    /// The next packet begins a new stream, for video at a keyframe.
    pub(crate) fn restart(&mut self) {
        self.forwarder.restart();
    }

    /// Another source took the place of the one that sent encoding `index`.
    pub(crate) fn follow_encoding(&mut self, index: usize) {
        if !self.forwarder.selector.wants(index) {
            self.forwarder.restart();
        }
    }

    /// Puts the subscription on a section, whose numbers it goes on with.
    pub(crate) fn assign(&mut self, mid: Mid, rewriter: Rewriter) {
        self.mid = Some(mid);
        self.negotiated = false;
        self.forwarder.output = None;
        self.forwarder.rewriter = Some(rewriter);
        self.forwarder.restart();
    }

    /// Takes the subscription off its section, and returns what the section's next one needs.
    pub(crate) fn take_off(&mut self) -> Option<Rewriter> {
        self.mid = None;
        self.negotiated = false;
        self.forwarder.output = None;
        self.forwarder.restart();
        self.forwarder.rewriter.take()
    }

    /// Whether packets may flow at all.
    pub(crate) fn is_flowing(&self) -> bool {
        self.negotiated && !self.settings.paused && self.mid.is_some()
    }

    /// Whether a keyframe would bring what the settings ask for and is not sent yet.
    pub(crate) fn wants_keyframe(&self, active: &[bool], highest_layer: u8) -> bool {
        let quality = self.settings.quality;
        Selector::target(active, quality).is_some_and(|target| self.forwarder.selector.wants(target))
            || self.forwarder.layers.wants(target_layer(active, quality), highest_layer)
    }

    /// Forwards a packet, or leaves it out.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        connection: &mut Connection,
    ) -> Forwarded {
        let Some(mid) = self.mid.filter(|_| self.is_flowing()) else { return Forwarded::default() };
        let Choice { action, keyframe } = self.forwarder.choose(arrival, self.settings.quality);
        let sent = match action {
            Action::Send { marker, announce } => {
                self.forwarder.send(now, mid, arrival, (marker, announce), connection)
            }
            Action::LeaveOut => Some(self.forwarder.leave_out(mid, arrival.packet, connection)),
            Action::Ignore => Some(None),
        };
        match sent {
            Some(sent_bytes) => Forwarded { sent_bytes, keyframe, unsupported: false },
            None => Forwarded { unsupported: true, ..Forwarded::default() },
        }
    }
}

/// The highest spatial layer to forward: all of them where the quality chooses among encodings.
fn target_layer(active: &[bool], quality: TrackQuality) -> u8 {
    if active.len() == 1 { wanted_layer(quality) } else { TOP_LAYER }
}

#[derive(Debug)]
struct Forwarder {
    selector: Selector,
    layers: LayerSelector,
    /// The section's, as long as there is one.
    rewriter: Option<Rewriter>,
    output: Option<OutputFormat>,
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
#[derive(Clone, Copy, Debug)]
struct OutputFormat {
    of: PayloadFormat,
    payload_type: Pt,
    /// The subscriber takes no redundancy: send the primary block alone.
    unwrap_red: bool,
}

impl Forwarder {
    fn restart(&mut self) {
        self.selector.reset();
        self.switch();
    }

    fn switch(&mut self) {
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.switch();
        }
    }

    /// Decides on a packet.
    fn choose(&mut self, arrival: Arrival<'_>, quality: TrackQuality) -> Choice {
        let Arrival { kind, packet, encoding, active, highest_layer } = arrival;
        let ignore = Choice { action: Action::Ignore, keyframe: None };
        if packet.payload.is_empty() {
            // Padding of a sender that probes without retransmission payloads.
            let action = if self.selector.is_current(encoding) { Action::LeaveOut } else { Action::Ignore };
            return Choice { action, ..ignore };
        }
        let Some(target) = Selector::target(active, quality) else { return ignore };
        let can_start = kind == MediaKind::Audio || packet.keyframe;
        let selection = self.selector.select(encoding, target, can_start);
        let keyframe = self.selector.wants(target).then_some(target);
        match selection {
            Selection::Forward => {}
            Selection::Switch => {
                self.switch();
                self.layers.start(packet.layer);
            }
            Selection::Drop => return Choice { keyframe, ..ignore },
        }
        let Some(layer) = packet.layer else {
            return Choice { action: Action::Send { marker: packet.marker, announce: None }, keyframe };
        };
        let wanted = target_layer(active, quality);
        let action = match self.layers.select(packet, layer, wanted) {
            LayerSelection::Forward { picture_end, announce } => {
                Action::Send { marker: packet.marker || picture_end, announce }
            }
            LayerSelection::Drop => Action::LeaveOut,
        };
        // In a keyframe, the layers above are about to come.
        let lacks_layer = !layer.refresh && self.layers.wants(wanted, highest_layer);
        Choice { action, keyframe: keyframe.or(lacks_layer.then_some(encoding)) }
    }

    /// Hands a packet over, and returns its bytes. `None` if its codec is not accepted, `Some(None)` if it
    /// comes too late, or before the source's start.
    fn send(
        &mut self,
        now: Instant,
        mid: Mid,
        arrival: Arrival<'_>,
        (marker, announce): (bool, Option<Announcement>),
        connection: &mut Connection,
    ) -> Option<Option<usize>> {
        let Arrival { kind, packet, .. } = arrival;
        let output = match self.output {
            Some(output) if output.of == packet.format => output,
            _ => {
                let output = output_format(mid, packet.format, connection)?;
                self.output = Some(output);
                output
            }
        };
        let numbers = self.rewriter.as_mut().and_then(|rewriter| rewriter.rewrite(now, packet));
        let Some(mut numbers) = numbers else { return Some(None) };
        if let (Some(announce), Some(targets)) = (announce, packet.targets)
            && let Some(descriptor) = numbers.extensions.dependency_descriptor()
            && let Some(limited) = targets.limited(descriptor, announce.highest, announce.explicit)
        {
            numbers.extensions = numbers.extensions.with_dependency_descriptor(limited);
        }
        let payload = match (packet.format.codec, numbers.ids) {
            (Codec::Red, _) if output.unwrap_red => match red_primary(&packet.payload) {
                Some(primary) => primary,
                None => return Some(None),
            },
            (Codec::Vp9, Some(ids)) if numbers.ids != packet.ids => vp9::with_ids(&packet.payload, ids),
            _ => packet.payload.clone(),
        };
        let vp8 = numbers.ids.filter(|_| packet.format.codec == Codec::Vp8);
        let retransmittable = kind == MediaKind::Video;
        let packet = ForwardedPacket {
            marker,
            vp8,
            retransmittable,
            ..forwarded(numbers, output.payload_type, payload)
        };
        let bytes = packet.payload.len();
        Some(connection.write(mid, packet).then_some(bytes))
    }

    /// Leaves a packet out. If the receiver waits for it, an empty one goes in its place.
    fn leave_out(&mut self, mid: Mid, packet: &MediaPacket, connection: &mut Connection) -> Option<usize> {
        let numbers = self.rewriter.as_mut().and_then(|rewriter| rewriter.leave_out(packet));
        let (Some(numbers), Some(output)) = (numbers, self.output) else { return None };
        let empty = forwarded(numbers, output.payload_type, Arc::from([]));
        let empty = ForwardedPacket { extensions: PacketExtensions::default(), ..empty };
        connection.write(mid, empty).then_some(0)
    }
}

fn forwarded(numbers: Rewritten, payload_type: Pt, payload: Arc<[u8]>) -> ForwardedPacket {
    ForwardedPacket {
        payload_type,
        sequence: numbers.sequence,
        timestamp: numbers.timestamp,
        marker: false,
        payload,
        extensions: numbers.extensions,
        vp8: None,
        retransmittable: true,
    }
}

fn output_format(mid: Mid, format: PayloadFormat, connection: &Connection) -> Option<OutputFormat> {
    if let Ok(payload_type) = connection.payload_type(mid, &format) {
        return Some(OutputFormat { of: format, payload_type, unwrap_red: false });
    }
    let plain = (format.codec == Codec::Red).then(|| Connection::without_red(&format))?;
    let payload_type = connection.payload_type(mid, &plain).ok()?;
    Some(OutputFormat { of: format, payload_type, unwrap_red: true })
}

#[cfg(test)]
mod tests;
