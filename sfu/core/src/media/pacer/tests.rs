//! The pacer in virtual time.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn clock() -> impl Fn(u64) -> Instant {
    let start = Instant::now();
    move |us| start + Duration::from_micros(us)
}

/// One round of sending: what goes into one send. Padding is made as asked.
fn round(pacer: &mut Pacer<u32>, now: Instant) -> Vec<Release<u32>> {
    let mut sent = Vec::new();
    while let Some(release) = pacer.poll(now) {
        if let Release::Padding { bytes, probe } = release {
            pacer.on_padding(now, bytes, probe);
        }
        sent.push(release);
    }
    sent
}

fn items(sent: &[Release<u32>]) -> Vec<u32> {
    let item = |release: &Release<u32>| match release {
        Release::Packet { item, .. } => Some(*item),
        Release::Padding { .. } => None,
    };
    sent.iter().filter_map(item).collect()
}

#[test]
fn a_lone_packet_goes_at_once() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(100));
    for frame in 0..10_u32 {
        let us = u64::from(frame) * 33_000;
        pacer.push(at(us), PacketClass::Video, 1200, frame).unwrap();
        assert_eq!(pacer.next_timeout().unwrap().max(at(us)), at(us));
        assert_eq!(items(&round(&mut pacer, at(us))), [frame]);
        assert_eq!(pacer.next_timeout(), None);
    }
}

#[test]
fn a_burst_is_spread_evenly_over_five_milliseconds_at_most() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(500));
    for packet in 0..60 {
        pacer.push(at(0), PacketClass::Video, 1200, packet).unwrap();
    }
    let mut rounds = Vec::new();
    let mut all = Vec::new();
    while let Some(next) = pacer.next_timeout() {
        let sent = items(&round(&mut pacer, next));
        rounds.push((next.duration_since(at(0)).as_millis(), sent.len()));
        all.extend(sent);
    }
    assert_eq!(rounds, [(0, 12), (1, 12), (2, 12), (3, 12), (4, 12)]);
    assert_eq!(all, (0..60).collect::<Vec<_>>());
}

#[test]
fn at_a_high_rate_a_burst_goes_faster() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(200_000));
    for packet in 0..60 {
        pacer.push(at(0), PacketClass::Video, 1200, packet).unwrap();
    }
    // 25,000 bytes a millisecond.
    let sent = round(&mut pacer, at(0)).len();
    assert!((20..=22).contains(&sent), "{sent}");
    assert_eq!(round(&mut pacer, at(500)), [], "nothing between two portions");
    let sent = sent + round(&mut pacer, at(1000)).len();
    assert!((40..=44).contains(&sent), "{sent}");
}

#[test]
fn retransmissions_then_video_then_audio_which_waits_for_no_portion() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(10_000));
    pacer.push(at(0), PacketClass::Video, 1200, 3).unwrap();
    pacer.push(at(0), PacketClass::Retransmission, 1200, 2).unwrap();
    pacer.push(at(0), PacketClass::Audio, 100, 1).unwrap();
    assert_eq!(items(&round(&mut pacer, at(0))), [2, 3, 1]);
    pacer.push(at(100), PacketClass::Video, 1200, 5).unwrap();
    pacer.push(at(100), PacketClass::Audio, 100, 4).unwrap();
    assert_eq!(items(&round(&mut pacer, at(100))), [4], "audio does not wait for a portion");
    assert_eq!(pacer.next_timeout(), Some(at(1000)));
}

#[test]
fn what_comes_while_nothing_waits_goes_at_once_as_long_as_the_rate_allows() {
    let at = clock();
    // 25,000 bytes a millisecond.
    let mut pacer = Pacer::new(Bitrate::kbps(200_000));
    for packet in 0..20 {
        let now = at(u64::from(packet) * 100);
        pacer.push(now, PacketClass::Video, 1200, packet).unwrap();
        assert_eq!(pacer.next_timeout(), Some(now));
        assert_eq!(items(&round(&mut pacer, now)), [packet]);
    }
    for packet in 100..160 {
        pacer.push(at(2_000), PacketClass::Video, 1200, packet).unwrap();
    }
    assert!(!round(&mut pacer, at(2_000)).is_empty());
    pacer.push(at(2_500), PacketClass::Video, 1200, 200).unwrap();
    assert!(items(&round(&mut pacer, at(2_500))).is_empty(), "it waits behind those that wait");
}

