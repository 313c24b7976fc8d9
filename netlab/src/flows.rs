//! A link for simulations in which several flows are to fare alike from run to run.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    time::Instant,
};

use crate::{
    link::{Delivery, Link, LinkConfig, LinkStats, Loss, Step},
    units::Bitrate,
};

/// One direction of a link that tells flows apart.
///
/// ```text
///   send ─► outage? ─► queue, rate ─┬─► loss, copies, delay, jitter of flow 1 ─┬─► poll
///                                   └─► loss, copies, delay, jitter of flow 2 ─┘
/// ```
///
/// Each flow draws random numbers of its own: what happens to its n-th datagram does not depend on what is sent in
/// other flows, nor on the order in which datagrams of several flows are sent at one instant. Only the queue is common.
/// Other than in a [`Link`], copies come into being after it. There is a link for each flow, so that memory is bounded
/// if the number of flows is.
#[derive(Debug)]
pub struct FlowLink<F, T> {
    /// Of each flow.
    config: LinkConfig,
    seed: u64,
    start: Instant,
    is_spared: fn(F) -> bool,
    /// Queue and outages.
    bottleneck: Link<(F, usize, T)>,
    flows: BTreeMap<F, Link<T>>,
}

impl<F: Copy + Hash + Ord, T: Clone> FlowLink<F, T> {
    /// A link whose schedule counts from `start`. No datagram is lost at random whose flow `is_spared`.
    pub fn new(config: &LinkConfig, seed: u64, start: Instant, is_spared: fn(F) -> bool) -> Self {
        // A step says here what is common and there what is not.
        let common =
            |step: &Step| Step { at: step.at, rate: step.rate, outage: step.outage, ..Step::default() };
        let own = |step: &Step| Step { rate: None, outage: None, ..*step };
        let queue = LinkConfig {
            rate: config.rate,
            queue_bytes: config.queue_bytes,
            queue_time: config.queue_time,
            header_bytes: config.header_bytes,
            steps: config.steps.iter().map(common).collect(),
            repeat: config.repeat,
            ..LinkConfig::IDEAL
        };
        let config = LinkConfig {
            rate: Bitrate::UNLIMITED,
            steps: config.steps.iter().map(own).collect(),
            ..config.clone()
        };
        let bottleneck = Link::new(queue, seed, start);
        Self { config, seed, start, is_spared, bottleneck, flows: BTreeMap::new() }
    }

    /// Sends a datagram of so many bytes. `payload` is what [`FlowLink::poll`] returns.
    pub fn send(&mut self, now: Instant, flow: F, bytes: usize, payload: T) {
        self.bottleneck.send(now, bytes, (flow, bytes, payload));
        self.leave_queue(now);
    }

    /// When the next datagram arrives, or earlier.
    pub fn next_at(&self) -> Option<Instant> {
        let flows = self.flows.values().filter_map(Link::next_at);
        flows.chain(self.bottleneck.next_at()).min()
    }

    /// The next datagram that has arrived by `now`, in order of arrival.
    pub fn poll(&mut self, now: Instant) -> Option<Delivery<T>> {
        if !self.bottleneck.is_empty() {
            self.leave_queue(now);
        }
        let due = self.flows.values_mut().filter_map(|link| Some((link.next_at()?, link)));
        let (at, link) = due.min_by_key(|(at, _)| *at)?;
        if at > now { None } else { link.poll(now) }
    }

    /// What happened so far. What is reordered was overtaken in its flow.
    pub fn stats(&self) -> LinkStats {
        let queue = self.bottleneck.stats();
        let mut stats = LinkStats::default();
        self.flows.values().for_each(|link| stats.merge(&link.stats()));
        // What left the queue was sent in a flow.
        LinkStats {
            sent: queue.sent,
            sent_bytes: queue.sent_bytes,
            lost_queue: stats.lost_queue + queue.lost_queue,
            lost_outage: queue.lost_outage,
            held: stats.held + queue.held,
            served_bytes: queue.served_bytes,
            capacity_bytes: queue.capacity_bytes,
            queueing: queue.queueing,
            ..stats
        }
    }

    /// Takes what has left the queue by then to its flow.
    fn leave_queue(&mut self, now: Instant) {
        while let Some(Delivery { at, payload: (flow, bytes, payload) }) = self.bottleneck.poll(now) {
            self.flow(flow).send(at, bytes, payload);
        }
    }

