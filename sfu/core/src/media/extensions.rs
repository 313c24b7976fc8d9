//! RTP header extensions (RFC 8285): which id means what, reading and writing, without allocation.

mod values;
mod writer;

pub use values::{
    AudioLevel, CaptureTime, Extensions, PlayoutDelay, SendTime, VideoOrientation, WIRE_BYTES_MAX,
};
pub use writer::{Element, ExtensionError, write_elements};

/// Highest id of the one-byte form; 15 ends a block (RFC 8285, section 4.2).
pub const ONE_BYTE_ID_MAX: u8 = 14;
/// Longest value of the one-byte form.
pub const ONE_BYTE_VALUE_BYTES_MAX: usize = 16;
/// Longest `mid`, `rid` that is taken for one; longer ones are ignored. (RFC 8852 allows 255 octets, browsers
/// use 1 to 16.)
pub const STREAM_ID_BYTES_MAX: usize = 32;

/// The extensions that we understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ExtensionKind {
    /// The m-line a packet belongs to (RFC 9143).
    Mid,
    /// The encoding of a simulcast (RFC 8852).
    Rid,
    /// The encoding that a retransmission repairs (RFC 8852).
    RepairedRid,
    /// The transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportSequence,
    /// When the packet left its sender: 24 bits, 6.18 fixed point seconds.
    AbsoluteSendTime,
    /// When the frame was captured (libwebrtc's abs-capture-time).
    AbsoluteCaptureTime,
    /// Client-to-mixer audio level (RFC 6464).
    AudioLevel,
    /// Camera and rotation (3GPP TS 26.114, section 7.4.5).
    VideoOrientation,
    /// Bounds of the receiver's jitter buffer (libwebrtc's playout-delay).
    PlayoutDelay,
    /// What a frame depends on, also where the payload is encrypted (AV1 RTP specification, appendix A).
    DependencyDescriptor,
    /// Which layers are sent, and their rates (libwebrtc's video-layers-allocation00).
    VideoLayersAllocation,
}

impl ExtensionKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::TransportSequence,
        Self::AbsoluteSendTime,
        Self::AbsoluteCaptureTime,
        Self::AudioLevel,
        Self::VideoOrientation,
        Self::PlayoutDelay,
        Self::DependencyDescriptor,
        Self::VideoLayersAllocation,
    ];

    /// The URI in `a=extmap`.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::TransportSequence => {
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
            }
            Self::AbsoluteSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Self::AbsoluteCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
            Self::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::VideoOrientation => "urn:3gpp:video-orientation",
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::VideoLayersAllocation => {
                "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00"
            }
        }
    }

    /// The extension that a URI names.
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.uri() == uri)
    }
}

/// What the ids of a session mean, as negotiated; fixed size.
#[derive(Clone, Debug)]
pub struct ExtensionMap {
    kinds: [Option<ExtensionKind>; 256],
    ids: [u8; ExtensionKind::ALL.len()],
}

impl Default for ExtensionMap {
    fn default() -> Self {
        Self { kinds: [None; 256], ids: [0; ExtensionKind::ALL.len()] }
    }
}

impl ExtensionMap {
    /// Sets the meaning of an id; what either meant before is forgotten. Returns false for the ids 0 and 15,
    /// which are padding and the end of a one-byte block.
    pub fn set(&mut self, id: u8, kind: ExtensionKind) -> bool {
        if id == 0 || id == 15 {
            return false;
        }
        if let Some(old) = self.kind(id) {
            self.set_id(old, 0);
        }
        if let Some(old) = self.id(kind) {
            self.set_kind(old, None);
        }
        self.set_id(kind, id);
        self.set_kind(id, Some(kind));
        true
    }

    /// What an id means.
    #[inline]
    pub fn kind(&self, id: u8) -> Option<ExtensionKind> {
        self.kinds.get(usize::from(id)).copied().flatten()
    }

    /// The id of an extension, if it was negotiated.
    #[inline]
    pub fn id(&self, kind: ExtensionKind) -> Option<u8> {
        self.ids.get(kind as usize).copied().filter(|id| *id != 0)
    }

    fn set_id(&mut self, kind: ExtensionKind, id: u8) {
        if let Some(slot) = self.ids.get_mut(kind as usize) {
            *slot = id;
        }
    }

    fn set_kind(&mut self, id: u8, kind: Option<ExtensionKind>) {
        if let Some(slot) = self.kinds.get_mut(usize::from(id)) {
            *slot = kind;
        }
    }
}

/// How a block's elements are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionForm {
    /// Profile 0xBEDE: 4 bits of id, 4 of length less one.
    OneByte,
    /// Profiles 0x1000 to 0x100F: an octet of id, one of length.
    TwoByte,
    /// Not RFC 8285; its elements are unknown.
    Other(u16),
}

impl ExtensionForm {
    /// The form that a profile announces.
    #[inline]
    pub fn from_profile(profile: u16) -> Self {
        match profile {
            0xbede => Self::OneByte,
            0x1000..=0x100f => Self::TwoByte,
            other => Self::Other(other),
        }
    }
}

/// The elements of one packet: pairs of id and value. Ends at the first element that reaches beyond the block.
#[derive(Clone, Debug)]
pub struct ExtensionBlock<'a> {
    form: ExtensionForm,
    rest: &'a [u8],
}

impl<'a> ExtensionBlock<'a> {
    /// Over a block's data, without profile and length.
    pub fn new(form: ExtensionForm, data: &'a [u8]) -> Self {
        Self { form, rest: data }
    }

    /// The layout.
    pub fn form(&self) -> ExtensionForm {
        self.form
    }
}

impl<'a> Iterator for ExtensionBlock<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (id, length, value_at) = match (self.form, self.rest) {
                (_, [0, rest @ ..]) if !matches!(self.form, ExtensionForm::Other(_)) => {
                    self.rest = rest;
                    continue;
                }
                // RFC 8285, section 4.2: an id of 15 ends the block.
                (ExtensionForm::OneByte, [head, ..]) if head >> 4 != 15 => {
                    (head >> 4, usize::from(head & 0x0f) + 1, 1)
                }
                (ExtensionForm::TwoByte, [id, length, ..]) => (*id, usize::from(*length), 2),
                _ => {
                    self.rest = &[];
                    return None;
                }
            };
            let Some((element, rest)) = self.rest.split_at_checked(value_at + length) else {
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            // In the one-byte form an id of 0 with a length is padding that must be skipped whole.
            if id != 0 {
                return Some((id, element.get(value_at..).unwrap_or_default()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
