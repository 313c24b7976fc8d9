//! One subscriber's share of one track: picks packets, renumbers them, hands them to the connection.

use std::time::Instant;

use zynk_protocol::{MediaKind, SubscriptionSettings, TrackSid};

use crate::{
    connection::{
        Codec, Connection, ForwardedPacket, MediaPacket, Mid, PayloadFormat, Pt, Vp8Ids, red_primary,
    },
    rewriter::Rewriter,
    selector::{Selection, Selector},
    shard::{EndpointKey, TrackKey},
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

/// What became of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// It was handed to the connection.
    pub(crate) sent: bool,
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
        let forwarder = Forwarder { selector: Selector::default(), rewriter: None, output: None };
        Self { subscriber, track, source: None, stream_id, settings, mid: None, negotiated: false, forwarder }
    }

    /// Takes new settings. What was paused starts again at a keyframe.
    pub(crate) fn configure(&mut self, settings: SubscriptionSettings) {
        if settings.paused {
            self.forwarder.restart();
        }
        self.settings = settings;
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

    /// Forwards a packet of encoding `index`; `active` tells which encodings of the track are being sent.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        kind: MediaKind,
        packet: &MediaPacket,
        index: usize,
        active: &[bool],
        connection: &mut Connection,
    ) -> Forwarded {
        let Some(mid) = self.mid.filter(|_| self.negotiated && !self.settings.paused) else {
            return Forwarded::default();
        };
        let Some(target) = Selector::target(active, self.settings.quality) else {
            return Forwarded::default();
        };
        let can_start = kind == MediaKind::Audio || packet.keyframe;
        let selection = self.forwarder.selector.select(index, target, can_start);
        let keyframe = self.forwarder.selector.wants(target).then_some(target);
        match selection {
            Selection::Forward => {}
            Selection::Switch => self.forwarder.switch(),
            Selection::Drop => return Forwarded { keyframe, ..Forwarded::default() },
        }
        match self.forwarder.send(now, kind, mid, packet, connection) {
            Some(sent) => Forwarded { sent, keyframe, unsupported: false },
            None => Forwarded { unsupported: true, ..Forwarded::default() },
        }
    }
}

#[derive(Debug)]
struct Forwarder {
    selector: Selector,
    /// The section's, as long as there is one.
    rewriter: Option<Rewriter>,
    output: Option<OutputFormat>,
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

    /// Hands a packet over. None if its codec is not accepted, false if it comes before the source's start.
    fn send(
        &mut self,
        now: Instant,
        kind: MediaKind,
        mid: Mid,
        packet: &MediaPacket,
        connection: &mut Connection,
    ) -> Option<bool> {
        let output = match self.output {
            Some(output) if output.of == packet.format => output,
            _ => {
                let output = output_format(mid, packet.format, connection)?;
                self.output = Some(output);
                output
            }
        };
        let vp8 = (packet.format.codec == Codec::Vp8).then(|| Vp8Ids::of(&packet.payload)).flatten();
        let numbers = self.rewriter.as_mut().and_then(|rewriter| rewriter.rewrite(now, packet, vp8));
        let Some(numbers) = numbers else { return Some(false) };
        let payload = match output.unwrap_red {
            true => match red_primary(&packet.payload) {
                Some(primary) => primary,
                None => return Some(false),
            },
            false => packet.payload.clone(),
        };
        Some(connection.write(
            mid,
            ForwardedPacket {
                payload_type: output.payload_type,
                sequence: numbers.sequence,
                timestamp: numbers.timestamp,
                marker: packet.marker,
                payload,
                extensions: numbers.extensions,
                vp8: numbers.vp8,
                retransmittable: kind == MediaKind::Video,
            },
        ))
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
