//! What clients offer and answer, as browsers write it.

use zynk_sfu_core::media::extensions::ExtensionKind;

pub(crate) const OPUS: u8 = 111;
pub(crate) const RED: u8 = 63;
pub(crate) const VP8: u8 = 96;
pub(crate) const VP9: u8 = 98;
pub(crate) const H264: u8 = 102;
pub(crate) const AV1: u8 = 45;

/// Sources of the sections: audio, camera, screen.
pub(crate) const SOURCES: [u32; 3] = [1000, 1001, 1003];
/// Of an encoding of the camera's simulcast, which is not declared.
pub(crate) const SIMULCAST_SOURCE: u32 = 1010;
/// The camera's encodings, lowest first.
pub(crate) const RIDS: [&str; 3] = ["q", "h", "f"];

/// The header extensions of every offer, by the ids that the SFU offers too.
pub(crate) const EXTENSIONS: [(u8, ExtensionKind); 10] = [
    (1, ExtensionKind::AudioLevel),
    (2, ExtensionKind::AbsoluteSendTime),
    (3, ExtensionKind::TransportSequence),
    (4, ExtensionKind::Mid),
    (5, ExtensionKind::AbsoluteCaptureTime),
    (6, ExtensionKind::PlayoutDelay),
    (8, ExtensionKind::DependencyDescriptor),
    (10, ExtensionKind::Rid),
    (11, ExtensionKind::RepairedRid),
    (13, ExtensionKind::VideoOrientation),
];

/// Sections that differ from one offer to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sections {
    /// One of audio and one of video, in both directions, with no more than they need.
    Plain,
    /// Audio, camera and screen, from the client.
    Publishing,
    /// Same, the camera in three encodings.
    Simulcast,
    /// Same, to the client.
    Receiving,
}

/// An offer; the section `idle` carries nothing in it.
pub(crate) fn offer(sections: Sections, idle: Option<usize>) -> String {
    let media: Vec<String> = match sections {
        Sections::Plain => vec![plain_audio(), plain_video()],
        Sections::Receiving => [audio(), video(), video()]
            .into_iter()
            .map(|section| format!("{section}a=recvonly\r\n"))
            .collect(),
        Sections::Publishing => vec![
            format!("{}a=msid:s a\r\na=sendonly\r\na=ssrc:1000 cname:c\r\n", audio()),
            format!("{}a=msid:s v\r\na=sendonly\r\n{}", video(), sources(1)),
            format!("{}a=msid:s w\r\na=sendonly\r\n{}", video(), sources(2)),
        ],
        Sections::Simulcast => vec![
            format!("{}a=msid:s a\r\na=sendonly\r\na=ssrc:1000 cname:c\r\n", audio()),
            format!("{}a=msid:s v\r\na=sendonly\r\n{}", video(), encodings()),
            format!("{}a=msid:s w\r\na=sendonly\r\n{}", video(), sources(2)),
        ],
    };
    let mids: Vec<String> = (0..media.len()).map(|mid| mid.to_string()).collect();
    let mut sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=extmap-allow-mixed\r\n",
        mids.join(" ")
    );
    let fingerprint = ["AB"; 32].join(":");
    for (mid, section) in media.iter().enumerate() {
        let (line, attributes) = section.split_once("\r\n").unwrap_or_default();
        let attributes = match idle {
            Some(idle) if idle == mid => {
                attributes.replace("a=sendonly", "a=inactive").replace("a=recvonly", "a=inactive")
            }
            _ => attributes.to_owned(),
        };
        sdp.push_str(&format!(
            "{line}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:{mid}\r\na=rtcp-mux\r\n{attributes}"
        ));
    }
    sdp
}

/// The answer to an offer of the SFU: everything is accepted.
pub(crate) fn answer(offer: &str) -> String {
    offer
        .replace("a=sendonly", "a=recvonly")
        .replace("a=setup:actpass", "a=setup:active")
        .replace("a=ice-lite\r\n", "")
}

fn plain_audio() -> String {
    String::from(
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\na=msid:s a\r\na=sendrecv\r\n\
         a=ssrc:1000 cname:c\r\n",
    )
}

fn plain_video() -> String {
    String::from(
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=msid:s v\r\n\
         a=sendrecv\r\na=ssrc:1001 cname:c\r\n",
    )
}

fn audio() -> String {
    let codecs = "m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n\
                  a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n";
    format!("{codecs}{}", extensions())
}

fn video() -> String {
    let codecs =
        [(VP8, "VP8", ""), (VP9, "VP9", "profile-id=0"), (AV1, "AV1", ""), (H264, "H264", H264_FORMAT)];
    let types: Vec<String> = codecs.iter().map(|(media, ..)| format!("{media} {}", media + 1)).collect();
    let mut section = format!("m=video 9 UDP/TLS/RTP/SAVPF {}\r\n", types.join(" "));
    for (media, name, format) in codecs {
        section.push_str(&format!("a=rtpmap:{media} {name}/90000\r\n"));
        if !format.is_empty() {
            section.push_str(&format!("a=fmtp:{media} {format}\r\n"));
        }
        for feedback in ["nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"] {
            section.push_str(&format!("a=rtcp-fb:{media} {feedback}\r\n"));
        }
        section.push_str(&format!("a=rtpmap:{0} rtx/90000\r\na=fmtp:{0} apt={media}\r\n", media + 1));
    }
    section + &extensions()
}

const H264_FORMAT: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f";

fn extensions() -> String {
    EXTENSIONS.iter().map(|(id, kind)| format!("a=extmap:{id} {}\r\n", kind.uri())).collect()
}

/// The source of a section and the one that repairs it.
fn sources(section: usize) -> String {
    let source = SOURCES.get(section).copied().unwrap_or_default();
    let repair = source + 1;
    format!("a=ssrc-group:FID {source} {repair}\r\na=ssrc:{source} cname:c\r\na=ssrc:{repair} cname:c\r\n")
}

fn encodings() -> String {
    let rids: String = RIDS.iter().map(|rid| format!("a=rid:{rid} send\r\n")).collect();
    format!("{rids}a=simulcast:send {}\r\n", RIDS.join(";"))
}
