//! Makes one continuous RTP stream out of packets from changing sources: sequence numbers, timestamps, VP8
//! picture ids and frame numbers go on where the last source stopped.

use std::time::Instant;

use rand::{Rng, RngExt};

use crate::connection::{MediaPacket, PacketExtensions, Vp8Ids};

/// Numbers of a forwarded packet.
#[derive(Clone, Debug)]
pub(crate) struct Rewritten {
    /// Sequence number with rollovers.
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) vp8: Option<Vp8Ids>,
    pub(crate) extensions: PacketExtensions,
}

/// The state of one outgoing stream.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// The next sequence number for a new source; also one past the highest that was sent.
    next_sequence: u64,
    last_timestamp: u32,
    /// When the packet with `last_timestamp` was forwarded.
    last_at: Option<Instant>,
    last_vp8: Option<Vp8Ids>,
    last_frame: Option<u16>,
    source: Option<Source>,
}

/// What is subtracted from a source's numbers.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// The packet it began with. Earlier ones are not forwarded.
    first_sequence: u64,
    /// The outgoing number of that packet.
    sequence_base: u64,
    timestamp_offset: u32,
    picture_offset: u16,
    tl0_offset: u8,
    frame_offset: u16,
}

impl Rewriter {
    /// Starts at random numbers; the sequence number leaves room below 65 536, because a receiver takes the
    /// first one it sees for one without rollovers (RFC 3711, section 3.3.1).
    pub(crate) fn new(random: &mut impl Rng) -> Self {
        Self {
            next_sequence: random.random_range(1..0x8000),
            last_timestamp: random.random(),
            last_at: None,
            last_vp8: None,
            last_frame: None,
            source: None,
        }
    }

    /// The next packet begins a new source.
    pub(crate) fn switch(&mut self) {
        self.source = None;
    }

    /// Numbers for `packet`, or none if it came before the source's first packet.
    pub(crate) fn rewrite(
        &mut self,
        now: Instant,
        packet: &MediaPacket,
        vp8: Option<Vp8Ids>,
    ) -> Option<Rewritten> {
        let source = match self.source {
            Some(source) => source,
            None => {
                let source = self.begin(now, packet, vp8);
                self.source = Some(source);
                source
            }
        };
        let distance = packet.sequence.checked_sub(source.first_sequence)?;
        let sequence = source.sequence_base.checked_add(distance)?;
        let timestamp = packet.timestamp.wrapping_sub(source.timestamp_offset);
        let vp8 = vp8.map(|ids| Vp8Ids {
            picture_id: ids.picture_id.wrapping_sub(source.picture_offset) & 0x7fff,
            tl0_pic_idx: ids.tl0_pic_idx.map(|index| index.wrapping_sub(source.tl0_offset)),
        });
        let frame = packet.extensions.frame_number().map(|number| number.wrapping_sub(source.frame_offset));
        if sequence >= self.next_sequence {
            self.next_sequence = sequence.saturating_add(1);
            self.last_timestamp = timestamp;
            self.last_at = Some(now);
            self.last_vp8 = vp8.or(self.last_vp8);
            self.last_frame = frame.or(self.last_frame);
        }
        let extensions = match frame {
            Some(number) if source.frame_offset != 0 => packet.extensions.with_frame_number(number),
            _ => packet.extensions.clone(),
        };
        Some(Rewritten { sequence, timestamp, vp8, extensions })
    }

    fn begin(&mut self, now: Instant, packet: &MediaPacket, vp8: Option<Vp8Ids>) -> Source {
        let timestamp = match self.last_at {
            None => self.last_timestamp,
            Some(at) => {
                let elapsed = now.saturating_duration_since(at);
                let ticks = elapsed.as_micros() * u128::from(packet.format.clock_rate_hz) / 1_000_000;
                let ticks = u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0);
                self.last_timestamp.wrapping_add(ticks.max(1))
            }
        };
        let (picture_offset, tl0_offset) = match (vp8, self.last_vp8) {
            (Some(ids), Some(last)) => {
                let picture = last.picture_id.wrapping_add(1);
                let tl0 = last.tl0_pic_idx.unwrap_or(0).wrapping_add(1);
                (ids.picture_id.wrapping_sub(picture), ids.tl0_pic_idx.unwrap_or(0).wrapping_sub(tl0))
            }
            _ => (0, 0),
        };
        let frame_offset = match (packet.extensions.frame_number(), self.last_frame) {
            (Some(number), Some(last)) => number.wrapping_sub(last.wrapping_add(1)),
            _ => 0,
        };
        Source {
            first_sequence: packet.sequence,
            sequence_base: self.next_sequence,
            timestamp_offset: packet.timestamp.wrapping_sub(timestamp),
            picture_offset,
            tl0_offset,
            frame_offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::connection::{Codec, Mid, PayloadFormat};

    const CLOCK_RATE_HZ: u32 = 90_000;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        Instant::now()
    }

