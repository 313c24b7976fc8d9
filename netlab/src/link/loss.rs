//! Which datagrams are lost at random.

use rand::RngExt as _;
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;

use crate::units::Probability;

/// How losses follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each datagram by itself, with this probability.
    Uniform(Probability),
    /// In bursts.
    GilbertElliott(GilbertElliott),
}

impl Loss {
    /// No losses.
    pub const NONE: Self = Self::Uniform(Probability::NEVER);

    /// Each datagram by itself, with a probability from 0 to 1.
    pub const fn uniform(share: f64) -> Self {
        Self::Uniform(Probability::new(share))
    }

    /// Bursts in which everything is lost, and nothing between them (the model of Gilbert): a share of all
    /// datagrams, in bursts of so many on average. A burst is one datagram at least.
    pub fn bursts(share: Probability, length_mean: f64) -> Self {
        let (share, r) = (share.as_share(), 1.0 / length_mean.max(1.0));
        // The share is p / (p + r). Where that cannot be met, since p ends at 1, bursts become longer.
        let p = if share < 1.0 { r * share / (1.0 - share) } else { f64::INFINITY };
        let (p, r) = if p > 1.0 { (1.0, (1.0 - share) / share) } else { (p, r) };
        Self::GilbertElliott(GilbertElliott {
            p: Probability::new(p),
            r: Probability::new(r),
            loss_bad: Probability::ALWAYS,
            loss_good: Probability::NEVER,
        })
    }

    /// The share of datagrams that are lost in the long run.
    pub fn mean(self) -> Probability {
        match self {
            Self::Uniform(share) => share,
            Self::GilbertElliott(model) => {
                let bad = model.bad_share();
                let (in_bad, in_good) = (model.loss_bad.as_share(), model.loss_good.as_share());
                Probability::new(bad * in_bad + (1.0 - bad) * in_good)
            }
        }
    }
}

/// A chain of two states, one step a datagram (Elliott, "Estimates of error rates for codes on burst-noise
/// channels", 1963). With `tc-netem` it is `loss gemodel p r 1-h 1-k`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// The probability to go from the good state to the bad one.
    pub p: Probability,
    /// The probability to go from the bad state to the good one: bursts are `1/r` datagrams long on average.
    pub r: Probability,
    /// The probability to be lost in the bad state, the literature's 1 − h.
    #[serde(default = "always")]
    pub loss_bad: Probability,
    /// The probability to be lost in the good state, the literature's 1 − k.
    #[serde(default)]
    pub loss_good: Probability,
}

impl GilbertElliott {
    /// The share of datagrams that meet the bad state in the long run.
    fn bad_share(self) -> f64 {
        let (p, r) = (self.p.as_share(), self.r.as_share());
        if p + r > 0.0 { p / (p + r) } else { 0.0 }
    }
}

fn always() -> Probability {
    Probability::ALWAYS
}

/// Draws losses. The n-th datagram takes the same numbers whatever happened to those before it.
#[derive(Debug)]
pub(super) struct LossProcess {
    random: Pcg64Mcg,
    /// Of the Gilbert-Elliott model; drawn from its long run for the first datagram.
    is_bad: Option<bool>,
}

impl LossProcess {
    pub(super) fn new(random: Pcg64Mcg) -> Self {
        Self { random, is_bad: None }
    }

    /// Whether the next datagram is lost.
    pub(super) fn next(&mut self, loss: Loss) -> bool {
        let [lost, change]: [f64; 2] = self.random.random();
        match loss {
            Loss::Uniform(share) => {
                self.is_bad = None;
                share.hits(lost)
            }
            Loss::GilbertElliott(model) => {
                let is_bad = match self.is_bad {
                    None => Probability::new(model.bad_share()).hits(change),
                    Some(true) => !model.r.hits(change),
                    Some(false) => model.p.hits(change),
                };
                self.is_bad = Some(is_bad);
                if is_bad { model.loss_bad.hits(lost) } else { model.loss_good.hits(lost) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const COUNT: usize = 200_000;

    /// The share that is lost, and how many are lost in a row on average.
    fn measure(loss: Loss, seed: u64) -> (f64, f64) {
        let mut process = LossProcess::new(Pcg64Mcg::seed_from_u64(seed));
        let lost: Vec<bool> = (0..COUNT).map(|_| process.next(loss)).collect();
        let total = lost.iter().filter(|lost| **lost).count() as f64;
        let runs = lost.chunk_by(|a, b| a == b).filter(|run| run[0]).count() as f64;
        (total / COUNT as f64, total / runs)
    }

    fn assert_near(found: f64, expected: f64, what: &str) {
        assert!((found / expected - 1.0).abs() < 0.05, "{what}: {found}, expected {expected}");
    }

    #[test]
    fn uniform_losses_stand_alone() {
        for share in [0.02, 0.2] {
            let (found, run) = measure(Loss::uniform(share), 1);
            assert_near(found, share, "share");
            // The mean of a geometric distribution.
            assert_near(run, 1.0 / (1.0 - share), "run");
        }
    }

    #[test]
    fn bursts_have_the_share_and_the_length_that_were_asked_for() {
        for (share, length) in [(0.02, 4.0), (0.1, 10.0), (0.3, 2.0)] {
            let loss = Loss::bursts(Probability::new(share), length);
            assert_near(loss.mean().as_share(), share, "mean");
            let (found, run) = measure(loss, 2);
            assert_near(found, share, "share");
            assert_near(run, length, "run");
        }
        assert_near(
            Loss::bursts(Probability::new(0.9), 1.0).mean().as_share(),
            0.9,
            "more than bursts of 1 can",
        );
        assert_eq!(measure(Loss::bursts(Probability::ALWAYS, 3.0), 3).0, 1.0);
        assert_eq!(measure(Loss::bursts(Probability::NEVER, 3.0), 3).0, 0.0);
    }

    #[test]
    fn both_states_may_lose() {
        let share = Probability::new;
        let loss = Loss::GilbertElliott(GilbertElliott {
            p: share(0.02),
            r: share(0.1),
            loss_bad: share(0.5),
            loss_good: share(0.01),
        });
        // By hand: 1/6 of the time bad.
        assert_near(loss.mean().as_share(), 0.5 / 6.0 + 0.01 * 5.0 / 6.0, "mean");
        assert_near(measure(loss, 4).0, loss.mean().as_share(), "share");
    }

    #[test]
    fn the_first_datagram_fares_like_any_other() {
        let loss = Loss::bursts(Probability::new(0.2), 50.0);
        let first = |seed| LossProcess::new(Pcg64Mcg::seed_from_u64(seed)).next(loss);
        let lost = (0..10_000).filter(|seed| first(*seed)).count();
        assert_near(lost as f64 / 10_000.0, 0.2, "share");
    }
}
