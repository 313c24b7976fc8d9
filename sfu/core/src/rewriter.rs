//! Makes one continuous RTP stream out of packets from changing sources, some of which are left out: sequence
//! numbers, timestamps, picture ids and frame numbers go on where the last source stopped.

use std::{collections::VecDeque, time::Instant};

use rand::{Rng, RngExt};

use crate::connection::{Codec, PacketHead, PictureIds};

/// Numbers of a forwarded packet.
#[derive(Clone, Debug)]
pub(crate) struct Rewritten {
    /// Sequence number with rollovers.
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) ids: Option<PictureIds>,
    /// The frame's number in the dependency descriptor, if it has one.
    pub(crate) frame: Option<u16>,
}

/// Runs of packets left out that are remembered, for packets that come late. With a run a picture, those of
/// several seconds; packets from before them are not forwarded.
const RUNS_MAX: usize = 128;

/// Sources, the running one included, whose numbers are known for packets that are sent (again) later. More than a
/// round trip and the pacer's queue can see change.
pub(crate) const EPOCHS_MAX: usize = 8;

/// Frames from a keyframe cache are so much closer together than they were captured, as a power of two: a second of them
/// takes 31 ms of the outgoing stream's time, as it takes of the receiver's. Played at the pace of their capture, they would
/// keep the receiver that much behind for good.
const CATCH_UP_SHIFT: u32 = 5;

/// Frames that are older than the newest by more are not caught up with; 2.9 s of a 90 kHz clock.
const CATCH_UP_TICKS_MAX: u32 = 1 << 18;

/// Names a source of an outgoing stream among its last [`EPOCHS_MAX`]; counts up with each one, and wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(pub(crate) u8);

impl Epoch {
    /// Its place among [`EPOCHS_MAX`].
    pub(crate) fn place(self) -> usize {
        usize::from(self.0) % EPOCHS_MAX
    }
}

/// The state of one outgoing stream.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// The next sequence number for a new source; also one past the highest that was sent.
    next_sequence: u64,
    last_timestamp: u32,
    /// When the packet with `last_timestamp` was forwarded.
    last_at: Option<Instant>,
    last_ids: Option<PictureIds>,
    last_frame: Option<u16>,
    source: Option<Source>,
    /// See [`Self::catch_up`].
    live_from: Option<u32>,
    /// The running source's, or the last one's.
    epoch: Epoch,
    /// By [`Epoch::place`].
    offsets: [Offsets; EPOCHS_MAX],
    /// What was left out of the source, from oldest to newest.
    runs: VecDeque<Run>,
    /// Same, of the source before it.
    runs_before: (Epoch, VecDeque<Run>),
}

/// Packets of a source, one after the other, that have no outgoing numbers.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    /// One past the last.
    end: u64,
    /// Packets that were left out before these.
    before: u64,
    /// Whole pictures of VP8 that were left out up to the run's end: its receivers wait for those whose number is missing.
    pictures: u16,
}

impl Run {
    /// Packets left out up to the run's end.
    fn total(&self) -> u64 {
        self.before.saturating_add(self.end.saturating_sub(self.first))
    }
}

/// A source, and what is subtracted from its numbers.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// The packet it began with. Earlier ones are not forwarded.
    first_sequence: u64,
    /// The outgoing number of that packet.
    sequence_base: u64,
    /// The highest packet that came.
    highest: u64,
    /// The timestamp of the last packet left out.
    left_out_timestamp: Option<u32>,
    offsets: Offsets,
}

/// What is subtracted from a source's numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offsets {
    timestamp: u32,
    picture: u16,
    tl0: u8,
    frame: u16,
    /// Frames with timestamps a little before this one are caught up with.
    live_from: Option<u32>,
    /// Pictures of the source were left out as well, and it is known no more which.
    unknown_pictures: bool,
}

impl Offsets {
    /// The outgoing timestamp.
    pub(crate) fn timestamp(self, timestamp: u32) -> u32 {
        let outgoing = timestamp.wrapping_add(self.timestamp_offset());
        match self.live_from.map_or(0, |live| live.wrapping_sub(timestamp)) {
            behind @ 1..=CATCH_UP_TICKS_MAX => outgoing.wrapping_add(behind - (behind >> CATCH_UP_SHIFT)),
            _ => outgoing,
        }
    }

