//! The estimator with pacer, send history and arrival recorder over simulated links, in virtual time.

use proptest::prelude::*;
use zynk_netlab::{JitterDistribution, Link, LinkConfig, Loss};

use super::*;
use crate::media::{
    pacer::{Pacer, PacketClass, Release, SPREAD_MAX},
    twcc::{ArrivalRecorder, Feedback, SendHistory},
};

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

/// A path without a fault.
fn clean() -> LinkConfig {
    LinkConfig {
        rate: zynk_netlab::Bitrate::from_kbps(10_000),
        queue_time: Some(Duration::from_millis(200)),
        ..LinkConfig::delayed(Duration::from_millis(20))
    }
}

/// What a run came to.
#[derive(Debug)]
struct Outcome {
    /// Mean target of the last three seconds, in kbit/s.
    target_kbps: u64,
    /// The longest a packet stood in the bottleneck's queue during the last three seconds.
    queue_ms: u128,
    faults: u32,
}

/// Sends 30 frames a second that follow the target up to `media_max`, for `seconds`.
fn run(config: LinkConfig, media_max: Bitrate, seconds: u64, seed: u64) -> Outcome {
    let start = start();
    let at = |us: u64| start + Duration::from_micros(us);
    let mut way_back = Link::new(LinkConfig::delayed(config.delay), seed, start);
    let mut link = Link::new(config, seed, start);
    let mut estimator = Estimator::new(EstimatorConfig::default());
    let mut pacer = Pacer::<u16>::new(Bitrate::kbps(750));
    let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
    let (mut scratch, mut reports) = (Vec::new(), Vec::new());
    let (mut sum_kbps, mut samples, mut queue_ms) = (0, 0, 0);
    for us in (0..seconds * 1_000_000).step_by(500) {
        let now = at(us);
        let is_end = us >= (seconds - 3) * 1_000_000;
        if us % 33_500 == 0 {
            let frame = estimator.rates().target.min(media_max).bytes_in(Duration::from_micros(33_500));
            for _ in 0..frame.div_ceil(1200) {
                let size = (frame / frame.div_ceil(1200)) as u16;
                let _refused = pacer.push(now, PacketClass::Video, size, size);
            }
        }
        while let Some(release) = pacer.poll(now) {
            let (size, probe) = match release {
                Release::Packet { item, probe, .. } => (item, probe),
                Release::Padding { bytes, probe } => {
                    pacer.on_padding(now, bytes, probe);
                    (bytes, probe)
                }
            };
            let seq = history.register(now, size, probe);
            estimator.on_sent(now, size);
            if is_end {
                queue_ms = queue_ms.max(link.queueing_delay(now).as_millis());
            }
            link.send(now, size.into(), seq);
        }
        while let Some(arrived) = link.poll(now) {
            recorder.on_packet(arrived.at, arrived.payload);
        }
        let mut packet = Vec::new();
        while recorder.poll(now, 1, 2, &mut scratch, &mut packet) {
            way_back.send(now, packet.len(), std::mem::take(&mut packet));
        }
        while let Some(arrived) = way_back.poll(now) {
            reports.clear();
            history.on_feedback(&Feedback::parse(&arrived.payload[12..]).unwrap(), &mut reports);
            estimator.on_feedback(now, &reports, history.in_flight_bytes());
        }
        estimator.handle_timeout(now);
        while let Some(output) = estimator.poll_output() {
            match output {
                EstimatorOutput::Rates(rates) => pacer.set_rates(rates.pacing, rates.padding, SPREAD_MAX),
                EstimatorOutput::Probe(probe) => pacer.probe(now, probe),
            }
        }
        // As an owner does that lacks something: once in a while.
        if us < 8_000_000 && us % 2_500_000 == 2_000_000 && estimator.rates().target < media_max {
            estimator.probe(now, estimator.rates().target.percent(200).min(media_max));
        }
        if is_end {
            sum_kbps += estimator.rates().target.as_bps() / 1000;
            samples += 1;
        }
    }
    let outcome = Outcome { target_kbps: sum_kbps / samples, queue_ms, faults: estimator.faults() };
    println!("{outcome:?}");
    outcome
}

#[test]
fn a_clean_link_is_found_to_carry_what_it_carries() {
    for seed in 0..5 {
        let outcome = run(clean(), Bitrate::kbps(20_000), 13, seed);
        assert!((8_500..=10_500).contains(&outcome.target_kbps), "{outcome:?}");
        assert_eq!(outcome.faults, 0);
    }
}

