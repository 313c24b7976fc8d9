//! The generator against hand-made losses and a random link.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn clock() -> impl Fn(u64) -> Instant {
    let start = Instant::now();
    move |ms| start + Duration::from_millis(ms)
}

fn due(nack: &mut NackGenerator, now: Instant) -> Vec<u16> {
    let mut pairs = Vec::new();
    nack.poll(now, &mut pairs);
    pairs.into_iter().flat_map(NackPair::seqs).collect()
}

#[test]
fn a_gap_is_asked_for_at_once_and_again_after_each_round_trip() {
    let at = clock();
    let mut nack = NackGenerator::new();
    nack.update_rtt(Duration::from_millis(80));
    nack.on_packet(at(0), 100, false, false);
    assert_eq!(nack.next_timeout(), None);
    nack.on_packet(at(1), 103, false, false);
    assert_eq!(due(&mut nack, at(1)), [101, 102]);
    assert!(due(&mut nack, at(80)).is_empty());
    assert_eq!(nack.next_timeout(), Some(at(81)));
    assert_eq!(nack.on_packet(at(81), 102, false, true), 1);
    assert_eq!(due(&mut nack, at(81)), [101]);
    let rest: usize = (82..5000).map(|ms| due(&mut nack, at(ms)).len()).sum();
    assert_eq!(rest, 8, "ten times in all");
    assert!(nack.take_wants_keyframe());
    assert!(!nack.take_wants_keyframe());
    assert_eq!(nack.stats(), NackStats { requested: 11, answered: 1, reordered: 0, abandoned: 1 });
    assert_eq!((nack.missing(), nack.next_timeout()), (0, None));
}

#[test]
fn pairs_are_packed() {
    let at = clock();
    let mut nack = NackGenerator::new();
    nack.on_packet(at(0), 65_534, false, false);
    nack.on_packet(at(0), 65_535 + 18, false, false);
    nack.on_packet(at(0), 65_535 + 20, false, false);
    let mut pairs = Vec::new();
    nack.poll(at(0), &mut pairs);
    assert_eq!(pairs, [NackPair { pid: 65_535, blp: 0xffff }, NackPair { pid: 16, blp: 0b10 }]);
}

#[test]
fn merely_late_packets_lengthen_the_wait() {
    let at = clock();
    let mut nack = NackGenerator::new();
    for seq in (0..200).step_by(2) {
        // Pairs swapped, 4 ms apart.
        let ms = seq * 10;
        nack.on_packet(at(ms), seq + 1, false, false);
        due(&mut nack, at(ms));
        due(&mut nack, at(ms + 3));
        nack.on_packet(at(ms + 4), seq, false, false);
    }
    let stats = nack.stats();
    assert!(stats.requested <= 2, "{stats:?}");
    assert!(stats.reordered >= 98, "{stats:?}");
    nack.on_packet(at(9000), 300, false, false);
    let asked_at = (9000..9030).find(|ms| !due(&mut nack, at(*ms)).is_empty());
    assert!((9004..=9010).contains(&asked_at.unwrap()), "{asked_at:?}");
}

#[test]
fn the_round_trip_is_measured_at_answers_to_single_requests() {
    let at = clock();
    let mut nack = NackGenerator::new();
    nack.on_packet(at(0), 1, false, false);
    nack.on_packet(at(0), 3, false, false);
    assert_eq!(due(&mut nack, at(0)), [2]);
    nack.on_packet(at(64), 2, false, true);
    assert_eq!(nack.rtt(), Some(Duration::from_millis(64)));
    nack.on_packet(at(100), 5, false, false);
    assert_eq!(due(&mut nack, at(100)), [4]);
    assert_eq!(due(&mut nack, at(164)), [4]);
    nack.on_packet(at(170), 4, false, true);
    assert_eq!(nack.rtt(), Some(Duration::from_millis(64)), "which of two requests it answers is not known");
}

#[test]
fn overflow_keeps_what_a_keyframe_needs_or_asks_for_one() {
    let at = clock();
    let mut nack = NackGenerator::new();
    nack.on_packet(at(0), 0, false, false);
    nack.on_packet(at(0), 600, true, false);
    nack.on_packet(at(0), 1200, false, false);
    assert_eq!(nack.missing(), 599, "what came before the keyframe gave way");
    assert!(!nack.take_wants_keyframe());
    nack.on_packet(at(0), 1700, false, false);
    assert_eq!(nack.missing(), 0);
    assert!(nack.take_wants_keyframe());
    assert_eq!(nack.stats().abandoned, 599 + 599 + 499);
    nack.on_packet(at(0), u64::MAX / 2, true, false);
    assert_eq!(nack.missing(), 0);
    assert!(!nack.take_wants_keyframe(), "it is one");
}

