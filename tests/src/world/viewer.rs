//! What a viewer sees and hears: a model of a decoder and of a jitter buffer.

use std::{collections::BTreeMap, time::Duration};

use zynk_client::{MediaPacket, SyntheticHeader};

/// Between two packets of audio.
const PTIME: Duration = Duration::from_millis(20);
/// Packets of audio that come so much later than the quickest of their track are concealed.
const PLAYOUT_DELAY: Duration = Duration::from_millis(200);
/// A decoder that waits for so long asks for a keyframe, again and again.
const KEYFRAME_WAIT: Duration = Duration::from_millis(500);

/// A frame that was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Since the world began.
    pub at: Duration,
    /// When it was made.
    pub made: Duration,
    /// The encoding, from the lowest.
    pub encoding: u32,
    /// The temporal layer.
    pub temporal: u8,
    /// Bytes of payload.
    pub bytes: usize,
}

/// Frames of VP8 and their decoder, as libwebrtc has them (`rtp_vp8_ref_finder.cc`): a frame of layer 0 needs the one
/// before, by TL0PICIDX; others need the last of layer 0, and all pictures since, by picture id.
#[derive(Debug, Default)]
pub struct Viewer {
    /// By picture id with rollovers.
    pending: BTreeMap<u64, Frame>,
    picture_id: Option<u64>,
    last: Option<Reference>,
    /// All that was decoded.
    pub decoded: Vec<Decoded>,
    asked_at: Duration,
    /// When it was told that the picture pauses, and that it goes on.
    pauses: Vec<(Duration, Option<Duration>)>,
}

#[derive(Debug)]
struct Frame {
    stream: u32,
    seen: Vec<bool>,
    keyframe: bool,
    temporal: u8,
    from_base: bool,
    tl0_pic_idx: u8,
    bytes: usize,
    made: Duration,
}

/// What was decoded last.
#[derive(Clone, Copy, Debug)]
struct Reference {
    stream: u32,
    picture: u64,
    tl0_pic_idx: u8,
    /// Layer 1 has been decoded since layer 0.
    middle: bool,
}

impl Viewer {
    /// Takes a packet; true if a keyframe is to be asked for.
    pub(super) fn receive(&mut self, at: Duration, packet: &MediaPacket) -> bool {
        let Some(header) = SyntheticHeader::parse(&packet.payload) else { return false };
        let [first, _, high, low, tl0_pic_idx, layer, frame_type, ..] = packet.payload[..] else {
            return false;
        };
        assert_eq!(first & 0x80, 0x80, "VP8 with an extended descriptor");
        let picture = self.picture(u16::from_be_bytes([high & 0x7f, low]));
        let frame = self.pending.entry(picture).or_insert_with(|| Frame {
            stream: header.stream,
            seen: vec![false; usize::from(header.count)],
            keyframe: false,
            temporal: layer >> 6,
            from_base: layer & 0x20 != 0,
            tl0_pic_idx,
            bytes: 0,
            made: Duration::from_micros(header.sent_us),
        });
        assert_eq!(frame.stream, header.stream, "two pictures under one id");
        frame.seen[usize::from(header.index)] = true;
        frame.bytes += packet.payload.len();
        frame.keyframe |= first & 0x10 != 0 && frame_type & 1 == 0;
        self.decode(at);
        let decoded_at = self.decoded.last().map_or(Duration::ZERO, |last| last.at);
        let waits = at.saturating_sub(decoded_at.max(self.asked_at)) >= KEYFRAME_WAIT;
        if waits {
            self.asked_at = at;
        }
        waits
    }

    fn picture(&mut self, picture_id: u16) -> u64 {
        let picture = match self.picture_id {
            None => (1 << 20) | u64::from(picture_id),
            Some(newest) => {
                let ahead = (u64::from(picture_id).wrapping_sub(newest)) & 0x7fff;
                if ahead < 0x4000 { newest + ahead } else { newest + ahead - 0x8000 }
            }
        };
        self.picture_id = Some(self.picture_id.map_or(picture, |newest| newest.max(picture)));
        picture
    }

    fn decode(&mut self, at: Duration) {
        while let Some(picture) = self.next() {
            // What was passed over is of no use any more.
            let later = self.pending.split_off(&(picture + 1));
            let Some((_, frame)) = std::mem::replace(&mut self.pending, later).pop_last() else { return };
            let middle = match frame.temporal {
                0 => false,
                1 => true,
                _ => self.last.is_some_and(|last| last.middle),
            };
            let (stream, tl0_pic_idx) = (frame.stream, frame.tl0_pic_idx);
            self.last = Some(Reference { stream, picture, tl0_pic_idx, middle });
            self.decoded.push(Decoded {
                at,
                made: frame.made,
                encoding: stream % 4,
                temporal: frame.temporal,
                bytes: frame.bytes,
            });
        }
    }