    fn packet(sequence: u64, timestamp: u32) -> MediaPacket {
        MediaPacket {
            mid: Mid::from("0"),
            rid: None,
            format: PayloadFormat::unnegotiated(Codec::Vp8, CLOCK_RATE_HZ),
            sequence,
            timestamp,
            marker: false,
            payload: Arc::from([0_u8; 4]),
            extensions: PacketExtensions::default(),
            keyframe: false,
        }
    }

    fn ids(picture_id: u16, tl0: u8) -> Option<Vp8Ids> {
        Some(Vp8Ids { picture_id, tl0_pic_idx: Some(tl0) })
    }

    #[test]
    fn a_switch_goes_on_where_the_last_source_stopped() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(3));
        let first = rewriter.rewrite(now, &packet(70_000, 5000), ids(100, 7)).unwrap();
        assert!(first.sequence < 65_536);
        let second = rewriter.rewrite(now, &packet(70_001, 8000), ids(101, 8)).unwrap();
        assert_eq!(second.sequence, first.sequence + 1);
        assert_eq!(second.timestamp.wrapping_sub(first.timestamp), 3000);
        rewriter.switch();
        let later = now + Duration::from_millis(100);
        let third = rewriter.rewrite(later, &packet(3, 77), ids(32_767, 255)).unwrap();
        assert_eq!(third.sequence, second.sequence + 1);
        assert_eq!(third.timestamp.wrapping_sub(second.timestamp), 9000, "100 ms of a 90 kHz clock");
        let second_ids = second.vp8.unwrap();
        assert_eq!(third.vp8, ids(second_ids.picture_id + 1, second_ids.tl0_pic_idx.unwrap() + 1));
        let fourth = rewriter.rewrite(later, &packet(4, 3077), ids(0, 0)).unwrap();
        assert_eq!(fourth.vp8, ids(second_ids.picture_id + 2, second_ids.tl0_pic_idx.unwrap() + 2));
    }

    #[test]
    fn late_packets_keep_their_place_and_those_before_the_start_are_left_out() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(4));
        let first = rewriter.rewrite(now, &packet(10, 0), None).unwrap().sequence;
        assert_eq!(rewriter.rewrite(now, &packet(13, 0), None).unwrap().sequence, first + 3);
        assert_eq!(rewriter.rewrite(now, &packet(11, 0), None).unwrap().sequence, first + 1);
        assert!(rewriter.rewrite(now, &packet(9, 0), None).is_none());
        rewriter.switch();
        assert_eq!(rewriter.rewrite(now, &packet(500, 0), None).unwrap().sequence, first + 4);
    }

    proptest! {
        /// Whatever sources follow each other, no outgoing number is used twice.
        #[test]
        fn sequence_numbers_are_never_reused(
            seed: u64,
            sources in prop::collection::vec((0_u64..1 << 40, 1_usize..40, any::<u32>()), 1..8),
        ) {
            let mut now = start();
            let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(seed));
            let mut seen = std::collections::HashSet::new();
            for (base, count, timestamp) in sources {
                rewriter.switch();
                // Arrival order within a source: pairs swapped after the first packet.
                let mut order: Vec<u64> = (0..count as u64).collect();
                for pair in order[1..].chunks_mut(2) {
                    pair.reverse();
                }
                for offset in order {
                    now += Duration::from_millis(5);
                    let out = rewriter.rewrite(now, &packet(base + offset, timestamp), None).unwrap();
                    prop_assert!(seen.insert(out.sequence));
                }
            }
        }
    }
}
