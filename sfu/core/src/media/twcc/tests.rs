//! Known packets, round trips over lossy and hostile links, and the promise to report each fate once.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

/// Offset from the base and arrival after the reference time in 250 µs units, of the received ones.
fn received(feedback: &Feedback<'_>) -> Vec<(u16, i64)> {
    let (mut offset, mut ticks, mut all) = (0, 0, Vec::new());
    for run in feedback.runs() {
        match run {
            StatusRun::Lost(run) => offset += run,
            StatusRun::Received { delta } => {
                ticks += i64::from(delta);
                all.push((offset, ticks));
                offset += 1;
            }
        }
    }
    assert_eq!(offset, feedback.status_count);
    all
}

/// Packets as sent by Chrome, from the tests of Pion's rtcp and webrtc-rs's rtcp, after their first 12 bytes.
#[test]
fn known_packets_are_understood() {
    let one = [0, 153, 0, 1, 0x3d, 0xe8, 2, 0x17, 0x20, 1, 0x94, 1];
    let feedback = Feedback::parse(&one).unwrap();
    assert_eq!((feedback.base_seq, feedback.reference, feedback.count), (153, 4_057_090, 23));
    assert_eq!(received(&feedback), [(0, 148)]);

    let two_bit = [1, 0x74, 0, 0xe, 0x45, 0xb1, 0x5a, 0x40, 0xd8, 0, 0xf0, 0xff, 0xd0, 0, 0, 3];
    assert_eq!(Feedback::parse(&two_bit).err(), Some(FeedbackError::ReservedSymbol), "as libwebrtc does");

    let large =
        [1, 0x74, 0, 6, 0x45, 0xb1, 0x5a, 0x40, 0x40, 2, 0x20, 4, 0x1f, 0xfe, 0x1f, 0x9a, 0xd0, 0, 0xd0, 0];
    let sums = [8190, 16_280, 16_488, 16_488, 16_696, 16_696];
    let feedback = Feedback::parse(&large).unwrap();
    assert_eq!(received(&feedback), (0..6).zip(sums).collect::<Vec<_>>());

    let run = [0, 4, 0, 7, 0x10, 0x63, 0x6e, 1, 0x20, 7, 0x4c, 0x24, 0x24, 0x10, 0xc, 0xc, 0x10, 0, 0, 3];
    let deltas: Vec<_> = received(&Feedback::parse(&run).unwrap()).iter().map(|(_, ticks)| *ticks).collect();
    assert_eq!(deltas, [76, 112, 148, 164, 176, 188, 204]);

    let one_bit = [0, 1, 0, 0xe, 0x10, 0x63, 0x6d, 0, 0xba, 0, 0x10, 0xc, 0xc, 0x10, 0, 3];
    let offsets: Vec<_> = received(&Feedback::parse(&one_bit).unwrap()).iter().map(|(at, _)| *at).collect();
    assert_eq!(offsets, [0, 1, 2, 4]);

    let mixed = [
        0x85, 0x3c, 0, 9, 0x63, 0xf9, 0x16, 0xb3, 0xd5, 0x52, 0, 0x30, 0x9b, 0xaa, 0x6a, 0xaa, 0x7b, 1, 9, 1,
    ];
    let feedback = Feedback::parse(&mixed).unwrap();
    assert_eq!(feedback.base_seq, 34_108);
    assert_eq!(received(&feedback).len(), 6, "the last run is longer than the status count");
}

#[test]
fn malformed_packets_are_refused() {
    let parse = |fci: &[u8]| Feedback::parse(fci).err();
    assert_eq!(parse(&[0; 7]), Some(FeedbackError::Truncated));
    assert_eq!(parse(&[0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0]), Some(FeedbackError::Empty));
    assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 0]), Some(FeedbackError::Truncated), "no chunk");
    assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 0, 0x20, 1]), Some(FeedbackError::Truncated), "no delta");
    assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 0, 0x60, 1, 0]), Some(FeedbackError::ReservedSymbol));
    assert_eq!(parse(&[0, 0, 0, 7, 0, 0, 0, 0, 0xcd, 0x50, 0, 0, 0]), Some(FeedbackError::ReservedSymbol));
    let empty_runs = [&[0, 0, 0, 9, 0, 0, 0, 0][..], &[0; 100]].concat();
    assert_eq!(parse(&empty_runs), Some(FeedbackError::Truncated), "chunks that say nothing");
}