    /// The first picture that can be decoded.
    fn next(&self) -> Option<u64> {
        let decodes = |(picture, frame): &(&u64, &Frame)| {
            let complete = frame.seen.iter().all(|seen| *seen);
            let Some(last) = self.last else { return complete && frame.keyframe };
            if !complete || **picture <= last.picture {
                return false;
            }
            let follows = frame.tl0_pic_idx.wrapping_sub(last.tl0_pic_idx);
            let references = match frame.temporal {
                0 => follows == 1,
                1 => follows == 0 && **picture == last.picture + 1,
                _ => follows == 0 && **picture == last.picture + 1 && (frame.from_base || last.middle),
            };
            frame.keyframe || (frame.stream == last.stream && references)
        };
        self.pending.iter().find(decodes).map(|(picture, _)| *picture)
    }

    /// The server says that the picture pauses, or goes on.
    pub(super) fn set_paused(&mut self, at: Duration, paused: bool) {
        match self.pauses.last_mut() {
            Some((_, ended @ None)) if !paused => *ended = Some(at),
            _ if paused => self.pauses.push((at, None)),
            _ => {}
        }
    }

    /// When it paused, and went on.
    pub fn pauses(&self) -> &[(Duration, Option<Duration>)] {
        &self.pauses
    }

    /// The times of a span that passed without a picture, each longer than `least`. Announced pauses do not count, with the
    /// second in which the picture comes back.
    pub fn freezes(&self, from: Duration, to: Duration, least: Duration) -> Vec<(Duration, Duration)> {
        let times: Vec<Duration> = [from]
            .into_iter()
            .chain(self.decoded.iter().map(|frame| frame.at).filter(|at| (from..to).contains(at)))
            .chain([to])
            .collect();
        let is_pause = |(from, to): &(Duration, Duration)| {
            let pauses = self.pauses.iter();
            pauses.into_iter().any(|(begun, ended)| {
                *begun < *to && ended.is_none_or(|ended| ended + Duration::from_secs(1) > *from)
            })
        };
        let gaps = times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(a, b)| *b - *a > least);
        gaps.filter(|gap| !is_pause(gap)).collect()
    }
}

impl Viewer {
    /// How long pictures stand still, of a span, behind a jitter buffer of so much more than the quickest picture needs: more
    /// than 150 ms longer than usual, as `freezeCount` of WebRTC statistics has it.
    pub fn frozen(&self, from: Duration, to: Duration, buffer: Duration) -> Duration {
        let quickest = self.decoded.iter().map(|frame| frame.at.saturating_sub(frame.made)).min();
        let shown = |frame: &Decoded| frame.at.max(frame.made + quickest.unwrap_or_default() + buffer);
        let times: Vec<_> = self.decoded.iter().map(shown).filter(|at| (from..to).contains(at)).collect();
        let usual = (to - from) / u32::try_from(times.len().max(1)).unwrap_or(u32::MAX);
        let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        gaps.filter(|gap| *gap > usual + Duration::from_millis(150)).sum()
    }
}

/// The payloads of one audio track, and whether they came in time to be played: in their packet, or in a later one.
#[derive(Debug, Default)]
pub struct Listener {
    /// When each was sent and how long it took to come, by number.
    transits: BTreeMap<u32, (Duration, Duration)>,
    /// Same, of the packets.
    packets: BTreeMap<u32, (Duration, Duration)>,
}

impl Listener {
    pub(super) fn receive(&mut self, at: Duration, packet: &MediaPacket) {
        for earlier in &packet.earlier {
            Self::note(&mut self.transits, at, &earlier.payload);
        }
        Self::note(&mut self.transits, at, &packet.payload);
        Self::note(&mut self.packets, at, &packet.payload);
    }

    fn note(transits: &mut BTreeMap<u32, (Duration, Duration)>, at: Duration, payload: &[u8]) {
        let Some(header) = SyntheticHeader::parse(payload) else { return };
        let sent = Duration::from_micros(header.sent_us);
        transits.entry(header.frame).or_insert((sent, at.saturating_sub(sent)));
    }

    /// The share of packets of a span, by the times at which they were sent, whose payloads were not there to be played.
    pub fn concealed(&self, from: Duration, to: Duration) -> f64 {
        self.share_missing(from, to, |number| self.transits.get(&number).map(|(_, transit)| *transit))
    }

    /// What that would be if each packet that came had carried so many earlier payloads.
    pub fn concealed_with(&self, earlier_payloads: u32, from: Duration, to: Duration) -> f64 {
        self.share_missing(from, to, |number| {
            let later = (0..=earlier_payloads).filter_map(|distance| {
                self.packets.get(&(number + distance)).map(|(_, transit)| *transit + PTIME * distance)
            });
            later.min()
        })
    }

    fn share_missing(&self, from: Duration, to: Duration, transit: impl Fn(u32) -> Option<Duration>) -> f64 {
        let quickest = self.packets.values().map(|(_, transit)| *transit).min().unwrap_or_default();
        let mut in_span = self.packets.iter().filter(|(_, (sent, _))| (from..to).contains(sent));
        let (Some((first, _)), Some((last, _))) = (in_span.next(), in_span.next_back()) else { return 1.0 };
        let is_played =
            |number: &u32| transit(*number).is_some_and(|transit| transit <= quickest + PLAYOUT_DELAY);
        let played = (*first..=*last).filter(is_played).count();
        1.0 - played as f64 / f64::from(*last - *first + 1)
    }
}
