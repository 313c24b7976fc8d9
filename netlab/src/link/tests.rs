//! The link by examples; what holds for all links is in `properties.rs`.

mod properties;

use std::time::{Duration, Instant};

use super::*;
use crate::units::{Bitrate, Probability};

const PACKET_BYTES: usize = 1250;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

/// Sends numbered packets at these times; returns which arrived when, in order, and the link.
fn pass(
    config: LinkConfig,
    seed: u64,
    times: impl IntoIterator<Item = Duration>,
) -> (Vec<(Duration, u32)>, Link<u32>) {
    let start = start();
    let mut link = Link::new(config, seed, start);
    let mut arrived = Vec::new();
    for (number, at) in (0..).zip(times) {
        arrived.extend(std::iter::from_fn(|| link.poll(start + at)));
        link.send(start + at, PACKET_BYTES, number);
    }
    arrived.extend(std::iter::from_fn(|| link.poll(start + Duration::from_secs(10_000))));
    (arrived.into_iter().map(|delivery| (delivery.at - start, delivery.payload)).collect(), link)
}

fn every(interval: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (0..count).map(move |number| interval * number)
}

/// Mean and standard deviation, in milliseconds.
fn spread(delays: impl Iterator<Item = Duration>) -> (f64, f64) {
    let delays: Vec<f64> = delays.map(|delay| delay.as_secs_f64() * 1e3).collect();
    let count = delays.len() as f64;
    let mean = delays.iter().sum::<f64>() / count;
    (mean, (delays.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / count).sqrt())
}

#[test]
fn an_ideal_link_changes_nothing() {
    let (arrived, link) = pass(LinkConfig::IDEAL, 1, every(ms(1), 3));
    assert_eq!(arrived, [(ms(0), 0), (ms(1), 1), (ms(2), 2)]);
    assert!(link.is_empty());
    assert_eq!((link.next_at(), link.held_bytes(), link.stats().utilisation()), (None, 0, None));
}

#[test]
fn packets_that_come_at_once_are_spread_by_the_rate() {
    // 10 ms each.
    let config = LinkConfig { delay: ms(5), rate: Bitrate::from_kbps(1000), ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 1, [ms(0), ms(0), ms(0), ms(100)]);
    assert_eq!(arrived, [(ms(15), 0), (ms(25), 1), (ms(35), 2), (ms(115), 3)]);
    let stats = link.stats();
    assert_eq!((stats.queueing.quantile(0.5), stats.queueing.max()), (ms(0), ms(20)));
    assert_eq!(stats.served_bytes, 4 * PACKET_BYTES as u64);
}

/// A packet takes 3,333,333.3… ns.
#[test]
fn rounding_does_not_add_up() {
    let config =
        LinkConfig { rate: Bitrate::from_kbps(3000), queue_bytes: Some(u64::MAX), ..LinkConfig::IDEAL };
    let (arrived, _) = pass(config, 1, [ms(0); 3000]);
    assert_eq!(arrived.last(), Some(&(ms(10_000), 2999)));
}

#[test]
fn the_share_of_the_rate_that_was_used_is_known() {
    let config = LinkConfig { rate: Bitrate::from_kbps(1000), ..LinkConfig::IDEAL };
    let start = start();
    let mut link = Link::new(config, 1, start);
    // What was before the first does not count.
    for at in every(ms(40), 100) {
        link.send(start + ms(500) + at, PACKET_BYTES, ());
    }
    while link.poll(start + ms(4500)).is_some() {}
    assert_eq!(link.stats().utilisation(), Some(0.25));
}

#[test]
fn headers_take_their_time() {
    let config = LinkConfig { rate: Bitrate::from_kbps(1000), header_bytes: 125, ..LinkConfig::IDEAL };
    assert_eq!(pass(config, 1, [ms(0)]).0, [(ms(11), 0)]);
}