    /// What is added to timestamps, but for those that are caught up with.
    pub(crate) fn timestamp_offset(self) -> u32 {
        self.timestamp.wrapping_neg()
    }

    /// The outgoing picture ids, where so many pictures were left out before.
    pub(crate) fn ids(self, ids: PictureIds, left_out: u16) -> PictureIds {
        PictureIds {
            picture_id: ids.picture_id.wrapping_sub(self.picture).wrapping_sub(left_out) & 0x7fff,
            tl0_pic_idx: ids.tl0_pic_idx.map(|index| index.wrapping_sub(self.tl0)),
        }
    }

    /// Whether picture ids change.
    pub(crate) fn moves_ids(self) -> bool {
        self.picture != 0 || self.tl0 != 0
    }

    /// The outgoing frame number.
    pub(crate) fn frame(self, number: u16) -> u16 {
        number.wrapping_sub(self.frame)
    }

    /// Whether frame numbers change.
    pub(crate) fn moves_frames(self) -> bool {
        self.frame != 0
    }
}

impl Rewriter {
    /// Starts at random numbers; the sequence number leaves room below 65 536, because a receiver takes the
    /// first one it sees for one without rollovers (RFC 3711, section 3.3.1).
    pub(crate) fn new(random: &mut impl Rng) -> Self {
        Self {
            next_sequence: random.random_range(1..0x8000),
            last_timestamp: random.random(),
            last_at: None,
            last_ids: None,
            last_frame: None,
            source: None,
            live_from: None,
            epoch: Epoch::default(),
            offsets: [Offsets::default(); EPOCHS_MAX],
            runs: VecDeque::new(),
            runs_before: (Epoch::default(), VecDeque::new()),
        }
    }

    /// The source that the last packet was numbered for.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is subtracted from a source's numbers; none if too many sources came after it.
    pub(crate) fn offsets(&self, epoch: Epoch) -> Option<Offsets> {
        let age = usize::from(self.epoch.0.wrapping_sub(epoch.0));
        self.offsets.get(epoch.place()).copied().filter(|_| age < EPOCHS_MAX)
    }

    /// How many whole pictures of a source were left out before one of its packets; none if that is known no more. Always 0
    /// but for VP8.
    pub(crate) fn pictures_left_out(&self, epoch: Epoch, number: u64) -> Option<u16> {
        let runs = match &self.runs_before {
            _ if epoch == self.epoch && self.source.is_some() => &self.runs,
            (before, runs) if *before == epoch => runs,
            _ => return self.offsets(epoch).filter(|offsets| !offsets.unknown_pictures).map(|_| 0),
        };
        pictures_before(runs, number)
    }

    /// The next packet begins a new source.
    pub(crate) fn switch(&mut self) {
        if self.source.take().is_none() {
            return;
        }
        let (before, runs) = &mut self.runs_before;
        if runs.back().is_some_and(|run| run.pictures > 0)
            && let Some(offsets) = self.offsets.get_mut(before.place())
        {
            offsets.unknown_pictures = true;
        }
        std::mem::swap(runs, &mut self.runs);
        *before = self.epoch;
        self.runs.clear();
    }

    /// The next source begins in the past, with frames that the receiver is to catch up with; `live_from` is the timestamp of
    /// its newest.
    pub(crate) fn catch_up(&mut self, live_from: Option<u32>) {
        self.live_from = live_from;
    }

    /// Leaves a packet out, so that those around it have adjoining numbers. When it comes so late that its
    /// number was kept free for it, the receiver misses that number: it is returned, to send something empty.
    pub(crate) fn leave_out(&mut self, packet: &PacketHead) -> Option<Rewritten> {
        let source = self.source.as_mut()?;
        let number = packet.sequence;
        if number <= source.highest {
            let sequence = self.place(number)?;
            self.next_sequence = self.next_sequence.max(sequence.saturating_add(1));
            return Some(self.numbers(packet, sequence, None));
        }
        // What is missing between two packets left out of one picture would be left out as well.
        let same_picture = source.left_out_timestamp == Some(packet.timestamp);
        let end = number.saturating_add(1);
        let is_picture = packet.format.codec == Codec::Vp8 && !packet.empty && !same_picture;
        match self.runs.back_mut() {
            Some(last) if last.end == number || (same_picture && last.end > source.highest) => {
                last.end = end;
                last.pictures = last.pictures.wrapping_add(is_picture.into());
            }
            last => {
                let (before, pictures) = last.map_or((0, 0), |last| (last.total(), last.pictures));
                if self.runs.len() >= RUNS_MAX {
                    self.runs.pop_front();
                }
                let pictures = pictures.wrapping_add(is_picture.into());
                self.runs.push_back(Run { first: number, end, before, pictures });
            }
        }
        source.highest = number;
        source.left_out_timestamp = Some(packet.timestamp);
        None
    }