#[test]
fn a_bottleneck_is_not_overrun() {
    let rate = zynk_netlab::Bitrate::from_kbps(500);
    let link = LinkConfig { rate, queue_time: Some(Duration::from_millis(150)), ..clean() };
    for seed in 0..5 {
        let outcome = run(link.clone(), Bitrate::kbps(3_000), 13, seed);
        assert!((400..=520).contains(&outcome.target_kbps), "{outcome:?}");
        assert!(outcome.queue_ms <= 100, "{outcome:?}");
        assert_eq!(outcome.faults, 0);
    }
}

#[test]
fn two_percent_loss_costs_little() {
    for seed in 0..5 {
        let outcome =
            run(LinkConfig { loss: Loss::uniform(0.02), ..clean() }, Bitrate::kbps(3_000), 13, seed);
        assert!((3_000..=9_000).contains(&outcome.target_kbps), "{outcome:?}");
        assert_eq!(outcome.faults, 0);
    }
}

#[test]
fn a_long_way_with_jitter_is_not_taken_for_a_full_one() {
    // Jitter of a queue elsewhere: it delays, it does not reorder.
    let link = LinkConfig {
        delay: Duration::from_micros(157_500),
        jitter: Duration::from_micros(7_500),
        jitter_distribution: JitterDistribution::Uniform,
        ..clean()
    };
    for seed in 0..5 {
        let outcome = run(link.clone(), Bitrate::kbps(3_000), 13, seed);
        assert!((2_000..=9_000).contains(&outcome.target_kbps), "{outcome:?}");
        assert_eq!(outcome.faults, 0);
    }
}

/// Without transport-wide feedback: reports and REMB alone.
fn plain() -> (Estimator, Instant) {
    let start = start();
    let mut estimator = Estimator::new(EstimatorConfig { twcc: false, ..EstimatorConfig::default() });
    estimator.on_sent(start, 1200);
    (estimator, start)
}

fn pass(
    estimator: &mut Estimator,
    start: Instant,
    ms: std::ops::Range<u64>,
    mut each: impl FnMut(&mut Estimator, Instant, u64),
) {
    for ms in ms {
        let now = start + Duration::from_millis(ms);
        estimator.on_sent(now, 1200);
        each(estimator, now, ms);
        estimator.handle_timeout(now);
        while let Some(output) = estimator.poll_output() {
            assert!(matches!(output, EstimatorOutput::Rates(_)), "nobody reports on probes");
        }
    }
}

#[test]
fn remb_is_an_upper_bound() {
    let (mut estimator, start) = plain();
    pass(&mut estimator, start, 0..3000, |estimator, now, ms| {
        if ms % 1000 == 0 {
            estimator.on_remb(now, Bitrate::kbps(900));
            estimator.on_rtt(now, Duration::from_millis(50));
            estimator.on_loss(now, 0, 100);
        }
    });
    let target = estimator.rates().target;
    assert!((Bitrate::kbps(800)..=Bitrate::kbps(900)).contains(&target), "{target}");
    pass(&mut estimator, start, 3000..3100, |estimator, now, _| estimator.on_remb(now, Bitrate::ZERO));
    assert_eq!(estimator.rates().target, EstimatorConfig::default().target_min);
    pass(&mut estimator, start, 3100..3200, |estimator, now, _| {
        estimator.on_remb(now, Bitrate::bps(u64::MAX))
    });
    assert!(estimator.rates().target <= EstimatorConfig::default().target_max, "t38: a lie is bounded");
    assert_eq!(estimator.faults(), 0);
}

#[test]
fn reports_of_loss_lower_the_target_and_of_none_raise_it() {
    let (mut estimator, start) = plain();
    let report = |lost| {
        move |estimator: &mut Estimator, now, ms: u64| {
            if ms.is_multiple_of(1000) {
                estimator.on_rtt(now, Duration::from_millis(50));
                estimator.on_loss(now, lost, 100 - lost);
            }
        }
    };
    pass(&mut estimator, start, 0..10_000, report(0));
    let good = estimator.rates().target;
    assert!(good > Bitrate::kbps(400), "{good}");
    pass(&mut estimator, start, 10_000..20_000, report(30));
    let bad = estimator.rates().target;
    assert!(bad.as_bps() * 3 < good.as_bps() * 2, "{good} {bad}");
    assert_eq!(estimator.faults(), 0);
}