#[test]
fn a_full_queue_refuses_video_and_renews_audio() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(100));
    for packet in 0..QUEUE_PACKETS_MAX as u32 - 1 {
        pacer.push(at(0), PacketClass::Video, 100, packet).unwrap();
    }
    pacer.push(at(0), PacketClass::Audio, 100, 7000).unwrap();
    assert_eq!(pacer.push(at(0), PacketClass::Video, 100, 1), Err(PushError::Full));
    assert_eq!(pacer.push(at(0), PacketClass::Audio, 100, 7001), Err(PushError::Full));
    assert_eq!(pacer.queued_bytes(), QUEUE_PACKETS_MAX * 100);
    assert_eq!(pacer.refused(), 2);
    assert_eq!(items(&round(&mut pacer, at(0))).last(), Some(&7001));
    let mut pacer = Pacer::new(Bitrate::kbps(100));
    while pacer.push(at(0), PacketClass::Video, 60_000, 0).is_ok() {}
    assert!(pacer.queued_bytes() <= QUEUE_BYTES_MAX);
}

#[test]
fn a_probe_is_sent_at_its_rate_with_media_first_and_padding_after() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(300));
    let id = ProbeClusterId(4);
    let cluster = ProbeCluster { id, rate: Bitrate::kbps(2_000), bytes_min: 3_750, packets_min: 5 };
    pacer.probe(at(0), cluster);
    pacer.push(at(0), PacketClass::Video, 1000, 9).unwrap();
    let mut sent = Vec::new();
    let mut bytes_sent = 0;
    let mut us = 0;
    while let Some(next) = pacer.next_timeout() {
        us = next.duration_since(at(0)).as_micros() as u64;
        assert!(us < 100_000);
        for release in round(&mut pacer, next) {
            match release {
                Release::Packet { item: 9, probe, .. } => {
                    assert_eq!(probe, Some(id));
                    bytes_sent += 1000;
                }
                Release::Padding { bytes, probe } => {
                    assert_eq!(probe, Some(id));
                    bytes_sent += u64::from(bytes);
                }
                Release::Packet { .. } => panic!("never pushed"),
            }
            sent.push(release);
        }
    }
    assert!(matches!(sent[0], Release::Packet { .. }));
    assert!(sent.len() >= 5);
    assert!((3_750..=4_250).contains(&bytes_sent), "{bytes_sent}");
    // All but the last packet's time.
    let kbps = (bytes_sent - 500) * 8 * 1000 / us;
    assert!((1_900..=2_100).contains(&kbps), "{kbps}");
}

#[test]
fn a_frame_that_comes_during_a_probe_neither_waits_for_it_nor_spoils_it() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(200_000));
    let cluster =
        ProbeCluster { id: ProbeClusterId(1), rate: Bitrate::kbps(900), bytes_min: 1_687, packets_min: 5 };
    pacer.probe(at(0), cluster);
    for item in 0..8 {
        pacer.push(at(0), PacketClass::Video, 1000, item).unwrap();
    }
    let mut media_us = Vec::new();
    let mut probe_sizes = Vec::new();
    let mut probe_us = Vec::new();
    while let Some(next) = pacer.next_timeout() {
        let us = next.duration_since(at(0)).as_micros() as u64;
        for release in round(&mut pacer, next) {
            let (size, probe) = match release {
                Release::Packet { probe, .. } => (1000, probe),
                Release::Padding { bytes, probe } => (u64::from(bytes), probe),
            };
            if matches!(release, Release::Packet { .. }) {
                media_us.push(us);
            }
            if probe.is_some() {
                probe_sizes.push(size);
                probe_us.push(us);
            }
        }
    }
    assert_eq!(media_us.len(), 8);
    assert!(media_us.iter().all(|us| *us <= 5_000), "{media_us:?}");
    assert!(probe_us.len() >= 5, "{probe_us:?}");
    let bytes: u64 = probe_sizes[..probe_sizes.len() - 1].iter().sum();
    let kbps = bytes * 8 * 1000 / (probe_us[probe_us.len() - 1] - probe_us[0]);
    assert!((850..=950).contains(&kbps), "{kbps}: {probe_us:?} {probe_sizes:?}");
}

#[test]
fn a_probe_nobody_can_fill_or_that_is_late_is_abandoned() {
    let at = clock();
    let mut pacer = Pacer::<u32>::new(Bitrate::kbps(300));
    let cluster = |id| ProbeCluster {
        id: ProbeClusterId(id),
        rate: Bitrate::kbps(2_000),
        bytes_min: 9_000,
        packets_min: 5,
    };
    pacer.probe(at(0), cluster(1));
    assert!(matches!(pacer.poll(at(0)), Some(Release::Padding { .. })));
    assert_eq!(pacer.poll(at(0)), None, "one question at a time");
    pacer.on_padding(at(0), 0, Some(ProbeClusterId(1)));
    assert_eq!(
        (pacer.poll(at(0)), pacer.next_timeout()),
        (None, Some(at(10_000))),
        "tried again: a stream may begin"
    );
    assert!(matches!(pacer.poll(at(10_000)), Some(Release::Padding { .. })));
    pacer.on_padding(at(10_000), 255, Some(ProbeClusterId(1)));
    assert!(matches!(pacer.poll(at(12_000)), Some(Release::Padding { .. })));
    pacer.on_padding(at(12_000), 0, Some(ProbeClusterId(1)));
    assert_eq!((pacer.poll(at(12_000)), pacer.next_timeout()), (None, None), "it had begun");
    pacer.probe(at(100_000), cluster(2));
    for ms in (100..=1_100).step_by(10) {
        assert!(matches!(pacer.poll(at(ms * 1000)), Some(Release::Padding { .. })), "{ms}");
        pacer.on_padding(at(ms * 1000), 0, Some(ProbeClusterId(2)));
    }
    assert_eq!((pacer.poll(at(1_110_000)), pacer.next_timeout()), (None, None), "not for ever");
    let mut pacer = Pacer::<u32>::new(Bitrate::kbps(300));
    for id in 0..10 {
        pacer.probe(at(0), cluster(id));
    }
    assert!(!round(&mut pacer, at(0)).is_empty());
    let late = round(&mut pacer, at(50_000));
    assert!(late.iter().all(
        |release| matches!(release, Release::Padding { probe, .. } if *probe == Some(ProbeClusterId(1)))
    ));
    assert_eq!(round(&mut pacer, at(2_000_000)), [], "none of the waiting ones is of use any more");
}

