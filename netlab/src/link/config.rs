//! What a link does to datagrams, and when that changes.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::loss::{GilbertElliott, Loss};
use crate::units::{
    Bitrate, Probability, ProbabilityVisitor, kbps, kbps_some, milliseconds, milliseconds_some,
};

/// How long datagrams may wait for a limited rate when neither `queue_bytes` nor `queue_time` is set.
pub const QUEUE_TIME_DEFAULT: Duration = Duration::from_millis(200);

/// How long a datagram is held back to be overtaken, unless set.
pub const REORDER_DELAY_DEFAULT: Duration = Duration::from_millis(10);

/// The shortest period of a schedule.
pub const REPEAT_MIN: Duration = Duration::from_millis(1);

/// One direction of a link. In TOML, durations are numbers of milliseconds (`delay_ms = 20`, fractions allowed),
/// rates numbers of kilobits per second (`rate_kbps = 500`), shares numbers from 0 to 1 or texts like `"2%"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// How long a datagram is under way after the queue. `delay_ms`.
    #[serde(rename = "delay_ms", deserialize_with = "milliseconds")]
    pub delay: Duration,
    /// How far the delay varies: the standard deviation, or the largest one if the distribution is
    /// [`JitterDistribution::Uniform`]. No delay is less than zero. `jitter_ms`.
    #[serde(rename = "jitter_ms", deserialize_with = "milliseconds")]
    pub jitter: Duration,
    /// How the deviations are distributed.
    pub jitter_distribution: JitterDistribution,
    /// Whether a datagram with a short delay overtakes one with a long delay. Otherwise it arrives with it, as
    /// behind a queue elsewhere; the mean delay then is more than [`LinkConfig::delay`].
    pub jitter_reorders: bool,
    /// Which datagrams are lost.
    pub loss: Loss,
    /// The share of datagrams that arrive twice. The copy passes the queue right behind its original.
    pub duplicate: Probability,
    /// The share of datagrams that are held back for `reorder_delay`, so that later ones overtake them.
    pub reorder: Probability,
    /// See `reorder`. `reorder_ms`.
    #[serde(rename = "reorder_ms", deserialize_with = "milliseconds")]
    pub reorder_delay: Duration,
    /// The rate of the bottleneck. At 0 datagrams wait until the rate changes. `rate_kbps`; `inf` is no limit.
    #[serde(rename = "rate_kbps", deserialize_with = "kbps")]
    pub rate: Bitrate,
    /// Bytes that may wait behind the datagram that is being sent. What comes when there is no room is lost
    /// (drop-tail).
    pub queue_bytes: Option<u64>,
    /// How long a datagram may wait. What would wait longer at the present rate (or, at rate 0, at the one before)
    /// is lost. `queue_ms`. If this and `queue_bytes` are unset, it is [`QUEUE_TIME_DEFAULT`].
    #[serde(rename = "queue_ms", deserialize_with = "milliseconds_some")]
    pub queue_time: Option<Duration>,
    /// Bytes that each datagram takes on the link beyond its payload; 28 for UDP and IPv4.
    pub header_bytes: u16,
    /// What changes when. Steps at one time are taken in order.
    pub steps: Vec<Step>,
    /// The period after which the steps start anew; without it, the last step's state stays. It must be longer
    /// than the time of the last step. `repeat_ms`.
    #[serde(rename = "repeat_ms", deserialize_with = "milliseconds_some")]
    pub repeat: Option<Duration>,
}