    /// Leaves out all that is missing before a packet: it goes out as the next one. Returns whether anything is left out.
    pub(crate) fn skip_to(&mut self, number: u64) -> bool {
        let Some(source) = self.source.as_mut().filter(|source| source.highest.saturating_add(1) < number)
        else {
            return false;
        };
        let (first, end) = (source.highest.saturating_add(1), number);
        let before = self.runs.back().map_or(0, Run::total);
        let pictures = self.runs.back().map_or(0, |run| run.pictures);
        if self.runs.len() >= RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(Run { first, end, before, pictures });
        source.highest = number.saturating_sub(1);
        true
    }

    /// The outgoing number of a source's packet; none if it was left out, or came before the source's first
    /// packet or everything that is remembered.
    fn place(&self, number: u64) -> Option<u64> {
        let source = self.source?;
        let distance = number.checked_sub(source.first_sequence)?;
        let left_out = match self.runs.iter().rfind(|run| run.first <= number) {
            Some(run) if number < run.end => return None,
            Some(run) => run.total(),
            None if self.runs.front().is_some_and(|run| run.before > 0) => return None,
            None => 0,
        };
        source.sequence_base.checked_add(distance.checked_sub(left_out)?)
    }

    /// Numbers for `packet`, or none if it came before the source's first packet, or too late.
    pub(crate) fn rewrite(&mut self, now: Instant, packet: &PacketHead) -> Option<Rewritten> {
        if self.source.is_none() {
            let source = self.begin(now, packet);
            self.live_from = None;
            self.epoch = Epoch(self.epoch.0.wrapping_add(1));
            if let Some(place) = self.offsets.get_mut(self.epoch.place()) {
                *place = source.offsets;
            }
            self.source = Some(source);
        }
        let sequence = self.place(packet.sequence)?;
        let source = self.source.as_mut()?;
        source.highest = source.highest.max(packet.sequence);
        let is_past =
            |live: u32| (CATCH_UP_TICKS_MAX..1 << 31).contains(&packet.timestamp.wrapping_sub(live));
        if source.offsets.live_from.is_some_and(is_past) {
            source.offsets.live_from = None;
            if let Some(place) = self.offsets.get_mut(self.epoch.place()) {
                place.live_from = None;
            }
        }
        let numbers = self.numbers(packet, sequence, packet.ids);
        if sequence >= self.next_sequence {
            self.next_sequence = sequence.saturating_add(1);
            self.last_timestamp = numbers.timestamp;
            self.last_at = Some(now);
            self.last_ids = numbers.ids.or(self.last_ids);
            self.last_frame = numbers.frame.or(self.last_frame);
        }
        Some(numbers)
    }

    fn numbers(&self, packet: &PacketHead, sequence: u64, ids: Option<PictureIds>) -> Rewritten {
        let offsets = self.source.map(|source| source.offsets).unwrap_or_default();
        let left_out = pictures_before(&self.runs, packet.sequence).unwrap_or(0);
        Rewritten {
            sequence,
            timestamp: offsets.timestamp(packet.timestamp),
            ids: ids.map(|ids| offsets.ids(ids, left_out)),
            frame: packet.frame.map(|number| offsets.frame(number)),
        }
    }

