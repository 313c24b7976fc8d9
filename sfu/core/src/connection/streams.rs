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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use str0m::change::SdpOffer;
    use zynk_protocol::MediaKind;

    use super::*;
    use crate::{
        Certificate,
        connection::{Connection, Credentials, OfferChanges},
        sdp,
    };

    /// The lines that name streams, section by section.
    fn named(sdp: &str) -> Vec<Vec<&str>> {
        let sections = sdp.split("m=").skip(1);
        let is_named = |line: &&str| line.starts_with("a=ssrc");
        sections.map(|section| section.lines().filter(is_named).collect()).collect()
    }

    fn negotiate(connection: &mut Connection, client: &mut Rtc, changes: &OfferChanges) -> String {
        let sdp = connection.create_offer(changes).unwrap().sdp;
        let offer = SdpOffer::from_sdp_string(&sdp).unwrap();
        let answer = client.sdp_api().accept_offer(offer).unwrap().to_sdp_string();
        connection.accept_answer(&answer, &sdp::read(&answer).unwrap()).unwrap();
        sdp
    }

    #[test]
    fn a_section_keeps_its_stream_over_all_negotiations_and_str0m_keeps_none() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let certificate = Certificate::generate().unwrap();
        let credentials = Credentials { ufrag: "ufrag".into(), password: "p".repeat(24) };
        let address = ([127, 0, 0, 1], 1).into();
        let mut connection = Connection::new(&certificate, &credentials, &[address], &[], now);
        let mut client = Rtc::builder().set_rtp_mode(true).build(now);
        let adding = |kind| OfferChanges { sections: vec![kind], ..OfferChanges::default() };
        let first = negotiate(&mut connection, &mut client, &adding(MediaKind::Video));
        let second = negotiate(&mut connection, &mut client, &adding(MediaKind::Audio));
        let (first, second) = (named(&first), named(&second));
        assert!(first[0].len() > 2 && !second[1].is_empty(), "{second:?}");
        assert_eq!(first[0], second[0]);
        let mid = connection.streams.0[0].0;
        let streams = connection.streams.0.clone();
        for active in [false, true] {
            let changes = OfferChanges { directions: vec![(mid, active)], ..OfferChanges::default() };
            assert_eq!(named(&negotiate(&mut connection, &mut client, &changes)), second);
        }
        assert_eq!((streams.len(), &connection.streams.0), (2, &streams));
        for (mid, ssrc, rtx) in streams {
            let described = connection.sending_stream(mid).unwrap();
            assert_eq!((described.ssrc, described.rtx), (ssrc, rtx));
            assert!(connection.rtc.direct_api().stream_tx_by_mid(mid, None).is_none());
        }
    }
}