#[test]
fn a_full_queue_drops_the_last() {
    let rate = Bitrate::from_kbps(1000);
    let bytes = Some(2 * PACKET_BYTES as u64);
    for config in [
        LinkConfig { rate, queue_bytes: bytes, ..LinkConfig::IDEAL },
        LinkConfig { rate, queue_time: Some(ms(20)), ..LinkConfig::IDEAL },
        LinkConfig { rate, queue_bytes: bytes, queue_time: Some(ms(500)), ..LinkConfig::IDEAL },
        LinkConfig { rate, queue_bytes: Some(100_000), queue_time: Some(ms(20)), ..LinkConfig::IDEAL },
    ] {
        // One is being sent and two wait when the fourth and the fifth come.
        let (arrived, link) = pass(config, 1, [ms(0), ms(0), ms(0), ms(0), ms(0), ms(11)]);
        assert_eq!(arrived, [(ms(10), 0), (ms(20), 1), (ms(30), 2), (ms(40), 5)]);
        assert_eq!((link.stats().lost_queue, link.stats().lost()), (2, 2));
    }
}

#[test]
fn a_rate_without_a_queue_has_one_of_200_ms() {
    let config = LinkConfig { rate: Bitrate::from_kbps(1000), ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 1, [ms(0); 30]);
    assert_eq!(arrived.len(), 21);
    assert_eq!(link.stats().queueing.max(), QUEUE_TIME_DEFAULT);
}

#[test]
fn a_new_rate_holds_for_what_is_being_sent_and_what_waits() {
    let step = |at, kbps| Step { at: ms(at), rate: Some(Bitrate::from_kbps(kbps)), ..Step::default() };
    let rate = Bitrate::from_kbps(1000);
    let steps = vec![step(5, 100), step(55, 0), step(155, 1000)];
    let config = LinkConfig { rate, steps, queue_bytes: Some(100_000), ..LinkConfig::IDEAL };
    // Half of the first at 1 Mbit/s and half at 100 kbit/s; then nothing moves for 100 ms.
    let (arrived, link) = pass(config, 1, [ms(0), ms(0), ms(100)]);
    assert_eq!(arrived, [(ms(55), 0), (ms(165), 1), (ms(175), 2)]);
    assert_eq!(link.stats().queueing.max(), ms(65));
}

#[test]
fn a_stopped_link_has_nothing_to_wait_for() {
    let config = LinkConfig { rate: Bitrate::ZERO, queue_bytes: Some(2000), ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 1, [ms(0); 9]);
    assert_eq!(arrived, []);
    assert_eq!((link.next_at(), link.stats().held, link.stats().lost_queue), (None, 2, 7));
}

#[test]
fn an_outage_takes_what_is_sent_and_leaves_what_is_under_way() {
    let outage = |at, time| Step { at: ms(at), outage: Some(ms(time)), ..Step::default() };
    let steps = vec![outage(20, 30), outage(30, 5), outage(200, 1)];
    let config = LinkConfig { delay: ms(50), steps, ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 1, every(ms(10), 7));
    assert_eq!(arrived, [(ms(50), 0), (ms(60), 1), (ms(100), 5), (ms(110), 6)]);
    assert_eq!((link.stats().lost_outage, link.stats().lost()), (3, 3));
}

#[test]
fn steps_change_everything_and_come_again() {
    let step = |at, share| Step {
        at: ms(at),
        delay: Some(ms(at)),
        loss: Some(Loss::uniform(share)),
        ..Step::default()
    };
    let config =
        LinkConfig { steps: vec![step(10, 1.0), step(20, 0.0)], repeat: Some(ms(25)), ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 1, every(ms(5), 10));
    let numbers: Vec<u32> = arrived.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [0, 1, 4, 5, 6, 9]);
    assert_eq!(arrived[3].0, ms(45));
    assert_eq!(link.stats().lost_random, 4);
}