    fn begin(&self, now: Instant, packet: &PacketHead) -> Source {
        let behind = self.live_from.map(|live| live.wrapping_sub(packet.timestamp));
        let behind = behind.filter(|behind| *behind <= CATCH_UP_TICKS_MAX).unwrap_or(0);
        // Of the first frame that is not caught up with.
        let timestamp = match self.last_at {
            None => self.last_timestamp,
            Some(at) => {
                let elapsed = now.saturating_duration_since(at);
                let ticks = elapsed.as_micros() * u128::from(packet.format.clock_rate_hz) / 1_000_000;
                let ticks = u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0);
                self.last_timestamp.wrapping_add(ticks.max(1 + (behind >> CATCH_UP_SHIFT)))
            }
        };
        let (picture, tl0) = match (packet.ids, self.last_ids) {
            (Some(ids), Some(last)) => {
                let picture = last.picture_id.wrapping_add(1);
                let tl0 = last.tl0_pic_idx.unwrap_or(0).wrapping_add(1);
                (ids.picture_id.wrapping_sub(picture), ids.tl0_pic_idx.unwrap_or(0).wrapping_sub(tl0))
            }
            _ => (0, 0),
        };
        let frame = match (packet.frame, self.last_frame) {
            (Some(number), Some(last)) => number.wrapping_sub(last.wrapping_add(1)),
            _ => 0,
        };
        Source {
            first_sequence: packet.sequence,
            sequence_base: self.next_sequence,
            highest: packet.sequence,
            left_out_timestamp: None,
            offsets: Offsets {
                timestamp: packet.timestamp.wrapping_add(behind).wrapping_sub(timestamp),
                picture,
                tl0,
                frame,
                live_from: self.live_from.filter(|_| behind > 0),
                unknown_pictures: false,
            },
        }
    }
}