#[test]
fn padding_fills_what_media_leaves() {
    let at = clock();
    let mut pacer = Pacer::new(Bitrate::kbps(1000));
    pacer.set_rates(Bitrate::kbps(1000), Bitrate::kbps(400), SPREAD_MAX);
    let (mut media, mut padding) = (0, 0);
    for ms in 0..2000 {
        if ms % 40 == 0 {
            pacer.push(at(ms * 1000), PacketClass::Video, 1000, 0).unwrap();
        }
        for release in round(&mut pacer, at(ms * 1000)) {
            match release {
                Release::Packet { .. } => media += 1000,
                Release::Padding { bytes, .. } => padding += u64::from(bytes),
            }
        }
    }
    assert_eq!(media, 50_000);
    let kbps = (media + padding) * 8 / 2000;
    assert!((380..=420).contains(&kbps), "{kbps}");
    pacer.set_rates(Bitrate::kbps(1000), Bitrate::ZERO, SPREAD_MAX);
    assert_eq!(pacer.next_timeout(), None);
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<Pacer<u64>>() <= 496, "{}", size_of::<Pacer<u64>>());
}

proptest! {
    /// Whatever is pushed when: everything comes out once, in order within its class, within 5 ms (and the
    /// millisecond of a portion), and a pacer with nothing to do asks for no timeout.
    #[test]
    fn everything_goes_out_in_time(
        pushes in prop::collection::vec((0..4_000_u64, 0..3_u8, 1..1500_u16), 1..300),
        kbps in 1..50_000_u64,
        probe in prop::option::of((0..300_usize, 100..20_000_u64)),
    ) {
        let at = clock();
        let mut pacer = Pacer::new(Bitrate::kbps(kbps));
        let mut us = 0;
        let mut pushed = Vec::new();
        let mut released = vec![Vec::new(); 3];
        let mut deadline_missed = false;
        let run_until = |pacer: &mut Pacer<u32>, until: u64, pushed: &[(u64, u8)], released: &mut Vec<Vec<u32>>| {
            let mut missed = false;
            while let Some(next) = pacer.next_timeout().filter(|next| *next <= at(until)) {
                for release in round(pacer, next) {
                    if let Release::Packet { item, class, .. } = release {
                        let waited = next.saturating_duration_since(at(pushed[item as usize].0));
                        missed |= waited > SPREAD_MAX + PORTION_INTERVAL;
                        released[class as usize].push(item);
                    }
                }
            }
            missed
        };
        for (index, (delay, class, bytes)) in pushes.iter().enumerate() {
            us += delay;
            deadline_missed |= run_until(&mut pacer, us, &pushed, &mut released);
            if let Some((_, kbps)) = probe.filter(|(at, _)| *at == index) {
                let cluster = ProbeCluster { id: ProbeClusterId(1), rate: Bitrate::kbps(kbps), bytes_min: 5000, packets_min: 5 };
                pacer.probe(at(us), cluster);
            }
            let class = [PacketClass::Audio, PacketClass::Retransmission, PacketClass::Video][usize::from(*class)];
            prop_assert!(pacer.push(at(us), class, *bytes, index as u32).is_ok());
            pushed.push((us, class as u8));
        }
        deadline_missed |= run_until(&mut pacer, us + 3_000_000, &pushed, &mut released);
        prop_assert!(!deadline_missed);
        for (class, released) in released.iter().enumerate() {
            let expected: Vec<u32> = (0..pushes.len() as u32).filter(|item| usize::from(pushed[*item as usize].1) == class).collect();
            prop_assert_eq!(released, &expected);
        }
        prop_assert_eq!(pacer.queued_bytes(), 0);
        prop_assert_eq!(pacer.next_timeout(), None);
    }
}