impl LinkConfig {
    /// Changes nothing and takes no time.
    pub const IDEAL: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_distribution: JitterDistribution::Normal,
        jitter_reorders: false,
        loss: Loss::NONE,
        duplicate: Probability::NEVER,
        reorder: Probability::NEVER,
        reorder_delay: REORDER_DELAY_DEFAULT,
        rate: Bitrate::UNLIMITED,
        queue_bytes: None,
        queue_time: None,
        header_bytes: 0,
        steps: Vec::new(),
        repeat: None,
    };

    /// Changes nothing and takes this time.
    pub const fn delayed(delay: Duration) -> Self {
        let mut config = Self::IDEAL;
        config.delay = delay;
        config
    }

    /// Whether the values go together.
    pub fn check(&self) -> Result<(), LinkConfigError> {
        let last = self.steps.iter().map(|step| step.at).max().unwrap_or_default();
        match self.repeat {
            Some(repeat) if repeat < REPEAT_MIN || repeat <= last => {
                Err(LinkConfigError::Repeat { repeat, last })
            }
            _ => Ok(()),
        }
    }

    /// The time that bounds the queue, if any does.
    pub(super) fn queue_time_max(&self) -> Option<Duration> {
        match self.queue_bytes {
            Some(_) => self.queue_time,
            None => Some(self.queue_time.unwrap_or(QUEUE_TIME_DEFAULT)),
        }
    }

    /// Takes over what a step says; outages are left to the caller.
    pub(super) fn apply(&mut self, step: &Step) {
        let Step { at: _, delay, jitter, loss, duplicate, reorder, rate, outage: _ } = *step;
        self.delay = delay.unwrap_or(self.delay);
        self.jitter = jitter.unwrap_or(self.jitter);
        self.loss = loss.unwrap_or(self.loss);
        self.duplicate = duplicate.unwrap_or(self.duplicate);
        self.reorder = reorder.unwrap_or(self.reorder);
        self.rate = rate.unwrap_or(self.rate);
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::IDEAL
    }
}

/// How jitter is distributed around the delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JitterDistribution {
    /// Nearly normal: the sum of four evenly distributed numbers, which ends at 3.46 standard deviations.
    Normal,
    /// Evenly, up to the jitter on both sides.
    Uniform,
}

impl JitterDistribution {
    /// A deviation in multiples of the jitter, made of four numbers drawn evenly from 0 to 1.
    pub(super) fn deviation(self, drawn: [f64; 4]) -> f64 {
        match self {
            // The sum's variance is 4/12.
            Self::Normal => (drawn.iter().sum::<f64>() - 2.0) * 3f64.sqrt(),
            Self::Uniform => drawn.first().map_or(0.0, |drawn| drawn * 2.0 - 1.0),
        }
    }

    /// The largest deviation in multiples of the jitter.
    pub(super) fn deviation_max(self) -> f64 {
        match self {
            Self::Normal => 2.0 * 3f64.sqrt(),
            Self::Uniform => 1.0,
        }
    }
}

/// What changes at one time. What is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, since the link began. `at_ms`.
    #[serde(rename = "at_ms", deserialize_with = "milliseconds")]
    pub at: Duration,
    /// [`LinkConfig::delay`]. `delay_ms`.
    #[serde(rename = "delay_ms", default, deserialize_with = "milliseconds_some")]
    pub delay: Option<Duration>,
    /// [`LinkConfig::jitter`]. `jitter_ms`.
    #[serde(rename = "jitter_ms", default, deserialize_with = "milliseconds_some")]
    pub jitter: Option<Duration>,
    /// [`LinkConfig::loss`].
    pub loss: Option<Loss>,
    /// [`LinkConfig::duplicate`].
    pub duplicate: Option<Probability>,
    /// [`LinkConfig::reorder`].
    pub reorder: Option<Probability>,
    /// [`LinkConfig::rate`]. What waits then leaves at the new rate. `rate_kbps`.
    #[serde(rename = "rate_kbps", default, deserialize_with = "kbps_some")]
    pub rate: Option<Bitrate>,
    /// For so long everything that is sent is lost; what is under way arrives. `outage_ms`.
    #[serde(rename = "outage_ms", default, deserialize_with = "milliseconds_some")]
    pub outage: Option<Duration>,
}

/// The values of a link do not go together; the user's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkConfigError {
    /// The steps would start anew before the last of them.
    #[error("steps that repeat after {repeat:?} must all come before that, the last is at {last:?}")]
    Repeat {
        /// The period.
        repeat: Duration,
        /// The time of the last step.
        last: Duration,
    },
}