#[test]
fn a_new_configuration_leaves_what_is_under_way_alone() {
    let start = start();
    let config = LinkConfig { delay: ms(50), loss: Loss::uniform(0.0), ..LinkConfig::IDEAL };
    let mut link = Link::new(config, 1, start);
    link.send(start, PACKET_BYTES, 0);
    let outage = Step { at: ms(10), outage: Some(ms(10)), ..Step::default() };
    let config = LinkConfig { delay: ms(1), jitter_reorders: true, steps: vec![outage], ..LinkConfig::IDEAL };
    link.set_config(start + ms(10), config);
    for at in [15, 25, 35] {
        link.send(start + ms(at), PACKET_BYTES, at);
    }
    let arrived: Vec<_> =
        std::iter::from_fn(|| link.poll(start + ms(100))).map(|delivery| delivery.payload).collect();
    assert_eq!(arrived, [15, 35, 0]);
    assert_eq!((link.stats().reordered, link.stats().lost_outage), (1, 1));
}

#[test]
fn jitter_has_the_spread_and_the_ends_that_were_asked_for() {
    let reordering =
        LinkConfig { delay: ms(100), jitter: ms(10), jitter_reorders: true, ..LinkConfig::IDEAL };
    let uniform = LinkConfig { jitter_distribution: JitterDistribution::Uniform, ..reordering.clone() };
    for (config, deviation, most) in [(reordering, 10.0, 34.7), (uniform, 10.0 / 3f64.sqrt(), 10.0)] {
        let (arrived, link) = pass(config, 3, every(ms(5), 20_000));
        let delays = || arrived.iter().map(|(at, number)| *at - ms(5) * *number);
        let (mean, found) = spread(delays());
        assert!((mean - 100.0).abs() < 0.5, "{mean}");
        assert!((found / deviation - 1.0).abs() < 0.03, "{found}, expected {deviation}");
        let off = delays().map(|delay| (delay.as_secs_f64() * 1e3 - 100.0).abs()).fold(0.0, f64::max);
        assert!(off <= most && off > most * 0.8, "{off}, at most {most}");
        assert!(link.stats().reordered > 2_000, "{}", link.stats().reordered);
    }
}

#[test]
fn jitter_that_keeps_the_order_only_delays() {
    let config = LinkConfig { delay: ms(20), jitter: ms(10), ..LinkConfig::IDEAL };
    let (arrived, link) = pass(config, 3, every(ms(5), 20_000));
    assert!(arrived.is_sorted());
    let (mean, found) = spread(arrived.iter().map(|(at, number)| *at - ms(5) * *number));
    assert!((20.0..30.0).contains(&mean) && found > 3.0, "{mean} {found}");
    assert_eq!(link.stats().reordered, 0);
}

#[test]
fn the_share_that_is_held_back_is_overtaken() {
    let config = LinkConfig {
        delay: ms(20),
        reorder: Probability::new(0.1),
        reorder_delay: ms(12),
        ..LinkConfig::IDEAL
    };
    let (arrived, link) = pass(config, 5, every(ms(5), 10_000));
    let late = arrived.iter().filter(|(at, number)| *at - ms(5) * *number == ms(32)).count();
    let on_time = arrived.iter().filter(|(at, number)| *at - ms(5) * *number == ms(20)).count();
    assert_eq!((late + on_time, arrived.len()), (10_000, 10_000));
    assert!((900..1100).contains(&late), "{late}");
    // Two follow within that time; a late one before two more late ones is not overtaken.
    assert!(
        (0.95..=1.0).contains(&(link.stats().reordered as f64 / late as f64)),
        "{}",
        link.stats().reordered
    );
}

#[test]
fn the_share_that_is_doubled_arrives_twice() {
    let config = LinkConfig {
        duplicate: Probability::new(0.2),
        loss: Loss::uniform(0.5),
        rate: Bitrate::from_kbps(10_000),
        ..LinkConfig::IDEAL
    };
    let (arrived, link) = pass(config, 5, every(ms(5), 10_000));
    let twice = arrived.windows(2).filter(|pair| pair[0].1 == pair[1].1).count();
    assert!((900..1100).contains(&twice), "of half of 10,000 a fifth: {twice}");
    assert_eq!(link.stats().duplicates, twice as u64);
    assert!(
        arrived.windows(2).all(|pair| pair[1].0 - pair[0].0 >= ms(1)),
        "a copy takes its share of the rate"
    );
}