/// The first four sizes are what libwebrtc's `transport_feedback_unittest.cc` expects of such arrivals
/// (headers 20, a chunk 2, deltas 1 or 2), rounded up to whole words.
#[test]
fn packets_are_compact() {
    let delta_limit = 255 * DELTA_US;
    let cases: [(&[u16], Vec<u64>, usize); 6] = [
        (&[1, 2, 7, 8, 9, 10, 13], vec![1000; 7], 20 + 2 + 7),
        (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], vec![1000; 14], 20 + 2 + 14),
        (&[1, 2, 6, 7], vec![delta_limit + DELTA_US; 4], 20 + 2 + 4 * 2),
        (&[0, 1, 2, 3, 4, 5, 6], vec![delta_limit + DELTA_US; 7], 20 + 2 + 7 * 2),
        (&[1, 29_999], vec![1000; 2], 20 + 6 * 2 + 2),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 32_767], vec![1000; 16], 20 + 6 * 2 + 16),
    ];
    for (seqs, deltas, size) in cases {
        let mut arrivals = vec![None; usize::from(seqs[seqs.len() - 1] - seqs[0]) + 1];
        let mut at = 10 * REFERENCE_US;
        for (index, (seq, delta)) in seqs.iter().zip(deltas).enumerate() {
            // The first one's delta is large only if it lies that far behind the reference, which it never does.
            at += if index == 0 { 0 } else { delta };
            arrivals[usize::from(seq - seqs[0])] = Some(at);
        }
        let (mut out, mut scratch) = (Vec::new(), Vec::new());
        let reach =
            feedback::write(&mut out, &mut scratch, (1, 2), (seqs[0], 3), 100_000, arrivals.into_iter());
        assert_eq!(reach, usize::from(seqs[seqs.len() - 1] - seqs[0]) + 1);
        assert!(out.len() <= size.next_multiple_of(4), "{seqs:?}: {} for {size}", out.len());
        assert_eq!(out[..2], [0x8f, 205]);
        assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])) * 4 + 4, out.len());
        let feedback = Feedback::parse(&out[12..]).unwrap();
        let offsets: Vec<_> = received(&feedback).iter().map(|(offset, _)| offset + seqs[0]).collect();
        assert_eq!(offsets, seqs);
    }
}

/// A recorder and a history joined by hand.
struct Pair {
    start: Instant,
    recorder: ArrivalRecorder,
    history: SendHistory,
    scratch: Vec<u8>,
    reports: Vec<PacketReport>,
}