/// Pictures that were left out before a packet; none if it came before everything that is remembered.
fn pictures_before(runs: &VecDeque<Run>, number: u64) -> Option<u16> {
    match runs.iter().rfind(|run| run.first <= number) {
        Some(run) => Some(run.pictures),
        None if runs.front().is_some_and(|run| run.before > 0) => None,
        None => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::connection::{Codec, MediaPacket};

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        Instant::now()
    }

    fn packet(sequence: u64, timestamp: u32) -> PacketHead {
        MediaPacket::unreceived(Codec::Vp8, sequence, timestamp, &[0; 4]).head()
    }

    fn with_ids(packet: PacketHead, ids: Option<PictureIds>) -> PacketHead {
        PacketHead { ids, ..packet }
    }

    fn ids(picture_id: u16, tl0: u8) -> Option<PictureIds> {
        Some(PictureIds { picture_id, tl0_pic_idx: Some(tl0) })
    }

    #[test]
    fn a_switch_goes_on_where_the_last_source_stopped() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(3));
        let first = rewriter.rewrite(now, &with_ids(packet(70_000, 5000), ids(100, 7))).unwrap();
        assert!(first.sequence < 65_536);
        let second = rewriter.rewrite(now, &with_ids(packet(70_001, 8000), ids(101, 8))).unwrap();
        assert_eq!(second.sequence, first.sequence + 1);
        assert_eq!(second.timestamp.wrapping_sub(first.timestamp), 3000);
        rewriter.switch();
        let later = now + Duration::from_millis(100);
        let third = rewriter.rewrite(later, &with_ids(packet(3, 77), ids(32_767, 255))).unwrap();
        assert_eq!(third.sequence, second.sequence + 1);
        assert_eq!(third.timestamp.wrapping_sub(second.timestamp), 9000, "100 ms of a 90 kHz clock");
        let second_ids = second.ids.unwrap();
        assert_eq!(third.ids, ids(second_ids.picture_id + 1, second_ids.tl0_pic_idx.unwrap() + 1));
        let fourth = rewriter.rewrite(later, &with_ids(packet(4, 3077), ids(0, 0))).unwrap();
        assert_eq!(fourth.ids, ids(second_ids.picture_id + 2, second_ids.tl0_pic_idx.unwrap() + 2));
    }

    #[test]
    fn frames_of_the_past_are_caught_up_with() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(5));
        let last = rewriter.rewrite(now, &packet(1, 0)).unwrap().timestamp;
        rewriter.switch();
        rewriter.catch_up(Some(64_000));
        let mut timestamps = Vec::new();
        for (number, timestamp) in
            [0, 32_000, 64_000, 67_000, 64_000 + (1 << 18), 400_000].into_iter().enumerate()
        {
            let written = rewriter.rewrite(now, &packet(10 + number as u64, timestamp)).unwrap();
            assert_eq!(written.timestamp, rewriter.offsets(rewriter.epoch()).unwrap().timestamp(timestamp));
            timestamps.push(written.timestamp.wrapping_sub(last));
        }
        assert_eq!(timestamps, [1, 1001, 2001, 5001, 2001 + (1 << 18), 338_001]);
        let offsets = rewriter.offsets(rewriter.epoch()).unwrap();
        assert_eq!(
            offsets.timestamp(0),
            offsets.timestamp_offset(),
            "forgotten before timestamps come around"
        );
        rewriter.switch();
        let next = rewriter.rewrite(now, &packet(3, 7)).unwrap().timestamp;
        assert_eq!(next.wrapping_sub(last), 338_002, "the source after it begins at its end");
    }

    #[test]
    fn late_packets_keep_their_place_and_those_before_the_start_are_left_out() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(4));
        let first = rewriter.rewrite(now, &packet(10, 0)).unwrap().sequence;
        assert_eq!(rewriter.rewrite(now, &packet(13, 0)).unwrap().sequence, first + 3);
        assert_eq!(rewriter.rewrite(now, &packet(11, 0)).unwrap().sequence, first + 1);
        assert!(rewriter.rewrite(now, &packet(9, 0)).is_none());
        rewriter.switch();
        assert_eq!(rewriter.rewrite(now, &packet(500, 0)).unwrap().sequence, first + 4);
    }

    #[test]
    fn what_is_left_out_leaves_no_gap() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(5));
        let first = rewriter.rewrite(now, &packet(10, 0)).unwrap().sequence;
        assert!(rewriter.leave_out(&packet(11, 0)).is_none());
        assert!(rewriter.leave_out(&packet(12, 0)).is_none());
        assert_eq!(rewriter.rewrite(now, &packet(14, 1)).unwrap().sequence, first + 2, "13 is on its way");
        assert!(rewriter.leave_out(&packet(15, 1)).is_none());
        assert_eq!(rewriter.rewrite(now, &packet(16, 2)).unwrap().sequence, first + 3);
        assert_eq!(rewriter.rewrite(now, &packet(13, 1)).unwrap().sequence, first + 1);
        assert!(rewriter.rewrite(now, &packet(12, 0)).is_none(), "its number is another's now");
    }

    #[test]
    fn a_number_that_was_kept_for_nothing_is_given_back() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(6));
        let first = rewriter.rewrite(now, &packet(10, 0)).unwrap().sequence;
        assert_eq!(rewriter.rewrite(now, &packet(12, 1)).unwrap().sequence, first + 2);
        assert_eq!(rewriter.leave_out(&packet(11, 0)).unwrap().sequence, first + 1);
        assert!(rewriter.leave_out(&packet(13, 1)).is_none());
        assert!(rewriter.leave_out(&packet(15, 1)).is_none(), "14 is of the same picture, and left out too");
        assert_eq!(rewriter.rewrite(now, &packet(16, 2)).unwrap().sequence, first + 3);
        assert!(rewriter.leave_out(&packet(14, 1)).is_none());
    }

    #[test]
    fn receivers_do_not_miss_pictures_that_were_left_out() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(8));
        // Pictures of two packets each, of which every other one is left out.
        let picture = |number: u16, packet_number: u64| {
            let sequence = 2 * u64::from(number) + packet_number;
            with_ids(packet(sequence, 3000 * u32::from(number)), ids((0x7ffd + number) & 0x7fff, 0))
        };
        let mut sent = Vec::new();
        for number in 0..8_u16 {
            for part in 0..2 {
                let packet = picture(number, part);
                if number % 2 == 0 {
                    sent.push(rewriter.rewrite(now, &packet).unwrap().ids.unwrap().picture_id);
                } else {
                    rewriter.leave_out(&packet);
                }
            }
        }
        assert_eq!(sent, [0x7ffd, 0x7ffd, 0x7ffe, 0x7ffe, 0x7fff, 0x7fff, 0, 0]);
        let epoch = rewriter.epoch();
        let left_out = |rewriter: &Rewriter, number| rewriter.pictures_left_out(epoch, number);
        assert_eq!([0, 4, 9, 13].map(|number| left_out(&rewriter, number)), [0, 1, 2, 3].map(Some));
        rewriter.switch();
        assert_eq!(left_out(&rewriter, 9), Some(2), "for what still waits, or is asked for again");
        rewriter.switch();
        let next = rewriter.rewrite(now, &with_ids(packet(900, 5), ids(100, 0))).unwrap();
        assert_eq!(next.ids.unwrap().picture_id, 1);
        assert_eq!(left_out(&rewriter, 9), Some(2));
        rewriter.switch();
        assert_eq!(left_out(&rewriter, 9), None, "two sources later");
        assert_eq!(rewriter.pictures_left_out(rewriter.epoch(), 900), Some(0));
    }

    #[test]
    fn padding_is_no_picture() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(9));
        rewriter.rewrite(now, &with_ids(packet(10, 0), ids(5, 0))).unwrap();
        rewriter.leave_out(&PacketHead { empty: true, ..packet(11, 1) });
        let next = rewriter.rewrite(now, &with_ids(packet(12, 2), ids(6, 0))).unwrap();
        assert_eq!(next.ids.unwrap().picture_id, 6);
    }

    #[test]
    fn runs_are_forgotten_in_time() {
        let now = start();
        let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(7));
        rewriter.rewrite(now, &packet(0, 0)).unwrap();
        for picture in 1..=1000 {
            let timestamp = u32::try_from(picture).unwrap();
            assert!(rewriter.leave_out(&packet(3 * picture, timestamp)).is_none());
            rewriter.rewrite(now, &packet(3 * picture + 2, timestamp)).unwrap();
        }
        assert_eq!(rewriter.runs.len(), RUNS_MAX);
        assert!(rewriter.rewrite(now, &packet(2998, 999)).is_some());
        assert!(rewriter.rewrite(now, &packet(4, 1)).is_none(), "its place is not known any more");
    }

    proptest! {
        /// Whatever sources follow each other, with whatever left out, no outgoing number is used twice, and
        /// the numbers have the order of the packets.
        #[test]
        fn sequence_numbers_are_never_reused(
            seed: u64,
            sources in prop::collection::vec((0_u64..1 << 40, any::<u32>(), arrivals()), 1..8),
        ) {
            let mut now = start();
            let mut rewriter = Rewriter::new(&mut Pcg64Mcg::seed_from_u64(seed));
            let mut seen = std::collections::HashSet::new();
            for (base, timestamp, arrivals) in sources {
                rewriter.switch();
                let mut places = std::collections::BTreeMap::new();
                let complete = arrivals.iter().all(|(_, lost, _)| !lost);
                for (index, (offset, lost, leave_out)) in arrivals.into_iter().enumerate() {
                    if lost {
                        continue;
                    }
                    now += Duration::from_millis(5);
                    let packet = packet(base + offset, timestamp.wrapping_add(u32::try_from(offset).unwrap()));
                    let out = match leave_out && index > 0 {
                        true => rewriter.leave_out(&packet),
                        false => rewriter.rewrite(now, &packet),
                    };
                    if let Some(out) = out {
                        prop_assert!(seen.insert(out.sequence));
                        places.insert(packet.sequence, out.sequence);
                    }
                }
                let numbers: Vec<u64> = places.into_values().collect();
                for pair in numbers.windows(2) {
                    prop_assert!(pair[0] < pair[1]);
                    prop_assert!(!complete || pair[0] + 1 == pair[1], "a gap: {:?}", numbers);
                }
            }
        }
    }

    /// Packets of a source in the order in which they come, up to four places from where they belong: number,
    /// whether it is lost on the way, whether to leave it out.
    fn arrivals() -> impl Strategy<Value = Vec<(u64, bool, bool)>> {
        let packet = (0_u64..5, prop::bool::weighted(0.1), prop::bool::weighted(0.4));
        (prop::collection::vec(packet, 1..60), any::<bool>()).prop_map(|(packets, lossy)| {
            let numbered = packets.into_iter().enumerate().map(|(index, (delay, lost, leave_out))| {
                let number = index as u64;
                let place = if number == 0 { 0 } else { number + delay };
                (place, (number, lost && lossy && number > 0, leave_out))
            });
            let mut packets: Vec<_> = numbered.collect();
            packets.sort_by_key(|(place, _)| *place);
            packets.into_iter().map(|(_, packet)| packet).collect()
        })
    }
}
