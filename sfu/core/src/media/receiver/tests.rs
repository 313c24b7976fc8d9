//! Receive statistics against hand-made and random streams.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn counts_loss_as_rfc_3550_does() {
    let (now, mut stats) = (start(), ReceiveStats::new(90_000));
    assert_eq!(stats.report(now, 1), None);
    for seq in (65_530..=65_535).chain(0..=3).filter(|seq| *seq != 65_535 && *seq != 1) {
        stats.on_packet(now, seq, u32::from(seq));
    }
    let report = stats.report(now, 7).unwrap();
    assert_eq!(report.ssrc, 7);
    assert_eq!(report.highest_seq, 0x1_0003);
    assert_eq!(report.cumulative_lost, 2);
    assert_eq!(report.fraction_lost, (2 * 256 / 10) as u8);
    assert_eq!((report.last_sr, report.delay_since_last_sr), (0, 0));
    assert_eq!(stats.on_packet(now, 1, 1), Arrival::Late { seq: 2 * 65_536 + 1 });
    let report = stats.report(now, 7).unwrap();
    assert_eq!((report.cumulative_lost, report.fraction_lost), (1, 0), "late ones mend the total");
    stats.on_packet(now, 5, 5);
    assert_eq!(stats.report(now, 7).unwrap().fraction_lost, 128);
}

#[test]
fn all_lost_is_the_highest_fraction_and_duplicates_make_the_total_negative() {
    let (now, mut stats) = (start(), ReceiveStats::new(90_000));
    stats.on_packet(now, 0, 0);
    stats.report(now, 0);
    stats.on_packet(now, 2999, 0);
    assert_eq!(stats.report(now, 0).unwrap().fraction_lost, 255);
    for _ in 0..4000 {
        stats.on_packet(now, 2999, 0);
    }
    assert_eq!(stats.report(now, 0).unwrap().cumulative_lost, 3000 - 4002);
    assert_eq!(stats.report(now, 0).unwrap().fraction_lost, 0);
}

#[test]
fn a_jump_is_believed_when_confirmed() {
    let (now, mut stats) = (start(), ReceiveStats::new(90_000));
    stats.on_packet(now, 100, 0);
    assert_eq!(stats.on_packet(now, 30_000, 0), Arrival::Suspicious);
    assert_eq!(stats.on_packet(now, 101, 0), Arrival::Newest { seq: 65_637, skipped: 0 });
    assert_eq!(stats.on_packet(now, 30_001, 0), Arrival::Suspicious, "the stream went on meanwhile");
    assert_eq!(stats.on_packet(now, 30_002, 0), Arrival::Restarted { seq: 2 * 65_536 + 30_002 });
    assert_eq!(stats.on_packet(now, 30_003, 0), Arrival::Newest { seq: 2 * 65_536 + 30_003, skipped: 0 });
    let report = stats.report(now, 0).unwrap();
    assert_eq!((report.cumulative_lost, report.fraction_lost), (0, 0));
    assert_eq!(stats.restarts(), 1);
}

#[test]
fn jitter_of_an_even_stream_is_zero_and_of_an_alternating_one_its_amplitude() {
    let start = start();
    let mut stats = ReceiveStats::new(48_000);
    for packet in 0..500_u16 {
        stats.on_packet(start + ms(20 * u64::from(packet)), packet, 960 * u32::from(packet));
    }
    assert_eq!(stats.jitter(), 0);
    let mut stats = ReceiveStats::new(48_000);
    for packet in 0..500_u16 {
        // Every other packet 5 ms late: |D| is always 5 ms = 240 units.
        let late = if packet % 2 == 0 { 0 } else { 5 };
        stats.on_packet(start + ms(20 * u64::from(packet) + late), packet, 960 * u32::from(packet));
    }
    assert!((239..=240).contains(&stats.jitter()), "{}", stats.jitter());
    assert!((4_900..=5_000).contains(&(stats.jitter_time().as_micros() as u64)));
}

