//! What holds for all links, whatever is sent.

use proptest::prelude::*;

use super::*;

/// What is sent: after how long, and how many bytes.
type Traffic = Vec<(Duration, usize)>;
/// What arrived: when, the number of what was sent, and its bytes.
type Arrived = Vec<(Duration, usize, usize)>;

fn micros(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_micros)
}

fn share() -> impl Strategy<Value = Probability> {
    prop_oneof![3 => Just(Probability::NEVER), 2 => (0.0..0.5).prop_map(Probability::new)]
}

fn loss() -> impl Strategy<Value = Loss> {
    let gilbert_elliott = (share(), share(), share(), share()).prop_map(|(p, r, loss_bad, loss_good)| {
        Loss::GilbertElliott(GilbertElliott { p, r, loss_bad, loss_good })
    });
    prop_oneof![Just(Loss::NONE), share().prop_map(Loss::Uniform), gilbert_elliott]
}

fn rate() -> impl Strategy<Value = Bitrate> {
    prop_oneof![
        1 => Just(Bitrate::UNLIMITED),
        1 => Just(Bitrate::ZERO),
        6 => (10_000..20_000_000_u64).prop_map(Bitrate::from_bps),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = (
        proptest::option::of(micros(0..50_000)),
        proptest::option::of(micros(0..20_000)),
        proptest::option::of(loss()),
        proptest::option::of(share()),
        proptest::option::of(share()),
        proptest::option::of(rate()),
        proptest::option::of(micros(0..100_000)),
    );
    (micros(0..500_000), changes).prop_map(|(at, (delay, jitter, loss, duplicate, reorder, rate, outage))| {
        Step { at, delay, jitter, loss, duplicate, reorder, rate, outage }
    })
}

/// Any link.
fn config() -> impl Strategy<Value = LinkConfig> {
    let path = (micros(0..50_000), micros(0..20_000), any::<bool>(), any::<bool>());
    let faults = (loss(), share(), share(), micros(0..30_000));
    let queue = (
        rate(),
        proptest::option::of(0..50_000_u64),
        proptest::option::of(micros(0..300_000)),
        prop_oneof![Just(0), 0..100_u16],
    );
    let schedule = (prop::collection::vec(step(), 0..5), proptest::option::of(micros(500_000..900_000)));
    (path, faults, queue, schedule).prop_map(|(path, faults, queue, schedule)| LinkConfig {
        delay: path.0,
        jitter: path.1,
        jitter_distribution: if path.2 { JitterDistribution::Uniform } else { JitterDistribution::Normal },
        jitter_reorders: path.3,
        loss: faults.0,
        duplicate: faults.1,
        reorder: faults.2,
        reorder_delay: faults.3,
        rate: queue.0,
        queue_bytes: queue.1,
        queue_time: queue.2,
        header_bytes: queue.3,
        steps: schedule.0,
        repeat: schedule.1,
    })
}

/// In bursts, as media comes.
fn traffic() -> impl Strategy<Value = Traffic> {
    let gap = prop_oneof![2 => Just(Duration::ZERO), 2 => micros(0..5_000), 1 => micros(0..100_000)];
    prop::collection::vec((gap, 0..1500_usize), 0..150)
}

/// When the link is looked at besides when something is sent.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// When it wants to be.
    AsAsked,
    Every(Duration),
    Never,
}

/// How long after the last datagram the link is looked at.
const TRAILER: Duration = Duration::from_secs(20);

/// Sends the traffic; `each` sees the link after every change.
fn run(
    config: &LinkConfig,
    seed: u64,
    traffic: &Traffic,
    look: Look,
    mut each: impl FnMut(&mut Link<usize>, Instant, &Arrived),
) -> (Arrived, LinkStats) {
    let start = start();
    let mut link = Link::new(config.clone(), seed, start);
    let mut arrived = Arrived::new();
    let mut sent = start;
    let mut sends: Vec<_> = traffic
        .iter()
        .map(|(gap, bytes)| {
            sent += *gap;
            (sent, Some(*bytes))
        })
        .collect();
    sends.push((sent + TRAILER, None));
    let mut now = start;
    for (number, (until, bytes)) in sends.into_iter().enumerate() {
        loop {
            let next = match look {
                Look::AsAsked => link.next_at(),
                Look::Every(interval) => Some(now + interval),
                Look::Never => None,
            };
            let Some(next) = next.filter(|next| *next < until) else { break };
            assert!(next > now || matches!(look, Look::AsAsked), "time goes on");
            now = now.max(next);
            take(&mut link, start, now, traffic, look, &mut arrived);
            each(&mut link, now, &arrived);
            assert!(
                link.next_at().is_none_or(|again| again > now),
                "it has something to do and does not do it"
            );
        }
        now = until;
        take(&mut link, start, now, traffic, look, &mut arrived);
        if let Some(bytes) = bytes {
            link.send(now, bytes, number);
        }
        each(&mut link, now, &arrived);
    }
    (arrived, link.stats())
}

fn take(
    link: &mut Link<usize>,
    start: Instant,
    now: Instant,
    traffic: &Traffic,
    look: Look,
    arrived: &mut Arrived,
) {
    while let Some(Delivery { at, payload }) = link.poll(now) {
        assert!(at <= now);
        assert!(
            !matches!(look, Look::AsAsked) || at == now,
            "it asked to be looked at {:?} too late",
            now - at
        );
        arrived.push((at - start, payload, traffic[payload].1));
    }
}