#[test]
fn before_a_keyframe_less_effort_is_made() {
    let at = clock();
    let mut nack = NackGenerator::new();
    nack.on_packet(at(0), 0, false, false);
    nack.on_packet(at(0), 2, false, false);
    nack.on_packet(at(10), 3, true, false);
    let asked: usize = (0..3000).map(|ms| due(&mut nack, at(ms)).len()).sum();
    assert_eq!(asked, 2);
    assert!(!nack.take_wants_keyframe());
    assert_eq!(nack.missing(), 0);
}

#[test]
fn one_request_is_bounded_and_the_rest_follows() {
    let at = clock();
    let mut nack = NackGenerator::new();
    let mut seq = 0;
    // Singles 18 apart: each takes a pair of its own.
    for _ in 0..500 {
        nack.on_packet(at(0), seq, false, false);
        for present in seq + 2..seq + 18 {
            nack.on_packet(at(0), present, false, false);
        }
        seq += 18;
    }
    assert_eq!(nack.missing(), 500);
    let mut pairs = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..2 {
        assert!(nack.next_timeout().is_some_and(|next| next <= at(0)));
        nack.poll(at(0), &mut pairs);
        assert!(pairs.len() <= PAIRS_MAX);
        asked.extend(pairs.iter().flat_map(|pair| pair.seqs()));
    }
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 500);
    assert_eq!(nack.next_timeout(), Some(at(100)));
}

#[test]
fn a_retransmission_is_split() {
    assert_eq!(split_rtx(&[0x12, 0x34, 7, 8]), Some((0x1234, &[7, 8][..])));
    assert_eq!(split_rtx(&[0x12, 0x34]), None);
    assert_eq!(split_rtx(&[0x12]), None);
    assert_eq!(split_rtx(&[]), None);
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<NackGenerator>() <= 136, "{}", size_of::<NackGenerator>());
    assert!(size_of::<Missing>() <= 48);
}

proptest! {
    /// Everything lost comes in the end if every second answer gets through, and nothing is asked for that came.
    #[test]
    fn what_is_lost_is_recovered(lost in prop::collection::vec(prop::bool::weighted(0.2), 2..400)) {
        let at = clock();
        let mut nack = NackGenerator::new();
        let mut have = vec![false; lost.len() + 1];
        let mut asked = vec![0_u32; lost.len() + 1];
        let mut in_flight = Vec::<(u64, u64)>::new();
        for ms in 0..lost.len() as u64 + 4000 {
            if let Some(lost) = lost.get(ms as usize) && (!lost || ms == 0) {
                nack.on_packet(at(ms), ms, false, false);
                have[ms as usize] = true;
            } else if ms as usize == lost.len() {
                nack.on_packet(at(ms), ms, false, false);
                have[ms as usize] = true;
            }
            for (_, seq) in in_flight.extract_if(.., |(arrives, _)| *arrives == ms) {
                nack.on_packet(at(ms), seq, false, true);
                have[seq as usize] = true;
            }
            for seq in due(&mut nack, at(ms)) {
                prop_assert!(!have[usize::from(seq)], "asked for what is there");
                asked[usize::from(seq)] += 1;
                if asked[usize::from(seq)].is_multiple_of(2) {
                    in_flight.push((ms + 30, u64::from(seq)));
                }
            }
        }
        prop_assert!(have.iter().all(|have| *have));
        prop_assert_eq!(nack.missing(), 0);
    }

    #[test]
    fn any_packets_keep_it_bounded(packets in prop::collection::vec((any::<u64>(), any::<bool>(), any::<bool>(), 0..400_u64), 0..200)) {
        let at = clock();
        let mut nack = NackGenerator::new();
        let mut pairs = Vec::new();
        let mut ms = 0;
        for (seq, keyframe, retransmitted, delay) in packets {
            ms += delay;
            nack.on_packet(at(ms), seq % 20_000, keyframe, retransmitted);
            nack.on_packet(at(ms), seq, keyframe, retransmitted);
            nack.poll(at(ms), &mut pairs);
            prop_assert!(nack.missing() <= MISSING_MAX && pairs.len() <= PAIRS_MAX);
            if seq % 5 == 0 {
                nack.reset();
            }
        }
    }
}
