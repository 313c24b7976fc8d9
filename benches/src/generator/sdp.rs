//! What the generator must know of a description. str0m reads all the rest.

use zynk_sfu_core::media::extensions::{ExtensionKind, ExtensionMap};

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Audio,
    Video,
}

/// One section of a description.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) mid: String,
    /// The first source that it names: the media's, not the retransmissions'.
    pub(super) ssrc: Option<u32>,
    /// The payload type of Opus or VP8.
    pub(super) payload_type: Option<u8>,
}

/// A description, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Description {
    pub(super) sections: Vec<Section>,
    pub(super) extensions: ExtensionMap,
}

impl Description {
    pub(super) fn parse(sdp: &str) -> Self {
        let mut description = Self::default();
        for line in sdp.lines() {
            if let Some(media) = line.strip_prefix("m=") {
                let kind = match media.split(' ').next() {
                    Some("audio") => Kind::Audio,
                    Some("video") => Kind::Video,
                    _ => continue,
                };
                let section = Section { kind, mid: String::new(), ssrc: None, payload_type: None };
                description.sections.push(section);
            } else if let Some(section) = description.sections.last_mut() {
                section.read(line, &mut description.extensions);
            }
        }
        description
    }

    /// The section with a mid.
    pub(super) fn section(&self, mid: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.mid == mid)
    }
}

impl Section {
    fn read(&mut self, line: &str, extensions: &mut ExtensionMap) {
        if let Some(mid) = line.strip_prefix("a=mid:") {
            mid.trim().clone_into(&mut self.mid);
        } else if let Some(group) = line.strip_prefix("a=ssrc-group:FID ") {
            self.ssrc = group.split(' ').next().and_then(|ssrc| ssrc.parse().ok());
        } else if let Some(ssrc) = line.strip_prefix("a=ssrc:") {
            let ssrc = ssrc.split(' ').next().and_then(|ssrc| ssrc.parse().ok());
            self.ssrc = self.ssrc.or(ssrc);
        } else if let Some(map) = line.strip_prefix("a=rtpmap:")
            && let Some((payload_type, codec)) = map.split_once(' ')
        {
            let wanted = match self.kind {
                Kind::Audio => "opus/",
                Kind::Video => "vp8/",
            };
            if self.payload_type.is_none() && codec.to_ascii_lowercase().starts_with(wanted) {
                self.payload_type = payload_type.parse().ok();
            }
        } else if let Some(map) = line.strip_prefix("a=extmap:") {
            let mut words = map.split(' ');
            let id = words.next().and_then(|id| id.split('/').next()).and_then(|id| id.parse().ok());
            let kind = words.next().and_then(|uri| ExtensionKind::from_uri(uri.trim()));
            if let (Some(id), Some(kind)) = (id, kind) {
                extensions.set(id, kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_sources_and_extensions_are_found() {
        let sdp = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a1\r\na=rtpmap:111 opus/48000/2\r\na=ssrc:7 cname:x\r\n\
                   a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\nm=application 9 UDP/DTLS/SCTP x\r\n\
                   m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:v1\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
                   a=ssrc-group:FID 9 10\r\na=ssrc:10 cname:x\r\n";
        let description = Description::parse(sdp);
        let found: Vec<_> = description
            .sections
            .iter()
            .map(|section| (section.kind, section.mid.as_str(), section.ssrc, section.payload_type))
            .collect();
        assert_eq!(found, [(Kind::Audio, "a1", Some(7), Some(111)), (Kind::Video, "v1", Some(9), Some(96))]);
        assert_eq!(description.extensions.id(ExtensionKind::Mid), Some(4));
        assert!(description.section("v1").is_some() && description.section("x").is_none());
    }
}
