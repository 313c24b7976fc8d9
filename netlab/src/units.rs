//! Units that cross function boundaries, and how configuration spells them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bitrate(u64);

impl Bitrate {
    /// No limit.
    pub const UNLIMITED: Self = Self(u64::MAX);
    /// Nothing moves.
    pub const ZERO: Self = Self(0);

    /// A rate in bits per second.
    pub const fn from_bps(bps: u64) -> Self {
        Self(bps)
    }

    /// A rate in kilobits (1000 bits) per second.
    pub const fn from_kbps(kbps: u64) -> Self {
        Self(kbps.saturating_mul(1000))
    }

    /// Bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Whether there is a limit.
    pub const fn is_limited(self) -> bool {
        self.0 != u64::MAX
    }
}

/// A share of datagrams, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Probability(f64);

impl Probability {
    /// Never.
    pub const NEVER: Self = Self(0.0);
    /// Always.
    pub const ALWAYS: Self = Self(1.0);

    /// From a share; what lies outside of 0 to 1 is moved to the nearer end, and not a number to 0.
    pub const fn new(share: f64) -> Self {
        // Not a number fails both comparisons.
        if share > 1.0 {
            Self(1.0)
        } else if share > 0.0 {
            Self(share)
        } else {
            Self(0.0)
        }
    }

    /// From 0 to 1.
    pub const fn as_share(self) -> f64 {
        self.0
    }

    /// Whether it happens, by a number drawn evenly from 0 (included) to 1 (excluded).
    pub(crate) fn hits(self, drawn: f64) -> bool {
        drawn < self.0
    }
}

/// The text is no share of datagrams: neither from `0` to `1` nor from `0%` to `100%`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not from 0 to 1, nor from 0% to 100%")]
pub struct ProbabilityError(String);

impl FromStr for Probability {
    type Err = ProbabilityError;

    fn from_str(text: &str) -> Result<Self, ProbabilityError> {
        let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        let share = number.trim().parse::<f64>().ok().map(|number| number / scale);
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| ProbabilityError(text.to_owned()))
    }
}

/// A number, whether it is written with a point or without.
struct Number;

impl de::Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }
}

/// A share is a number from 0 to 1, or a text like `"2%"`.
impl<'de> Deserialize<'de> for Probability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProbabilityVisitor)
    }
}

pub(crate) struct ProbabilityVisitor;

impl de::Visitor<'_> for ProbabilityVisitor {
    type Value = Probability;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share from 0 to 1, or a text like \"2%\"")
    }

    fn visit_f64<E: de::Error>(self, share: f64) -> Result<Probability, E> {
        let range = 0.0..=1.0;
        if range.contains(&share) {
            Ok(Probability(share))
        } else {
            Err(E::invalid_value(de::Unexpected::Float(share), &self))
        }
    }

    fn visit_i64<E: de::Error>(self, share: i64) -> Result<Probability, E> {
        self.visit_f64(share as f64)
    }

    fn visit_u64<E: de::Error>(self, share: u64) -> Result<Probability, E> {
        self.visit_f64(share as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Probability, E> {
        text.parse().map_err(E::custom)
    }
}

/// Reads a number of milliseconds, which may have a fraction.
pub(crate) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let ms = deserializer.deserialize_any(Number)?;
    Duration::try_from_secs_f64(ms / 1e3)
        .map_err(|_| de::Error::custom(format_args!("{ms} is no number of milliseconds")))
}

/// As [`milliseconds`], for a key that may be left out.
pub(crate) fn milliseconds_some<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    milliseconds(deserializer).map(Some)
}

/// Reads a number of kilobits per second, which may have a fraction; `inf` is no limit.
pub(crate) fn kbps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bitrate, D::Error> {
    let kbps = deserializer.deserialize_any(Number)?;
    if kbps.is_nan() || kbps < 0.0 {
        return Err(de::Error::custom(format_args!("{kbps} is no number of kbit/s")));
    }
    // The conversion saturates: what is more than can be counted is no limit.
    Ok(Bitrate((kbps * 1e3).round() as u64))
}

/// As [`kbps`], for a key that may be left out.
pub(crate) fn kbps_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bitrate>, D::Error> {
    kbps(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbers_or_percentages() {
        for (text, share) in [("0.02", 0.02), ("2%", 0.02), ("100 %", 1.0), ("0", 0.0), ("1", 1.0)] {
            assert_eq!(text.parse(), Ok(Probability(share)), "{text}");
        }
        for text in ["", "%", "2", "101%", "-0.1", "NaN", "inf", "two"] {
            assert!(text.parse::<Probability>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_out_of_range_is_moved_into_it() {
        for (share, moved) in [(-1.0, 0.0), (f64::NAN, 0.0), (0.5, 0.5), (7.0, 1.0), (f64::INFINITY, 1.0)] {
            assert_eq!(Probability::new(share), Probability(moved), "{share}");
        }
    }
}