impl Pair {
    fn new() -> Self {
        Self {
            start: start(),
            recorder: ArrivalRecorder::new(),
            history: SendHistory::new(),
            scratch: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    fn feedback(&mut self, us: u64) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        loop {
            let mut packet = Vec::new();
            if !self.recorder.poll(self.at(us), 1, 2, &mut self.scratch, &mut packet) {
                return packets;
            }
            assert!(packet.len() <= 1000);
            packets.push(packet);
        }
    }

    fn take(&mut self, packet: &[u8]) -> FeedbackSummary {
        self.history.on_feedback(&Feedback::parse(&packet[12..]).unwrap(), &mut self.reports)
    }
}

#[test]
fn feedback_goes_out_every_50_to_100_ms_or_when_much_waits() {
    let mut pair = Pair::new();
    let mut seq = 0;
    let mut sent_at = |pair: &mut Pair, interval_us: u64, from_us: u64| {
        let mut sent = Vec::new();
        for us in (from_us..from_us + 1_000_000).step_by(500) {
            if us % interval_us == 0 {
                pair.recorder.on_packet(pair.at(us), seq);
                seq += 1;
            }
            if !pair.feedback(us).is_empty() {
                sent.push(us);
            }
        }
        sent.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    };
    assert_eq!(sent_at(&mut pair, 20_000, 0), 100_000, "audio");
    assert_eq!(sent_at(&mut pair, 2_000, 1_000_000), 50_000, "video");
    let burst: u64 = 3_000_000;
    pair.feedback(burst);
    for packet in 0..128 {
        assert_eq!(pair.feedback(burst), Vec::<Vec<u8>>::new());
        pair.recorder.on_packet(pair.at(burst), 10_000 + packet);
    }
    assert_eq!(pair.feedback(burst).len(), 1);
    assert_eq!(pair.recorder.next_timeout(), None);
}

#[test]
fn what_was_sent_is_reported_with_its_size_probe_and_spacing() {
    let mut pair = Pair::new();
    let probe = Some(ProbeClusterId(7));
    for packet in 0..20_u64 {
        let probe = probe.filter(|_| packet > 10);
        let seq = pair.history.register(pair.at(packet * 1000), 100 + packet as u16, probe);
        if packet != 5 {
            pair.recorder.on_packet(pair.at(40_000 + packet * 1000), seq);
        }
    }
    assert_eq!(pair.history.in_flight_bytes(), (0..20).map(|n| 100 + n).sum::<u64>());
    let packets = pair.feedback(200_000);
    let summary = pair.take(&packets[0]);
    assert_eq!(summary, FeedbackSummary { received: 19, lost: 1, ignored: 0 });
    assert_eq!(pair.history.in_flight_bytes(), 0);
    let reports = std::mem::take(&mut pair.reports);
    assert_eq!(reports.len(), 20);
    let first = reports[0].received_us.unwrap();
    for (packet, report) in reports.iter().enumerate() {
        assert_eq!(report.seq, packet as u64);
        assert_eq!(report.probe, probe.filter(|_| packet > 10));
        assert_eq!(usize::from(report.size), 100 + packet);
        assert_eq!(report.sent_at, pair.at(packet as u64 * 1000));
        assert_eq!(report.received_us.map(|us| us - first), (packet != 5).then_some(packet as i64 * 1000));
    }
    assert_eq!(pair.take(&packets[0]), FeedbackSummary { received: 0, lost: 0, ignored: 20 }, "a duplicate");
    assert_eq!(pair.reports, []);
}

#[test]
fn a_packet_late_for_its_feedback_is_in_the_next() {
    let mut pair = Pair::new();
    for seq in [0, 1, 3] {
        pair.recorder.on_packet(pair.at(0), seq);
    }
    assert_eq!(pair.feedback(100_000).len(), 1);
    pair.recorder.on_packet(pair.at(110_000), 2);
    pair.recorder.on_packet(pair.at(110_000), 1);
    pair.recorder.on_packet(pair.at(110_000), 4);
    let packet = pair.feedback(300_000).remove(0);
    let feedback = Feedback::parse(&packet[12..]).unwrap();
    assert_eq!((feedback.base_seq, feedback.count), (2, 1));
    // 3 came before 2, its arrival is told again.
    assert_eq!(received(&feedback).iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn what_was_under_way_when_it_was_taken_for_lost_is_reported_as_received() {
    let mut pair = Pair::new();
    for _ in 0..4 {
        pair.history.register(pair.at(0), 100, None);
    }
    for (us, seqs, told) in [(0, [0, 3], 4), (110_000, [2, 1], 3)] {
        for seq in seqs {
            pair.recorder.on_packet(pair.at(us), seq);
        }
        let packet = pair.feedback(us + 100_000).remove(0);
        pair.take(&packet);
        let again = pair.take(&packet);
        assert_eq!(again, FeedbackSummary { received: 0, lost: 0, ignored: told });
    }
    let fates = |seq| {
        let of_it = pair.reports.iter().filter(|report| report.seq == seq);
        of_it.map(|report| report.received_us.is_some()).collect::<Vec<_>>()
    };
    assert_eq!([fates(0), fates(3)], [vec![true], vec![true]]);
    assert_eq!([fates(1), fates(2)], [vec![false, true], vec![false, true]]);
}

#[test]
fn gaps_of_thousands_are_skipped() {
    let mut pair = Pair::new();
    let mut seq = 0_u16;
    let mut packets = 0;
    for step in 0..500_u64 {
        seq = seq.wrapping_add(31_000);
        pair.recorder.on_packet(pair.at(step * 10_000), seq);
        packets += pair.feedback(step * 10_000).len();
    }
    assert!((40..=110).contains(&packets), "{packets}");
}

#[test]
fn arrivals_too_far_apart_for_a_delta_take_several_packets() {
    let mut pair = Pair::new();
    pair.recorder.on_packet(pair.at(0), 1);
    pair.recorder.on_packet(pair.at(9_000_000), 2);
    pair.recorder.on_packet(pair.at(18_000_000), 3);
    let packets = pair.feedback(18_000_000);
    assert_eq!(packets.len(), 3);
    let reference = |packet: &Vec<u8>| u64::from(Feedback::parse(&packet[12..]).unwrap().reference);
    assert_eq!(reference(&packets[2]) - reference(&packets[0]), 18_000_000 / REFERENCE_US);
}

#[test]
fn the_history_grows_only_as_needed_and_forgets_the_oldest() {
    let mut pair = Pair::new();
    assert_eq!(pair.history.memory_bytes(), 0);
    for packet in 0..100_000_u64 {
        let seq = pair.history.register(pair.at(packet * 1000), 1000, None);
        pair.recorder.on_packet(pair.at(packet * 1000), seq);
        for packet in pair.feedback(packet * 1000) {
            pair.take(&packet);
        }
    }
    assert_eq!(pair.reports.len() as u64 + pair.history.in_flight_bytes() / 1000, 100_000);
    assert!(pair.history.memory_bytes() <= 256 * 16, "{}", pair.history.memory_bytes());
    for _ in 0..2 * HISTORY_MAX {
        pair.history.register(pair.at(100_000_000), 1000, None);
    }
    assert_eq!(pair.history.memory_bytes(), HISTORY_MAX * 16);
    assert!(pair.history.forgotten() >= HISTORY_MAX as u64);
    assert_eq!(pair.history.in_flight_bytes(), 1000 * HISTORY_MAX as u64);
}

#[test]
fn a_history_that_feedback_outgrew_shrinks_again() {
    let mut pair = Pair::new();
    let mut first = 0;
    for _ in 0..2_000 {
        first = pair.history.register(pair.at(0), 1000, None);
    }
    assert_eq!(pair.history.memory_bytes(), 2_048 * 16);
    pair.recorder.on_packet(pair.at(1000), first);
    for packet in 1..20_000_u64 {
        for feedback in pair.feedback(packet * 1000) {
            pair.take(&feedback);
        }
        let seq = pair.history.register(pair.at(packet * 1000), 1000, None);
        pair.recorder.on_packet(pair.at(packet * 1000), seq);
    }
    assert!(pair.history.memory_bytes() <= 256 * 16, "{}", pair.history.memory_bytes());
    // The first of those in one piece is the only one that came.
    let received = pair.reports.iter().filter(|report| report.received_us.is_some()).count() as u64;
    assert_eq!(received + pair.history.in_flight_bytes() / 1000, 20_000);
}

#[test]
fn the_reference_time_wraps() {
    let mut history = SendHistory::new();
    let now = start();
    let mut reports = Vec::new();
    for reference in [0xff_ffff_u32, 0, 1] {
        let seq = history.register(now, 1, None);
        let [_, r0, r1, r2] = reference.to_be_bytes();
        let fci = [(seq >> 8) as u8, seq as u8, 0, 1, r0, r1, r2, 0, 0x20, 1, 0];
        history.on_feedback(&Feedback::parse(&fci).unwrap(), &mut reports);
    }
    let at: Vec<_> = reports.iter().map(|report| report.received_us.unwrap()).collect();
    assert_eq!([at[1] - at[0], at[2] - at[1]], [REFERENCE_US as i64; 2]);
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<ArrivalRecorder>() <= 112, "{}", size_of::<ArrivalRecorder>());
    assert!(size_of::<SendHistory>() <= 112, "{}", size_of::<SendHistory>());
}

proptest! {
    /// Loss, reordering of packets, loss, reordering and duplication of feedback: every packet is reported received at
    /// most once, and lost at most once before that.
    #[test]
    fn each_packet_is_reported_once(
        fates in prop::collection::vec((0..10_u8, 0..60_000_u64), 1..600),
        shuffle in prop::collection::vec((0..10_u8, any::<prop::sample::Index>()), 0..40),
    ) {
        let mut pair = Pair::new();
        let mut arriving = Vec::new();
        let mut packets = Vec::new();
        for (packet, (fate, jitter)) in fates.iter().enumerate() {
            let us = packet as u64 * 1500;
            let seq = pair.history.register(pair.at(us), 1, Some(ProbeClusterId(packet as u16)));
            if *fate > 1 {
                arriving.push((us + jitter * u64::from(*fate > 7), seq));
            }
        }
        arriving.sort_unstable();
        for (us, seq) in &arriving {
            pair.recorder.on_packet(pair.at(*us), *seq);
            packets.extend(pair.feedback(*us));
        }
        packets.extend(pair.feedback(10_000_000));
        for (kind, index) in shuffle {
            let index = index.index(packets.len().max(1));
            match kind {
                0 if !packets.is_empty() => { packets.remove(index); }
                1..6 if index + 1 < packets.len() => packets.swap(index, index + 1),
                _ if index < packets.len() => packets.push(packets[index].clone()),
                _ => {}
            }
        }
        let in_order = packets.clone();
        let mut said = 0;
        for packet in &in_order {
            let summary = pair.take(packet);
            said += summary.received + summary.lost;
        }
        prop_assert_eq!(said as usize, pair.reports.len());
        let mut fates: std::collections::BTreeMap<u64, Vec<bool>> = std::collections::BTreeMap::new();
        for report in &pair.reports {
            fates.entry(report.seq).or_default().push(report.received_us.is_some());
        }
        for fates in fates.values() {
            prop_assert!(matches!(fates.as_slice(), [_] | [false, true]), "{fates:?}");
        }
        for report in &pair.reports {
            prop_assert_eq!(report.probe, Some(ProbeClusterId(report.seq as u16)));
            if report.received_us.is_some() {
                prop_assert!(arriving.iter().any(|(_, seq)| u64::from(*seq) == report.seq));
            }
        }
    }

    #[test]
    fn any_arrivals_make_readable_feedback(arrivals in prop::collection::vec((any::<u16>(), 0..300_000_u64, any::<bool>()), 1..400)) {
        let mut pair = Pair::new();
        let (mut us, mut last) = (0, 0_u16);
        for (seq, delay, near) in arrivals {
            us += delay;
            last = if near { last.wrapping_add(seq % 40) } else { seq };
            pair.recorder.on_packet(pair.at(us), last);
            for packet in pair.feedback(us) {
                prop_assert!(packet.len().is_multiple_of(4));
                let feedback = Feedback::parse(&packet[12..]);
                prop_assert!(feedback.is_ok_and(|feedback| !received(&feedback).is_empty()));
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20), sent in 0..5000_u64) {
        let mut history = SendHistory::new();
        let now = start();
        for _ in 0..sent {
            history.register(now, 1200, None);
        }
        let mut reports = Vec::new();
        for packet in &packets {
            if let Ok(feedback) = Feedback::parse(packet) {
                let summary = history.on_feedback(&feedback, &mut reports);
                let all = summary.received + summary.lost + summary.ignored;
                prop_assert_eq!(all, u32::from(feedback.status_count));
            }
        }
        prop_assert!(reports.len() as u64 <= 2 * sent);
    }

    /// Well-formed headers, so that more than the first check is reached.
    #[test]
    fn any_chunks_are_survived(base: u16, count in 1..u16::MAX, body in prop::collection::vec(any::<u8>(), 0..1200)) {
        let mut history = SendHistory::new();
        let now = start();
        for _ in 0..2000 {
            history.register(now, 1200, None);
        }
        let fci = [&base.to_be_bytes()[..], &count.to_be_bytes(), &[1, 2, 3, 4], &body].concat();
        let mut reports = Vec::new();
        if let Ok(feedback) = Feedback::parse(&fci) {
            history.on_feedback(&feedback, &mut reports);
        }
        prop_assert!(reports.len() <= 2 * 2000);
    }
}