#[test]
fn packets_of_one_frame_and_a_clock_set_anew_are_no_jitter() {
    let start = start();
    let mut stats = ReceiveStats::new(90_000);
    let mut seq = 0;
    for frame in 0..100_u64 {
        for part in 0..10 {
            stats.on_packet(start + ms(frame * 40 + part), seq, 3_600 * frame as u32);
            seq += 1;
        }
    }
    assert_eq!(stats.jitter(), 0);
    stats.on_packet(start + ms(4000), seq, 3_000_000_000);
    assert_eq!(stats.jitter(), 0);
}

#[test]
fn reports_carry_the_last_sender_report() {
    let (now, mut stats) = (start(), ReceiveStats::new(90_000));
    stats.on_packet(now, 0, 0);
    stats.on_sender_report(now, 0xaaaa_1234_5678_bbbb);
    let report = stats.report(now + ms(1500), 0).unwrap();
    assert_eq!(report.last_sr, 0x1234_5678);
    assert_eq!(report.delay_since_last_sr, 0x1_8000);
}

#[test]
fn round_trip_times_and_lies_about_them() {
    // The example of RFC 3550, figure 2: A = 0xb710:8000, DLSR 5.25 s, LSR 0xb705:2000, 6.125 s.
    let rtt = round_trip_time(0x0000_b710_8000_0000, 0xb705_2000, 0x0005_4000);
    assert_eq!(rtt, Some(Duration::from_micros(6_125_000)));
    assert_eq!(round_trip_time(0x0000_b710_8000_0000, 0, 0x0005_4000), None);
    assert_eq!(round_trip_time(0x0000_b710_8000_0000, 0xb705_2000, u32::MAX), None, "negative");
    assert_eq!(round_trip_time(0x0000_b710_8000_0000, 0x0001_0000, 0), None, "hours");
    let mut smoothed = RoundTripTime::default();
    assert_eq!(smoothed.get(), None);
    smoothed.update(Duration::from_secs(u64::MAX));
    for _ in 0..100 {
        smoothed.update(ms(40));
    }
    let us = smoothed.get().unwrap().as_micros();
    assert!((40_000..41_000).contains(&us), "{us}");
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<ReceiveStats>() <= 112, "{}", size_of::<ReceiveStats>());
    assert_eq!(size_of::<RoundTripTime>(), 8);
}

proptest! {
    #[test]
    fn any_packets_leave_sane_figures(packets in prop::collection::vec((any::<u16>(), any::<u32>(), 0..5000_u64), 0..300)) {
        let mut now = start();
        let mut stats = ReceiveStats::new(u32::MAX);
        let mut highest = 0;
        for (seq, timestamp, delay) in packets {
            now += Duration::from_micros(delay);
            match stats.on_packet(now, seq, timestamp) {
                Arrival::Newest { seq: extended, .. } | Arrival::Restarted { seq: extended } => {
                    prop_assert!(extended > highest);
                    prop_assert_eq!(extended as u16, seq);
                    highest = extended;
                }
                Arrival::Late { seq: extended } => {
                    prop_assert!(extended <= highest);
                    prop_assert_eq!(stats.extend(seq), Some(extended));
                }
                Arrival::Suspicious => {}
            }
            if seq % 7 == 0 {
                stats.report(now, 1);
            }
        }
    }

    #[test]
    fn a_lossy_stream_is_counted_exactly(lost in prop::collection::vec(any::<bool>(), 2..2000), first: u16) {
        let now = start();
        let mut stats = ReceiveStats::new(90_000);
        let last_received = lost.iter().rposition(|lost| !lost);
        let first_received = lost.iter().position(|lost| !lost);
        for (index, _) in lost.iter().enumerate().filter(|(_, lost)| !**lost) {
            stats.on_packet(now, first.wrapping_add(index as u16), 0);
        }
        if let (Some(from), Some(to)) = (first_received, last_received) {
            let missing = lost[from..=to].iter().filter(|lost| **lost).count();
            prop_assert_eq!(stats.lost(), missing as i32);
        }
    }
}