fn each_is_fine(_: &mut Link<usize>, _: Instant, _: &Arrived) {}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_or_lost_without_a_count(config in config(), seed: u64, traffic in traffic()) {
        let (arrived, stats) = run(&config, seed, &traffic, Look::AsAsked, |link, _, arrived| {
            let stats = link.stats();
            assert_eq!(stats.sent + stats.duplicates, stats.delivered + stats.lost() + stats.held);
            assert_eq!(stats.delivered, arrived.len() as u64);
            assert_eq!(stats.held == 0, link.is_empty());
            assert_eq!(stats.held == 0, link.held_bytes() == 0);
        });
        let headers = arrived.len() * usize::from(config.header_bytes);
        let bytes: usize = arrived.iter().map(|(.., bytes)| bytes).sum();
        prop_assert_eq!(stats.delivered_bytes, (bytes + headers) as u64);
        prop_assert_eq!(stats.sent, traffic.len() as u64);
        let twice = arrived.iter().collect::<std::collections::BTreeSet<_>>();
        prop_assert!(arrived.len() - twice.len() <= stats.duplicates as usize);
        prop_assert!(arrived.is_sorted_by_key(|(at, ..)| at), "in order of time");
    }

    #[test]
    fn order_is_kept_unless_reordering_is_asked_for(config in config(), seed: u64, traffic in traffic()) {
        let mut config = LinkConfig { jitter_reorders: false, reorder: Probability::NEVER, ..config };
        config.steps.iter_mut().for_each(|step| step.reorder = None);
        let (arrived, stats) = run(&config, seed, &traffic, Look::AsAsked, each_is_fine);
        prop_assert!(arrived.is_sorted_by_key(|(_, number, _)| number), "{:?}", arrived);
        prop_assert_eq!(stats.reordered, 0);
    }

    #[test]
    fn what_is_reordered_is_counted(config in config(), seed: u64, traffic in traffic()) {
        let mut config = LinkConfig { duplicate: Probability::NEVER, ..config };
        config.steps.iter_mut().for_each(|step| step.duplicate = None);
        let (arrived, stats) = run(&config, seed, &traffic, Look::AsAsked, each_is_fine);
        let mut highest = None;
        let overtaken = arrived.iter().filter(|(_, number, _)| {
            let is_overtaken = highest > Some(*number);
            highest = highest.max(Some(*number));
            is_overtaken
        });
        prop_assert_eq!(stats.reordered, overtaken.count() as u64);
    }

    #[test]
    fn the_same_seed_does_the_same_however_often_one_looks(
        config in config(),
        seed: u64,
        traffic in traffic(),
        interval in micros(100..50_000),
    ) {
        let runs = [Look::AsAsked, Look::Every(interval), Look::Never];
        let [first, second, third] = runs.map(|look| run(&config, seed, &traffic, look, each_is_fine));
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(&first, &third);
    }

    /// In any window that ends with an arrival there is no more than the rate lets through in it and the nanosecond to
    /// which times are rounded; what arrives first in it was sent before.
    #[test]
    fn the_rate_is_exceeded_in_no_window(
        config in config(),
        rates in prop::collection::vec((micros(1..200_000), 10_000..5_000_000_u64), 1..5),
        seed: u64,
        traffic in traffic(),
    ) {
        let mut at = Duration::ZERO;
        let mut steps = Vec::new();
        for (time, bps) in rates {
            steps.push(Step { at, rate: Some(Bitrate::from_bps(bps)), ..Step::default() });
            at += time;
        }
        // Delays that vary would move packets together.
        let config = LinkConfig { jitter: Duration::ZERO, reorder: Probability::NEVER, steps, repeat: None, ..config };
        let (arrived, _) = run(&config, seed, &traffic, Look::AsAsked, each_is_fine);
        // In bits times nanoseconds per second, up to a time.
        let capacity = |until: Duration| -> u128 {
            let ends = config.steps.iter().skip(1).map(|step| step.at).chain([Duration::MAX]);
            let passed = config.steps.iter().zip(ends).map(|(step, end)| {
                let time = until.min(end).saturating_sub(step.at).as_nanos();
                time * u128::from(step.rate.unwrap().as_bps())
            });
            passed.sum()
        };
        for (index, (from, ..)) in arrived.iter().enumerate() {
            let mut work = 0;
            for (to, _, bytes) in &arrived[index + 1..] {
                work += (bytes + usize::from(config.header_bytes)) as u128 * 8 * 1_000_000_000;
                let possible = capacity(*to - config.delay) - capacity(*from - config.delay);
                prop_assert!(work <= possible + 5_000_000, "{work} in {:?}, possible {possible}", *to - *from);
            }
        }
    }

    #[test]
    fn the_queue_keeps_its_bounds(config in config(), seed: u64, traffic in traffic()) {
        let config = LinkConfig { steps: Vec::new(), ..config };
        let (_, stats) = run(&config, seed, &traffic, Look::AsAsked, |link, _, _| {
            assert!(config.queue_bytes.is_none_or(|max| link.waiting_bytes() <= max));
            assert!(link.held_bytes() <= HELD_BYTES_MAX);
        });
        let max = config.queue_time_max().unwrap_or(Duration::MAX);
        prop_assert!(stats.queueing.max() <= max, "{:?}", stats.queueing.max());
    }

    #[test]
    fn a_link_with_nothing_to_lose_loses_nothing(config in config(), seed: u64, traffic in traffic()) {
        let config = LinkConfig { loss: Loss::NONE, rate: Bitrate::UNLIMITED, steps: Vec::new(), ..config };
        let (_, stats) = run(&config, seed, &traffic, Look::AsAsked, each_is_fine);
        prop_assert_eq!((stats.lost(), stats.held), (0, 0));
        prop_assert_eq!(stats.delivered, traffic.len() as u64 + stats.duplicates);
    }
}
