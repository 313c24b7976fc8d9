//! What a WHIP or WHEP client offers, as far as signaling must know it: who offers garbage is told so before
//! anybody in the room hears of it, and tracks are announced by what the offer says of them.

use sdp_types::{Media, Session};
use zynk_protocol::{
    MediaKind, NegotiationFailure,
    livekit::{self, AudioTrackFeature, VideoLayer, VideoQuality},
};

/// Most sections of an offer; one with more is refused. The media node may allow fewer.
const SECTIONS_MAX: usize = 256;

/// Most simulcast encodings that count.
const ENCODINGS_MAX: usize = 3;

/// An offer with media that can be negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Audio and video sections whose client would send.
    pub(crate) sending: Vec<SendingSection>,
    /// How many audio and video sections the client would receive in.
    pub(crate) receiving: usize,
}

/// A section in which the client would send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SendingSection {
    pub(crate) kind: MediaKind,
    /// The track's id in the SDP, else the section's mid.
    cid: String,
    /// Simulcast encodings; 0 or 1 for a single stream.
    encodings: usize,
    stereo: bool,
}

impl Offer {
    /// Reads an offer. Sections other than audio and video are not looked at.
    pub(crate) fn parse(sdp: &str) -> Result<Self, NegotiationFailure> {
        let session = Session::parse(sdp.as_bytes())
            .map_err(|error| NegotiationFailure::InvalidSdp { detail: error.to_string() })?;
        if session.medias.len() > SECTIONS_MAX {
            let count = session.medias.len();
            return Err(NegotiationFailure::TooManySections { count, max: SECTIONS_MAX });
        }
        let mut offer = Self::default();
        for media in session.medias.iter().filter(|media| !is_rejected(media)) {
            let kind = match media.media.as_str() {
                "audio" => MediaKind::Audio,
                "video" => MediaKind::Video,
                _ => continue,
            };
            if !matches!(media.proto.as_str(), "UDP/TLS/RTP/SAVPF" | "TCP/TLS/RTP/SAVPF") {
                return Err(NegotiationFailure::PlainRtp);
            }
            let (sends, receives) = direction(&session, media);
            if sends {
                offer.sending.push(SendingSection::new(kind, media));
            }
            offer.receiving = offer.receiving.saturating_add(usize::from(receives));
        }
        // Bundled sections may leave these to the section that they are bundled with (RFC 9143, section 7.1.3).
        let has = |name: &str| {
            session.has_attribute(name) || session.medias.iter().any(|media| media.has_attribute(name))
        };
        if !has("ice-ufrag") || !has("ice-pwd") {
            return Err(NegotiationFailure::NoIce);
        }
        if !has("fingerprint") {
            return Err(NegotiationFailure::NoFingerprint);
        }
        Ok(offer)
    }
}

impl SendingSection {
    fn new(kind: MediaKind, media: &Media) -> Self {
        let value = |name| media.get_first_attribute_value(name).flatten();
        let cid = value("msid")
            .and_then(|msid| msid.split_whitespace().nth(1))
            .or_else(|| value("mid"))
            .unwrap_or(kind.as_str());
        let is_send = |rid: &&str| rid.split_whitespace().nth(1) == Some("send");
        let encodings = media.get_attribute_values("rid").flatten().filter(is_send).count();
        let stereo = media.get_attribute_values("fmtp").flatten().any(|fmtp| {
            fmtp.split([' ', ';']).any(|parameter| matches!(parameter, "stereo=1" | "sprop-stereo=1"))
        });
        Self { kind, cid: cid.to_owned(), encodings: encodings.min(ENCODINGS_MAX), stereo }
    }

    /// Announces the track, under the names that LiveKit gives to tracks of WHIP clients.
    pub(crate) fn add_track(&self) -> livekit::AddTrackRequest {
        let mut request = livekit::AddTrackRequest { cid: self.cid.clone(), ..Default::default() };
        match self.kind {
            MediaKind::Audio => {
                request.set_type(livekit::TrackType::Audio);
                request.set_source(livekit::TrackSource::Microphone);
                "synthesized-microphone".clone_into(&mut request.name);
                request.audio_features.push(AudioTrackFeature::TfNoDtx.into());
                if self.stereo {
                    request.audio_features.push(AudioTrackFeature::TfStereo.into());
                }
            }
            MediaKind::Video => {
                request.set_type(livekit::TrackType::Video);
                request.set_source(livekit::TrackSource::Camera);
                "synthesized-camera".clone_into(&mut request.name);
                let qualities: &[VideoQuality] = match self.encodings {
                    0 | 1 => &[VideoQuality::High],
                    2 => &[VideoQuality::Low, VideoQuality::High],
                    _ => &[VideoQuality::Low, VideoQuality::Medium, VideoQuality::High],
                };
                let layer =
                    |quality: &VideoQuality| VideoLayer { quality: (*quality).into(), ..Default::default() };
                request.layers = qualities.iter().map(layer).collect();
            }
        }
        request
    }
}