/// Whatever else is on a link, whoever compares two of them finds the same datagrams lost.
#[test]
fn the_seed_alone_says_which_datagram_is_lost() {
    let bad = LinkConfig { loss: Loss::bursts(Probability::new(0.1), 3.0), ..LinkConfig::IDEAL };
    let worse = LinkConfig {
        jitter: ms(3),
        duplicate: Probability::new(0.5),
        reorder: Probability::new(0.5),
        rate: Bitrate::from_kbps(900),
        ..bad.clone()
    };
    let lost = |config: &LinkConfig, seed| {
        let (arrived, link) = pass(config.clone(), seed, every(ms(20), 1000));
        assert_eq!(link.stats().lost_queue, 0);
        let arrived: std::collections::BTreeSet<u32> =
            arrived.into_iter().map(|(_, number)| number).collect();
        (0..1000).filter(|number| !arrived.contains(number)).collect::<Vec<_>>()
    };
    assert!(!lost(&bad, 1).is_empty());
    assert_eq!(lost(&bad, 1), lost(&worse, 1));
    assert_ne!(lost(&bad, 1), lost(&bad, 2));
}

#[test]
fn copies_do_not_change_the_delays_of_others() {
    let config = LinkConfig { delay: ms(50), jitter: ms(10), jitter_reorders: true, ..LinkConfig::IDEAL };
    let doubled = LinkConfig { duplicate: Probability::new(0.5), ..config.clone() };
    let arrivals =
        |config, times| -> std::collections::BTreeSet<_> { pass(config, 1, times).0.into_iter().collect() };
    // Far enough apart to overtake nobody.
    let (single, both) = (arrivals(config, every(ms(100), 100)), arrivals(doubled, every(ms(100), 100)));
    assert!(both.len() > 130 && single.len() == 100 && single.is_subset(&both));
}

#[test]
fn a_flood_takes_no_more_memory_than_the_bound() {
    let config = LinkConfig { delay: Duration::from_secs(3600), ..LinkConfig::IDEAL };
    let start = start();
    let mut link = Link::new(config, 1, start);
    for _ in 0..20_000 {
        link.send(start, PACKET_BYTES, ());
    }
    let stats = link.stats();
    assert!(stats.lost_queue > 0 && stats.held > 10_000, "{stats:?}");
    assert!(link.held_bytes() <= HELD_BYTES_MAX);
    for _ in 0..stats.held {
        assert!(link.poll(start + Duration::from_secs(3600)).is_some());
    }
    assert_eq!(link.held_bytes(), 0);
}

#[test]
fn no_time_is_too_long() {
    let forever = Duration::MAX;
    let step = Step { at: forever, outage: Some(forever), ..Step::default() };
    let config = LinkConfig {
        delay: forever,
        jitter: forever,
        reorder: Probability::ALWAYS,
        reorder_delay: forever,
        rate: Bitrate::from_bps(1),
        queue_bytes: Some(u64::MAX),
        queue_time: Some(forever),
        steps: vec![step, Step { at: ms(1), ..step }],
        repeat: Some(forever),
        ..LinkConfig::IDEAL
    };
    let start = start();
    let mut link = Link::new(config, 1, start);
    for _ in 0..10 {
        link.send(start, usize::MAX, ());
        link.send(start, PACKET_BYTES, ());
    }
    assert!(link.next_at().is_some_and(|at| at > start));
    // Each takes 10,000 s.
    assert_eq!(link.poll(start + Duration::from_secs(45_000)), None);
    assert_eq!(link.queueing_delay(start), Duration::from_secs(55_000), "time does not go back");
}