    fn flow(&mut self, flow: F) -> &mut Link<T> {
        self.flows.entry(flow).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (self.seed, flow).hash(&mut hasher);
            let mut config = self.config.clone();
            if (self.is_spared)(flow) {
                config.loss = Loss::NONE;
                config.steps.iter_mut().for_each(|step| step.loss = None);
            }
            Link::new(config, hasher.finish(), self.start)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::units::Probability;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Sends so many numbered datagrams of 1250 bytes in two flows, every 20 ms; returns when which arrived.
    fn pass(config: &LinkConfig, seed: u64, flows: [char; 2]) -> (Vec<(Duration, char, u32)>, LinkStats) {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut link = FlowLink::new(config, seed, start, |flow| flow == 's');
        let mut arrived = Vec::new();
        for number in 0..200 {
            let now = start + ms(20) * number;
            arrived.extend(std::iter::from_fn(|| link.poll(now)));
            flows.iter().for_each(|flow| link.send(now, *flow, 1250, (*flow, number)));
        }
        while let Some(next) = link.next_at() {
            arrived.extend(std::iter::from_fn(|| link.poll(next)));
        }
        let stats = link.stats();
        assert_eq!(stats.sent + stats.duplicates, stats.delivered + stats.lost() + stats.held);
        let arrived = arrived.into_iter().map(|delivery| {
            let (flow, number) = delivery.payload;
            (delivery.at - start, flow, number)
        });
        let arrived: Vec<_> = arrived.collect();
        assert!(arrived.is_sorted_by_key(|(at, ..)| at));
        (arrived, stats)
    }

    fn of(flow: char, arrived: &[(Duration, char, u32)]) -> Vec<(Duration, u32)> {
        let own = arrived.iter().filter(|(_, of, _)| *of == flow);
        own.map(|(at, _, number)| (*at, *number)).collect()
    }

    #[test]
    fn a_flow_fares_alike_whatever_the_others_do() {
        let config = LinkConfig {
            jitter: ms(5),
            loss: Loss::uniform(0.3),
            duplicate: Probability::new(0.1),
            reorder: Probability::new(0.1),
            ..LinkConfig::delayed(ms(50))
        };
        let (first, _) = pass(&config, 1, ['a', 'b']);
        assert_eq!(of('a', &first), of('a', &pass(&config, 1, ['b', 'a']).0));
        assert_eq!(of('a', &first), of('a', &pass(&config, 1, ['a', 's']).0));
        assert_ne!(of('a', &first), of('b', &first));
        assert_ne!(of('a', &first), of('a', &pass(&config, 2, ['a', 'b']).0));
    }

    #[test]
    fn spared_flows_lose_nothing() {
        let step = Step { at: ms(1000), loss: Some(Loss::uniform(1.0)), ..Step::default() };
        let config = LinkConfig { loss: Loss::uniform(0.5), steps: vec![step], ..LinkConfig::IDEAL };
        let (arrived, stats) = pass(&config, 1, ['a', 's']);
        assert_eq!(of('s', &arrived).len(), 200);
        assert!((10..40).contains(&of('a', &arrived).len()), "{arrived:?}");
        assert_eq!(stats.lost_random as usize, 400 - arrived.len());
    }

    #[test]
    fn all_flows_wait_in_one_queue() {
        // 20 ms need 20 ms. Then they need 40, of which 100 ms can wait.
        let step = |at, kbps, outage| Step {
            at: ms(at),
            rate: Some(Bitrate::from_kbps(kbps)),
            outage,
            ..Step::default()
        };
        let steps = vec![step(1000, 500, None), step(2000, 1000, None), step(3000, 1000, Some(ms(50)))];
        let rate = Bitrate::from_kbps(1000);
        let config = LinkConfig { rate, queue_time: Some(ms(100)), steps, ..LinkConfig::delayed(ms(5)) };
        let (arrived, stats) = pass(&config, 1, ['a', 'b']);
        assert_eq!(arrived[..3], [(ms(15), 'a', 0), (ms(25), 'b', 0), (ms(35), 'a', 1)]);
        assert!((35..50).contains(&stats.lost_queue), "{stats:?}");
        assert!((ms(80)..=ms(100)).contains(&stats.queueing.max()), "{stats:?}");
        assert_eq!((stats.lost_outage, stats.held), (6, 0));
        assert!(stats.utilisation().unwrap() > 0.95, "{stats:?}");
    }
}