#[test]
fn with_transport_feedback_remb_still_bounds() {
    let mut estimator = Estimator::new(EstimatorConfig::default());
    estimator.on_remb(start(), Bitrate::kbps(100));
    assert_eq!(estimator.rates().target, Bitrate::kbps(100));
    assert_eq!(estimator.rates().pacing, Bitrate::kbps(250));
}

#[test]
fn an_idle_estimator_is_small_and_sleeps() {
    let start = start();
    let mut estimator = Estimator::new(EstimatorConfig::default());
    estimator.on_rtt(start, Duration::ZERO);
    assert!(estimator.congestion.is_none());
    assert_eq!(estimator.next_timeout(), None);
    assert!(size_of::<Estimator>() <= 208, "{}", size_of::<Estimator>());
    assert!(Estimator::congestion_bytes() <= 16 * 1024, "{}", Estimator::congestion_bytes());
    estimator.on_sent(start, 1200);
    let mut now = start;
    let mut timeouts = 0;
    while let Some(next) = estimator.next_timeout() {
        now = next;
        estimator.handle_timeout(now);
        timeouts += 1;
        assert!(timeouts < 100);
    }
    assert!(now >= start + REST_AFTER);
}

#[derive(Clone, Debug)]
enum Step {
    Sent(u16, Option<u16>),
    /// Reports on the packets sent last: how many, which arrival times, how they are scattered.
    Feedback(u8, i64, i64, u64),
    Rtt(u64),
    Loss(u32, u32),
    Remb(u64),
    Probe(u64),
    Timeout,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u16>(), prop::option::weighted(0.2, 0..12_u16)).prop_map(|(size, probe)| Step::Sent(size, probe)),
        6 => (any::<u8>(), prop_oneof![0..1_000_000_i64, any::<i64>()], prop_oneof![0..10_000_i64, -300..300_i64, any::<i64>()], any::<u64>())
            .prop_map(|(count, us, step, lost)| Step::Feedback(count, us, step, lost)),
        1 => any::<u64>().prop_map(Step::Rtt),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(lost, received)| Step::Loss(lost, received)),
        1 => any::<u64>().prop_map(Step::Remb),
        1 => any::<u64>().prop_map(Step::Probe),
        3 => Just(Step::Timeout),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever a receiver claims, the algorithm neither fails nor leaves its range.
    #[test]
    fn t38_lies_are_survived(
        steps in prop::collection::vec((step(), prop_oneof![0..50_000_u64, 0..20_000_000_u64]), 1..150),
        twcc: bool,
    ) {
        let config = EstimatorConfig { twcc, ..EstimatorConfig::default() };
        let mut estimator = Estimator::new(config);
        let mut now = start();
        let mut sent = Vec::new();
        for (step, delay_us) in steps {
            now += Duration::from_micros(delay_us);
            match step {
                Step::Sent(size, probe) => {
                    let seq = sent.len() as u64;
                    estimator.on_sent(now, size);
                    let probe = probe.map(ProbeClusterId);
                    sent.push(PacketReport { seq, sent_at: now, size, probe, received_us: None });
                }
                Step::Feedback(count, us, step, lost) => {
                    let from = sent.len().saturating_sub(usize::from(count % 64));
                    let mut reports = sent[from..].to_vec();
                    let mut received_us = us;
                    for (index, report) in reports.iter_mut().enumerate() {
                        report.received_us = (lost >> (index % 64) & 1 == 0).then_some(received_us);
                        received_us = received_us.wrapping_add(step);
                    }
                    estimator.on_feedback(now, &reports, us.unsigned_abs());
                }
                Step::Rtt(us) => estimator.on_rtt(now, Duration::from_micros(us)),
                Step::Loss(lost, received) => estimator.on_loss(now, lost, received),
                Step::Remb(bps) => estimator.on_remb(now, Bitrate::bps(bps)),
                Step::Probe(bps) => estimator.probe(now, Bitrate::bps(bps)),
                Step::Timeout => estimator.handle_timeout(now),
            }
            for _ in 0..20 {
                match estimator.poll_output() {
                    Some(EstimatorOutput::Probe(probe)) => prop_assert!(probe.rate <= TARGET_MAX),
                    Some(EstimatorOutput::Rates(rates)) => {
                        prop_assert!((config.target_min..=config.target_max).contains(&rates.target));
                        prop_assert!(rates.pacing >= rates.target);
                    }
                    None => break,
                }
            }
            prop_assert_eq!(estimator.poll_output(), None);
            prop_assert_eq!(estimator.faults(), 0);
        }
    }
}
