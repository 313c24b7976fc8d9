//! Our forwarder and one on str0m's RTP mode behind the same network: what the receiver gets must not differ.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "differential/call.rs"]
mod call;
#[path = "differential/forwarder.rs"]
mod forwarder;
#[path = "differential/link.rs"]
mod link;
#[path = "differential/ours.rs"]
mod ours;
#[path = "differential/peer.rs"]
mod peer;
#[path = "differential/reference.rs"]
mod reference;
#[path = "differential/traffic.rs"]
mod traffic;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use call::{Call, Outcome, PUBLISHER, VIDEO_FRAMES};
use ours::Ours;
use reference::Reference;
use traffic::{Load, Numbers, Stream};
use zynk_netlab::{Bitrate, JitterDistribution, LinkConfig, Loss};

const SEEDS: u32 = 20;
/// How far the estimates may lie apart, as a share of the reference's.
const ESTIMATES_APART_MAX: f64 = 0.2;
/// They are compared up to so many times the need. As long as less is sent than there is room for, the algorithm leaves
/// open what it takes the room for: growth ends at 1.5 times what arrives (libwebrtc's `AimdRateControl`), while a
/// probe may find anything up to twice the need, one in which a packet is lost less.
const COMPARED_MAX: f64 = 1.5;
/// Ours does not look for more than this before anything is known, in kbit/s, and for no more while nothing is lacking.
const PROBED_MAX: f64 = 5_500.0;
/// How much more may be sent: media is the same, probes and padding are not.
const BYTES_RATIO_MAX: f64 = 1.1;

/// Without any limit.
const CLEAN: LinkConfig = LinkConfig::delayed(Duration::from_millis(20));

/// The same call through both forwarders, ours first.
fn both(link: &LinkConfig, load: Load, seed: u64) -> [Outcome; 2] {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let now = Instant::now();
    // str0m draws SSRCs and ICE credentials from the thread's generator.
    fastrand::seed(seed);
    let ours = Call::run(now, Ours::new(now, seed), link, seed, load);
    fastrand::seed(seed);
    let reference = Reference::new(now, PUBLISHER.into(), load.need_kbps());
    [ours, Call::run(now, reference, link, seed, load)]
}

/// The mean of the estimates in kbit/s, each counted up to a limit in multiples of the need.
fn estimate(outcome: &Outcome, load: Load, limit: f64) -> f64 {
    let limit = f64::from(load.need_kbps()) * limit;
    let sum: f64 = outcome.estimates.iter().map(|bps| (*bps as f64 / 1000.0).min(limit)).sum();
    sum / outcome.estimates.len() as f64
}

/// What the receiver asked for again.
fn nacked(outcome: &Outcome) -> BTreeSet<Numbers> {
    outcome.nacked.iter().map(|sequence| outcome.numbers[sequence]).collect()
}

/// What it got as a retransmission. str0m pads with retransmissions of packets nobody has asked for.
fn retransmitted(outcome: &Outcome) -> BTreeSet<Numbers> {
    let numbers = |sequence| outcome.numbers.get(sequence).copied();
    outcome.retransmitted.iter().filter_map(numbers).collect()
}

/// Calls over a link; returns what the receivers behind our forwarder asked for again.
fn compare(link: &LinkConfig, load: impl Fn(u32) -> Load) -> usize {
    let mut asked = 0;
    for seed in 0..SEEDS {
        let load = load(seed);
        let outcomes = both(link, load, seed.into());
        let [ours, reference] = &outcomes;
        for outcome in &outcomes {
            let unanswered: Vec<_> = outcome.nacked.difference(&outcome.retransmitted).collect();
            assert!(unanswered.is_empty(), "seed {seed}: never answered: {unanswered:?}");
            // Of what is lost before the first packet that arrives the receiver does not know.
            let video = &outcome.complete[&Stream::Video];
            let missing: Vec<_> = (1..VIDEO_FRAMES).filter(|frame| !video.contains(frame)).collect();
            assert!(missing.is_empty(), "seed {seed}: never complete: {missing:?}");
        }
        for stream in [Stream::Audio, Stream::Video] {
            let [ours, reference] = [ours, reference].map(|outcome| &outcome.complete[&stream]);
            let only: Vec<_> = ours.symmetric_difference(reference).collect();
            assert!(only.is_empty(), "seed {seed}: {stream:?} through one forwarder only: {only:?}");
        }
        for (this, other) in [(ours, reference), (reference, ours)] {
            let more = &nacked(this) - &nacked(other);
            assert!(more.is_subset(&retransmitted(other)), "seed {seed}: lost behind one only: {more:?}");
        }
        let [mine, theirs] = [ours, reference].map(|outcome| estimate(outcome, load, COMPARED_MAX));
        let apart = (mine - theirs).abs() / theirs;
        assert!(apart <= ESTIMATES_APART_MAX, "seed {seed}: {mine:.0} kbit/s, reference {theirs:.0} kbit/s");
        let probed = estimate(ours, load, f64::MAX);
        assert!(probed < PROBED_MAX, "seed {seed}: {probed:.0} kbit/s");
        let bytes = ours.downlink_bytes as f64 / reference.downlink_bytes as f64;
        assert!(bytes < BYTES_RATIO_MAX, "seed {seed}: {bytes:.2} times the octets");
        asked += ours.nacked.len();
    }
    asked
}

/// From a small picture to a large one.
fn steady(seed: u32) -> Load {
    Load::Fixed(600 + 75 * seed)
}

#[test]
fn over_a_clean_link() {
    assert_eq!(compare(&CLEAN, steady), 0);
}

#[test]
fn over_a_link_that_loses_two_percent() {
    let asked = compare(&LinkConfig { loss: Loss::uniform(0.02), ..CLEAN }, steady);
    assert!(asked > 1000, "only {asked} packets were asked for again");
}

/// If the publisher sent less than gets through, the estimates would not show the bottleneck; if it sent more, frames
/// would be lost. So it sends what the forwarder thinks there is room for.
#[test]
fn over_a_bottleneck() {
    let link = LinkConfig { rate: Bitrate::from_kbps(500), queue_bytes: Some(30_000), ..CLEAN };
    compare(&link, |_| Load::Adaptive(1000));
}

/// The jitter is that of single packets, so that those of a frame do not come together; none overtakes another.
#[test]
fn over_a_long_link_with_jitter() {
    let link = LinkConfig {
        delay: Duration::from_millis(150),
        jitter: Duration::from_millis(2),
        jitter_distribution: JitterDistribution::Uniform,
        ..CLEAN
    };
    assert_eq!(compare(&link, steady), 0);
}
