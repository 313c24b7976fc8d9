//! How people find a call whose network is known: the E-model (ITU-T G.107), simplified, and what pictures take from it.
//!
//! ```text
//!   sound      R = 93.2 − Id(delay, jitter) − Ie,eff(loss)
//!   pictures   R = the least of: the same with their own loss │ layers that are lacking │ the rate, as far as it is short
//!   R ─► MOS (G.107, annex B)
//! ```

/// R where nothing is impaired: Ro − Is with all of G.107's defaults.
pub(super) const R_MAX: f32 = 93.2;

/// What a receiver's jitter buffer takes at least, in milliseconds: packets of 20 ms, two of them.
const BUFFER_MS_MIN: f32 = 40.0;

/// A buffer holds so many times the jitter besides, as LiveKit reckons (`pkg/sfu/connectionquality/scorer.go`).
const BUFFER_PER_JITTER: f32 = 2.0;

/// Robustness of Opus with its own forward error correction against random loss, in percent. G.113, appendix I has 25.1 for
/// G.711 with concealment and 4.3 without, and nothing for Opus; 20 with and 10 without the correction are in use
/// (rtcscore).
pub(super) const LOSS_ROBUSTNESS_OPUS: f32 = 20.0;

/// The same of pictures, most of whose lost packets are sent again: a tenth lost is still good, a fifth is not.
pub(super) const LOSS_ROBUSTNESS_VIDEO: f32 = 15.0;

/// What each layer takes that is lacking (LiveKit's `distanceWeight`: a level of quality each).
const R_PER_LAYER: f32 = 35.0;

/// Of the natural logarithm of the wanted rate over the one there is (LiveKit's `calculateBitrateScore`): half is still
/// excellent, a tenth good.
const R_PER_RATE_LOGARITHM: f32 = 20.0;

/// Delay of packets on their way from mouth to ear, as far as the server sees it, in milliseconds.
pub(super) fn delay_ms(rtt_ms: f32, jitter_ms: f32) -> f32 {
    rtt_ms.max(0.0) / 2.0 + BUFFER_MS_MIN + BUFFER_PER_JITTER * jitter_ms.max(0.0)
}

/// Id: R's impairment by delay, in Cole's and Rosenbluth's fit to G.107 (Voice over IP performance monitoring, 2001).
pub(super) fn delay_impairment(delay_ms: f32) -> f32 {
    0.024 * delay_ms + 0.11 * (delay_ms - 177.3).max(0.0)
}

/// Ie,eff: R's impairment by codec and loss (G.107, 7-29, of random loss). `codec` is that without loss.
pub(super) fn loss_impairment(codec: f32, robustness: f32, loss_percent: f32) -> f32 {
    let loss = loss_percent.clamp(0.0, 100.0);
    codec + (95.0 - codec) * loss / (loss + robustness)
}

/// R of media that arrives after `delay_ms` with so much lost.
pub(super) fn rating(delay_ms: f32, robustness: f32, loss_percent: f32) -> f32 {
    let impaired = R_MAX - delay_impairment(delay_ms) - loss_impairment(0.0, robustness, loss_percent);
    impaired.clamp(0.0, R_MAX)
}

/// R at most of a picture that lacks so many encodings or spatial layers, and has so many percent of the wanted rate.
pub(super) fn picture_rating(layers_missing: u8, rate_percent: u8) -> f32 {
    let layers = R_MAX - R_PER_LAYER * f32::from(layers_missing);
    let share = f32::from(rate_percent.clamp(1, 100)) / 100.0;
    let rate = 100.0 + R_PER_RATE_LOGARITHM * share.ln();
    layers.min(rate).clamp(0.0, R_MAX)
}

/// The mean opinion score, 1 to 4.5 (G.107, annex B).
pub(super) fn opinion_score(rating: f32) -> f32 {
    match rating {
        rating if rating <= 0.0 => 1.0,
        rating if rating >= 100.0 => 4.5,
        rating => 1.0 + 0.035 * rating + 7e-6 * rating * (rating - 60.0) * (100.0 - rating),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(figure: f32, expected: f32, tolerance: f32) -> bool {
        (figure - expected).abs() <= tolerance
    }

    /// G.107, annex B: the default R, and table B.1.
    #[test]
    fn scores_are_those_of_the_recommendation() {
        let table =
            [(93.2, 4.41), (90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58), (0.0, 1.0)];
        for (rating, expected) in table {
            assert!(is_near(opinion_score(rating), expected, 0.01), "{rating}: {}", opinion_score(rating));
        }
        assert_eq!((opinion_score(-5.0), opinion_score(120.0)), (1.0, 4.5));
    }

    /// G.113, appendix I: G.729A has Ie 11 and Bpl 19, G.711 with concealment 0 and 25.1.
    #[test]
    fn loss_impairs_as_the_recommendation_says() {
        for (codec, robustness, percent, expected) in [
            (11.0, 19.0, 0.0, 11.0),
            (11.0, 19.0, 3.0, 22.45),
            (0.0, 25.1, 5.0, 15.78),
            (0.0, 4.3, 5.0, 51.08),
            (0.0, LOSS_ROBUSTNESS_OPUS, 20.0, 47.5),
        ] {
            let impairment = loss_impairment(codec, robustness, percent);
            assert!(is_near(impairment, expected, 0.01), "{codec} {robustness} {percent}: {impairment}");
        }
    }

    /// Cole and Rosenbluth, figure 2: below 177 ms delay is hardly noticed.
    #[test]
    fn delay_impairs_little_until_it_is_noticed() {
        for (delay, expected) in [(0.0, 0.0), (100.0, 2.4), (177.3, 4.26), (300.0, 20.7), (400.0, 34.1)] {
            assert!(is_near(delay_impairment(delay), expected, 0.01), "{delay}: {}", delay_impairment(delay));
        }
        assert_eq!(rating(0.0, LOSS_ROBUSTNESS_OPUS, 0.0), R_MAX);
        assert_eq!(rating(5_000.0, LOSS_ROBUSTNESS_OPUS, 100.0), 0.0);
    }

    #[test]
    fn pictures_are_rated_by_what_they_lack() {
        assert_eq!(picture_rating(0, 100), R_MAX);
        assert!(is_near(picture_rating(1, 100), 58.2, 0.1) && is_near(picture_rating(2, 100), 23.2, 0.1));
        assert!(is_near(picture_rating(0, 50), 86.1, 0.1) && is_near(picture_rating(0, 10), 53.9, 0.1));
        assert_eq!(picture_rating(0, 0), picture_rating(0, 1));
        assert_eq!(picture_rating(u8::MAX, 1), 0.0);
    }
}
