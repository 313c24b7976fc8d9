//! Transport-wide congestion control feedback, draft-holmer-rmcat-transport-wide-cc-extensions-01.
//!
//! Every RTP packet of a transport carries a 16-bit number in a header extension, whatever its stream. The
//! receiver says when each number arrived; the sender's bandwidth estimation needs nothing else.
//!
//! ```text
//!   from a publisher:   extension ─► ArrivalRecorder ─► feedback packets, every 50 to 100 ms
//!   to a subscriber:    SendHistory gives each packet its number
//!                       feedback packet ─► Feedback (parsed) ─► SendHistory ─► PacketReport, one per packet
//! ```

mod feedback;
mod history;
mod recorder;
#[cfg(test)]
mod tests;

pub use feedback::{Feedback, FeedbackError, StatusRun};
pub use history::{FeedbackSummary, HISTORY_MAX, PacketReport, ProbeClusterId, SendHistory};
pub use recorder::{ArrivalRecorder, WINDOW_MAX};

/// RTCP packet type of transport-layer feedback (RFC 4585) and the format number of this one.
pub const FEEDBACK_PACKET_TYPE: u8 = 205;
/// See [`FEEDBACK_PACKET_TYPE`].
pub const FEEDBACK_FORMAT: u8 = 15;
/// Unit of an arrival's delta, in microseconds.
pub const DELTA_US: u64 = 250;
/// Unit of the reference time, in microseconds: 64 ms.
pub const REFERENCE_US: u64 = 64_000;

/// Extends 16-bit transport numbers: the one nearest to the newest is meant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unwrapper {
    newest: Option<u64>,
}

impl Unwrapper {
    /// The extended number; it begins at 65,536 so that one below the first does not underflow.
    pub(crate) fn unwrap(&mut self, seq: u16) -> u64 {
        let extended = match self.newest {
            None => (1 << 16) + u64::from(seq),
            Some(newest) => {
                let offset = i64::from(seq.wrapping_sub(newest as u16) as i16);
                newest.saturating_add_signed(offset)
            }
        };
        self.newest = Some(self.newest.map_or(extended, |newest| newest.max(extended)));
        extended
    }
}
