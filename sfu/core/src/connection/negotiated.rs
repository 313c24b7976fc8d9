//! What both sides agreed on about media, in the words of the media plane.

use zynk_protocol::MediaKind;

use super::{Connection, Mid, PayloadFormat, packet::payload_format};
use crate::media::extensions::{ExtensionKind, ExtensionMap};

/// What the payload types of a connection mean.
#[derive(Clone, Debug)]
pub(crate) struct NegotiatedFormats {
    /// By payload type: the place in `entries`, or [`NOT_NEGOTIATED`]. A format takes much more room than a place.
    places: [u8; PAYLOAD_TYPES],
    /// The format, and whether it comes as a retransmission.
    entries: Vec<(PayloadFormat, bool)>,
}

const PAYLOAD_TYPES: usize = 128;
const NOT_NEGOTIATED: u8 = u8::MAX;

impl Default for NegotiatedFormats {
    fn default() -> Self {
        Self { places: [NOT_NEGOTIATED; PAYLOAD_TYPES], entries: Vec::new() }
    }
}

impl NegotiatedFormats {
    /// The format of a payload type, and whether it is that of its retransmissions.
    pub(crate) fn get(&self, payload_type: u8) -> Option<(PayloadFormat, bool)> {
        let place = *self.places.get(usize::from(payload_type))?;
        self.entries.get(usize::from(place)).copied()
    }

    /// Gives a payload type its meaning.
    pub(crate) fn set(&mut self, payload_type: u8, format: PayloadFormat, repair: bool) {
        let Some(place) = self.places.get_mut(usize::from(payload_type)) else { return };
        match self.entries.get_mut(usize::from(*place)) {
            Some(entry) => *entry = (format, repair),
            None => {
                // There are no more of them than payload types.
                *place = u8::try_from(self.entries.len()).unwrap_or(NOT_NEGOTIATED);
                self.entries.push((format, repair));
            }
        }
    }
}

/// The payload types under which a format is sent to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadTypes {
    pub(crate) media: u8,
    /// Of retransmissions, if the client takes them.
    pub(crate) rtx: Option<u8>,
}

impl Connection {
    /// The payload types of all sections: they mean the same in each (RFC 8843, section 9.1).
    pub(crate) fn formats(&mut self) -> NegotiatedFormats {
        self.negotiations = self.negotiations.wrapping_add(1);
        let negotiation = self.negotiations;
        let mut formats = NegotiatedFormats::default();
        for params in self.rtc.codec_config().params() {
            formats.set(*params.pt(), payload_format(*params, false, negotiation), false);
            if let Some(red) = params.red() {
                formats.set(*red, payload_format(*params, true, negotiation), false);
            }
            if let Some(rtx) = params.resend() {
                formats.set(*rtx, payload_format(*params, false, negotiation), true);
            }
        }
        formats.entries.shrink_to_fit();
        formats
    }

    /// The header extensions of the sections `mids`, which mean the same in each (RFC 8843, section 9.4).
    pub(crate) fn extensions(&self, mids: impl Iterator<Item = Mid>) -> ExtensionMap {
        let mut map = ExtensionMap::default();
        for media in mids.filter_map(|mid| self.rtc.media(mid)) {
            for (id, extension) in media.remote_extmap().iter() {
                if let Some(kind) = ExtensionKind::from_uri(extension.as_uri()) {
                    map.set(id, kind);
                }
            }
        }
        map
    }
}

impl PayloadFormat {
    /// What kind of media it is.
    pub(crate) fn kind(&self) -> MediaKind {
        use super::Codec;
        match self.codec {
            Codec::Opus | Codec::Red => MediaKind::Audio,
            Codec::Vp8 | Codec::Vp9 | Codec::H264 | Codec::Av1 => MediaKind::Video,
            Codec::Other if self.params.spec().codec.is_audio() => MediaKind::Audio,
            Codec::Other => MediaKind::Video,
        }
    }
}
