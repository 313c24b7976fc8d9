//! One source (SSRC) of a client.

use zynk_protocol::MediaKind;

use crate::{
    connection::Rid,
    media::{nack::NackGenerator, receiver::ReceiveStats, srtp::ReplayWindow},
};

/// Where a source belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the section.
    pub(super) section: usize,
    /// The encoding of a simulcast.
    pub(super) rid: Option<Rid>,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) place: Place,
    /// None for a source of retransmissions.
    pub(super) media: Option<Box<MediaSource>>,
    /// For those: what it repairs, once that is known.
    pub(super) repairs: Option<u32>,
}

/// A source of media. 500 bytes.
#[derive(Debug)]
pub(super) struct MediaSource {
    pub(super) stats: ReceiveStats,
    pub(super) nack: NackGenerator,
    /// Whether what is missing is asked for.
    pub(super) nacks: bool,
    /// Numbers that have come, on whichever stream.
    seen: Option<ReplayWindow<16>>,
    /// Expected and lost packets at the last [`Self::take_loss`].
    counted: (u64, i64),
}

impl MediaSource {
    pub(super) fn new(clock_rate_hz: u32, kind: MediaKind) -> Self {
        Self {
            stats: ReceiveStats::new(clock_rate_hz),
            nack: NackGenerator::new(),
            nacks: super::nacks(kind),
            seen: None,
            counted: (0, 0),
        }
    }

    /// The source began anew.
    pub(super) fn restart(&mut self) {
        self.seen = None;
        self.nack.reset();
        self.counted = (0, 0);
    }

    /// Notes a packet; false if it had come already, or is too old to tell.
    pub(super) fn take(&mut self, sequence: u64) -> bool {
        match &mut self.seen {
            None => {
                self.seen = Some(ReplayWindow::new(sequence));
                true
            }
            Some(seen) => {
                let new = seen.is_new(sequence);
                if new {
                    seen.record(sequence);
                }
                new
            }
        }
    }

    /// Packets expected and lost since the last time.
    pub(super) fn take_loss(&mut self) -> (u64, u64) {
        let now = (self.stats.expected(), i64::from(self.stats.lost()));
        let (expected, lost) = (now.0.saturating_sub(self.counted.0), (now.1 - self.counted.1).max(0));
        self.counted = now;
        (expected, lost.cast_unsigned().min(expected))
    }
}
