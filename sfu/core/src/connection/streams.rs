//! The streams that our descriptions name, and why str0m does not keep them.
//!
//! ```text
//!   DescribedStreams ─ declare ─► str0m: reads a description, writes one ─ withdraw, adopt ─► DescribedStreams
//! ```
//! str0m sends no RTP and receives none, but a stream that it knows of takes several kilobytes: a cache for
//! retransmissions, statistics, a queue. It needs the numbers of those that we send while it writes a description,
//! and draws new ones when it has none.

use str0m::{Rtc, media::Mid, rtp::Ssrc};

use crate::sdp::RemoteDescription;

/// What our description says of the stream in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SendingStream {
    pub(crate) ssrc: u32,
    /// Of its retransmissions.
    pub(crate) rtx: Option<u32>,
    /// Canonical name for source descriptions.
    pub(crate) cname: String,
}

/// The streams of all sections in which we ever said that we send. A section keeps its own for good: Chromium shows
/// nothing of a source that went and came back.
#[derive(Debug, Default)]
pub(super) struct DescribedStreams(Vec<(Mid, u32, Option<u32>)>);

impl DescribedStreams {
    /// The numbers of what we send in a section: SSRC, and that of the retransmissions.
    pub(super) fn get(&self, mid: Mid) -> Option<(u32, Option<u32>)> {
        self.0.iter().find(|(known, ..)| *known == mid).map(|(_, ssrc, rtx)| (*ssrc, *rtx))
    }

    /// Tells str0m of the streams that it is to describe.
    pub(super) fn declare(&self, rtc: &mut Rtc) {
        for (mid, ssrc, rtx) in &self.0 {
            // A section that was rejected may have been replaced.
            if rtc.media(*mid).is_some() {
                rtc.direct_api().declare_stream_tx(Ssrc::from(*ssrc), rtx.map(Ssrc::from), *mid, None);
            }
        }
    }

    /// Takes the streams that were declared from str0m again.
    pub(super) fn withdraw(&self, rtc: &mut Rtc) {
        for (_, ssrc, _) in &self.0 {
            rtc.direct_api().remove_stream_tx(Ssrc::from(*ssrc));
        }
    }

    /// Takes the streams from str0m that it made of a client's description, and keeps the numbers of ours.
    pub(super) fn adopt(&mut self, rtc: &mut Rtc, description: &RemoteDescription) {
        let mut direct = rtc.direct_api();
        for section in &description.sections {
            let mid = Mid::from(section.mid.as_str());
            if let Some(stream) = direct.stream_tx_by_mid(mid, None) {
                let (ssrc, rtx) = (stream.ssrc(), stream.rtx().map(|rtx| *rtx));
                direct.remove_stream_tx(ssrc);
                self.0.push((mid, *ssrc, rtx));
            }
            for source in &section.sources {
                direct.remove_stream_rx(Ssrc::from(source.ssrc));
            }
        }
    }
}
