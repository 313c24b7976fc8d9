//! Which RTP timestamp belongs to which time, after a publisher's timestamps were rewritten.
//!
//! A receiver plays audio and video of one sender in sync when the sender reports of both put them on one
//! clock (RFC 3550, section 6.4.1). We forward the publisher's mapping: its reports say what its own clock read
//! when a timestamp was sampled, one offset per publisher puts that clock on ours, one offset per stream is what
//! the rewriter added to the timestamps.

use std::time::Duration;

/// Seconds from NTP's epoch (1900) to Unix's (RFC 5905, figure 4).
const NTP_UNIX_SECONDS: u64 = 2_208_988_800;

/// A time in 32.32 fixed point seconds since 1900; wraps with its era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// From the time since Unix's epoch.
    pub fn from_unix(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs().wrapping_add(NTP_UNIX_SECONDS);
        let fraction = (u64::from(since_epoch.subsec_nanos()) << 32) / 1_000_000_000;
        Self(seconds << 32 | fraction)
    }

    /// The middle 32 bits, as reports carry it (RFC 3550, section 4).
    pub fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// What was to be added to `earlier` to get this time, 32.32 fixed point seconds; correct within 68 years.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.wrapping_sub(earlier.0) as i64
    }

    /// A time later by 32.32 fixed point seconds.
    pub fn plus(self, offset: i64) -> Self {
        Self(self.0.wrapping_add(offset as u64))
    }
}

/// A point at which a clock of RTP timestamps was read, on our NTP clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpClock {
    ntp: NtpTime,
    rtp: u32,
    rate_hz: u32,
}

impl RtpClock {
    /// From a publisher's sender report.
    ///
    /// `publisher_offset` is what our clock reads minus what the publisher's reads, 32.32 fixed point seconds:
    /// one value for all its streams, or they lose their sync. `timestamp_offset` is what the rewriter adds to
    /// the publisher's timestamps.
    pub fn from_report(
        report_ntp: NtpTime,
        report_rtp: u32,
        publisher_offset: i64,
        timestamp_offset: u32,
        rate_hz: u32,
    ) -> Self {
        Self {
            ntp: report_ntp.plus(publisher_offset),
            rtp: report_rtp.wrapping_add(timestamp_offset),
            rate_hz,
        }
    }

    /// From the last packet that was forwarded, where the publisher has not reported yet: late by what the
    /// packet spent on its way to us.
    pub fn from_packet(forwarded: NtpTime, timestamp: u32, rate_hz: u32) -> Self {
        Self { ntp: forwarded, rtp: timestamp, rate_hz }
    }

    /// The timestamp of a time, before or after the reading.
    pub fn rtp_at(&self, now: NtpTime) -> u32 {
        let ticks = (i128::from(now.since(self.ntp)) * i128::from(self.rate_hz)) >> 32;
        // Wraps as timestamps do.
        self.rtp.wrapping_add(ticks as u32)
    }
}

/// The sender's part of a sender report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report is sent.
    pub ntp: NtpTime,
    /// The same time as the stream's timestamps count.
    pub rtp: u32,
    /// Packets sent, modulo 2^32.
    pub packets: u32,
    /// Octets of payload sent, modulo 2^32.
    pub octets: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1 << 32;

    #[test]
    fn unix_time_in_ntp() {
        let time = NtpTime::from_unix(Duration::from_millis(1_500));
        assert_eq!(time.0, (2_208_988_801 << 32) + (1 << 31));
        assert_eq!(time.middle(), (((2_208_988_801u64 & 0xffff) << 16) + 0x8000) as u32);
    }

    #[test]
    fn audio_and_video_stay_in_sync_after_rewriting() {
        // A publisher whose clock is 10 s behind ours samples a picture and a sound at its time 1000 s.
        let offset = 10 * SECOND as i64;
        let sampled = NtpTime(1000 * SECOND);
        // The reports were made at different times, in different timestamps, and rewritten by different offsets.
        let video = RtpClock::from_report(NtpTime(1002 * SECOND), 180_000 + 500, offset, 77, 90_000);
        let audio = RtpClock::from_report(NtpTime(999 * SECOND), u32::MAX - 9, offset, 1_000_000, 48_000);
        // Our reports at one time map both samples to the same time of ours.
        let now = NtpTime(1050 * SECOND);
        let video_sample = (500u32).wrapping_add(77);
        let audio_sample = (u32::MAX - 9).wrapping_add(48_000).wrapping_add(1_000_000);
        let at =
            |rtp: u32, sample: u32, rate: u64| now.0 - u64::from(rtp.wrapping_sub(sample)) * SECOND / rate;
        let shown = at(video.rtp_at(now), video_sample, 90_000);
        let heard = at(audio.rtp_at(now), audio_sample, 48_000);
        assert_eq!(shown, heard);
        assert_eq!(shown, sampled.plus(offset).0);
    }

    #[test]
    fn times_before_the_reading_count_backwards() {
        let clock = RtpClock::from_packet(NtpTime(100 * SECOND), 10, 8000);
        assert_eq!(clock.rtp_at(NtpTime(99 * SECOND)), 10u32.wrapping_sub(8000));
        assert_eq!(clock.rtp_at(NtpTime(100 * SECOND + SECOND / 2)), 4010);
        // A day later, and across the era's end.
        assert_eq!(clock.rtp_at(NtpTime(100 * SECOND + 86_400 * SECOND)), 10 + 691_200_000);
        let old = RtpClock::from_packet(NtpTime(u64::MAX - SECOND + 1), 0, 90_000);
        assert_eq!(old.rtp_at(NtpTime(SECOND)), 180_000);
    }
}
