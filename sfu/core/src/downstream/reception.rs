//! What a client reports on a stream.

use super::Downstream;

/// A client's last report on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamReception {
    /// The highest number that it got; wraps.
    pub(crate) highest: u32,
    /// Lost since the beginning.
    pub(crate) lost: i32,
    /// In units of the stream's timestamps.
    pub(crate) jitter: u32,
}

impl Downstream {
    /// What the client reported last on the stream of this SSRC.
    pub(crate) fn stream_reception(&self, ssrc: u32) -> Option<StreamReception> {
        let reported = self.reported.get(&ssrc)?;
        Some(StreamReception {
            highest: reported.highest_seq,
            lost: reported.cumulative_lost,
            jitter: reported.jitter,
        })
    }
}