/// Port 0 means that the client does not want the section, unless it goes over another one's port.
fn is_rejected(media: &Media) -> bool {
    media.port == 0 && !media.has_attribute("bundle-only")
}

/// Whether the client would send, and receive.
fn direction(session: &Session, media: &Media) -> (bool, bool) {
    for (name, sends, receives) in [
        ("sendrecv", true, true),
        ("sendonly", true, false),
        ("recvonly", false, true),
        ("inactive", false, false),
    ] {
        if media.has_attribute(name) {
            return (sends, receives);
        }
    }
    if session.has_attribute("sendonly") {
        (true, false)
    } else if session.has_attribute("recvonly") {
        (false, true)
    } else {
        (!session.has_attribute("inactive"), !session.has_attribute("inactive"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
    const ICE: &str = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n";
    const FINGERPRINT: &str = "a=fingerprint:sha-256 AA:BB\r\n";

    fn offer(media: &str) -> String {
        format!("{HEAD}{ICE}{FINGERPRINT}{media}")
    }

    #[test]
    fn sections_and_their_tracks_are_found() {
        let sdp = offer(
            "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=sendonly\r\na=msid:s mic\r\n\
             a=fmtp:111 minptime=10;stereo=1\r\n\
             m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=bundle-only\r\na=sendonly\r\n\
             a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n\
             m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:3\r\n",
        );
        let offer = Offer::parse(&sdp).unwrap();
        assert_eq!(offer.receiving, 0);
        let [audio, video] = &offer.sending[..] else { panic!("two sections send") };
        let audio = audio.add_track();
        assert_eq!((audio.cid.as_str(), audio.name.as_str()), ("mic", "synthesized-microphone"));
        assert_eq!(
            audio.audio_features,
            [i32::from(AudioTrackFeature::TfNoDtx), i32::from(AudioTrackFeature::TfStereo)]
        );
        let video = video.add_track();
        assert_eq!(
            (video.cid.as_str(), video.name.as_str(), video.layers.len()),
            ("1", "synthesized-camera", 3)
        );
    }

    #[test]
    fn directions_come_from_section_session_or_default() {
        let section = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
        for (sdp, sending, receiving) in [
            (offer(section), 1, 1),
            (offer(&format!("{section}a=recvonly\r\n")), 0, 1),
            (offer(&format!("a=sendonly\r\n{section}")), 1, 0),
            (offer(&format!("a=sendonly\r\n{section}a=inactive\r\n")), 0, 0),
            (offer(&format!("a=inactive\r\n{section}")), 0, 0),
        ] {
            let offer = Offer::parse(&sdp).unwrap();
            assert_eq!((offer.sending.len(), offer.receiving), (sending, receiving), "{sdp}");
        }
    }

    #[test]
    fn what_cannot_be_negotiated_is_refused() {
        let section = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
        let cases = [
            (format!("{HEAD}{FINGERPRINT}{section}"), NegotiationFailure::NoIce),
            (format!("{HEAD}{ICE}{section}"), NegotiationFailure::NoFingerprint),
            (offer("m=audio 9 RTP/AVP 0\r\n"), NegotiationFailure::PlainRtp),
            (offer("m=video 9 RTP/AVPF 96\r\n"), NegotiationFailure::PlainRtp),
            (offer("m=video 9 RTP/SAVPF 96\r\n"), NegotiationFailure::PlainRtp),
            (
                offer(&section.repeat(SECTIONS_MAX + 1)),
                NegotiationFailure::TooManySections { count: SECTIONS_MAX + 1, max: SECTIONS_MAX },
            ),
        ];
        for (sdp, failure) in cases {
            assert_eq!(Offer::parse(&sdp), Err(failure));
        }
        for garbage in ["", "hello", "{\"sdp\":\"v=0\"}", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"] {
            let result = Offer::parse(garbage);
            assert!(matches!(result, Err(NegotiationFailure::InvalidSdp { .. })), "{garbage:?}: {result:?}");
        }
    }
}