/// A share, or a table with the parameters of the Gilbert-Elliott model.
impl<'de> Deserialize<'de> for Loss {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Loss;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share from 0 to 1, a text like \"2%\", or a table with p and r")
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Loss, E> {
                ProbabilityVisitor.visit_f64(share).map(Loss::Uniform)
            }

            fn visit_i64<E: de::Error>(self, share: i64) -> Result<Loss, E> {
                ProbabilityVisitor.visit_i64(share).map(Loss::Uniform)
            }

            fn visit_u64<E: de::Error>(self, share: u64) -> Result<Loss, E> {
                ProbabilityVisitor.visit_u64(share).map(Loss::Uniform)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Loss, E> {
                ProbabilityVisitor.visit_str(text).map(Loss::Uniform)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Loss, A::Error> {
                GilbertElliott::deserialize(MapAccessDeserializer::new(map)).map(Loss::GilbertElliott)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LinkConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            delay_ms = 20
            jitter_ms = 2.5
            jitter_distribution = "uniform"
            jitter_reorders = true
            loss = { p = 0.01, r = "25%", loss_bad = 0.8, loss_good = 0.001 }
            duplicate = "1%"
            reorder = 0.02
            reorder_ms = 7
            rate_kbps = 1500.5
            queue_bytes = 30000
            queue_ms = 150
            header_bytes = 28
            repeat_ms = 20000
            steps = [
                { at_ms = 5000, rate_kbps = inf, outage_ms = 300 },
                { at_ms = 8000, delay_ms = 1, jitter_ms = 0, loss = 0.5, duplicate = 0, reorder = 1 },
            ]
            "#,
        );
        let ms = Duration::from_millis;
        let gilbert_elliott = GilbertElliott {
            p: Probability::new(0.01),
            r: Probability::new(0.25),
            loss_bad: Probability::new(0.8),
            loss_good: Probability::new(0.001),
        };
        let first =
            Step { at: ms(5000), rate: Some(Bitrate::UNLIMITED), outage: Some(ms(300)), ..Step::default() };
        let second = Step {
            at: ms(8000),
            delay: Some(ms(1)),
            jitter: Some(ms(0)),
            loss: Some(Loss::Uniform(Probability::new(0.5))),
            duplicate: Some(Probability::NEVER),
            reorder: Some(Probability::ALWAYS),
            ..Step::default()
        };
        let expected = LinkConfig {
            delay: ms(20),
            jitter: Duration::from_micros(2500),
            jitter_distribution: JitterDistribution::Uniform,
            jitter_reorders: true,
            loss: Loss::GilbertElliott(gilbert_elliott),
            duplicate: Probability::new(0.01),
            reorder: Probability::new(0.02),
            reorder_delay: ms(7),
            rate: Bitrate::from_bps(1_500_500),
            queue_bytes: Some(30_000),
            queue_time: Some(ms(150)),
            header_bytes: 28,
            steps: vec![first, second],
            repeat: Some(ms(20_000)),
        };
        assert_eq!(config, Ok(expected));
        assert_eq!(parse(""), Ok(LinkConfig::IDEAL));
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_says_why() {
        for (text, expected) in [
            ("delay = 20", "unknown field `delay`"),
            ("delay_ms = -1", "-1 is no number of milliseconds"),
            ("delay_ms = nan", "NaN is no number of milliseconds"),
            ("delay_ms = '20'", "expected a number"),
            ("rate_kbps = -1", "-1 is no number of kbit/s"),
            ("loss = 2", "a share from 0 to 1"),
            ("loss = 'two'", "two is not from 0 to 1"),
            ("loss = { p = 0.1 }", "missing field `r`"),
            ("loss = { p = 0.1, r = 0.5, h = 1 }", "unknown field `h`"),
            ("duplicate = 1.5", "a share from 0 to 1"),
            ("steps = [{ rate_kbps = 1 }]", "missing field `at_ms`"),
            ("steps = [{ at_ms = 1, rate = 1 }]", "unknown field `rate`"),
            ("jitter_distribution = 'pareto'", "unknown variant `pareto`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn steps_do_not_repeat_before_the_last() {
        let check = |text| parse(text).unwrap().check();
        assert_eq!(check("repeat_ms = 2\nsteps = [{ at_ms = 1 }]"), Ok(()));
        assert!(check("repeat_ms = 2\nsteps = [{ at_ms = 3 }, { at_ms = 1 }]").is_err());
        assert!(check("repeat_ms = 0").is_err());
    }
}
