//! What differs from receiver to receiver about a payload: its type, and a few octets.

use super::EgressError;

/// Longest patch of a payload: a VP8 payload descriptor with all its fields (RFC 7741, section 4.2).
pub const PATCH_BYTES_MAX: usize = 6;
/// No payload type: they have 7 bits.
const UNMAPPED: u8 = 0xff;

/// Payload types of the publisher and what they are to the receiver.
#[derive(Clone, Debug)]
pub struct PayloadTypes {
    media: [u8; 128],
    rtx: [u8; 128],
}

impl Default for PayloadTypes {
    fn default() -> Self {
        Self { media: [UNMAPPED; 128], rtx: [UNMAPPED; 128] }
    }
}

impl PayloadTypes {
    /// Maps a publisher's payload type to the receiver's, and that of its retransmissions. Values above 127 are
    /// ignored.
    pub fn set(&mut self, publisher: u8, receiver: u8, rtx: Option<u8>) {
        if receiver > 127 || rtx.is_some_and(|rtx| rtx > 127) {
            return;
        }
        if let (Some(media), Some(repair)) =
            (self.media.get_mut(usize::from(publisher)), self.rtx.get_mut(usize::from(publisher)))
        {
            *media = receiver;
            *repair = rtx.unwrap_or(UNMAPPED);
        }
    }

    #[inline]
    pub(super) fn media(&self, publisher: u8) -> Result<u8, EgressError> {
        let found = self.media.get(usize::from(publisher)).copied().filter(|found| *found != UNMAPPED);
        found.ok_or(EgressError::PayloadType(publisher))
    }

    pub(super) fn rtx(&self, publisher: u8) -> Result<u8, EgressError> {
        let found = self.rtx.get(usize::from(publisher)).copied().filter(|found| *found != UNMAPPED);
        found.ok_or(EgressError::PayloadType(publisher))
    }

    /// Some payload type of retransmissions: padding needs one, and any will do.
    pub(super) fn any_rtx(&self) -> Option<u8> {
        self.rtx.iter().copied().find(|found| *found != UNMAPPED)
    }
}

/// Octets that replace others of a payload, in the same number: picture ids of VP8 that go on across layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadPatch {
    /// Offset in the payload.
    pub at: u16,
    /// Octets of `octets` that count.
    pub bytes: u8,
    /// What is written.
    pub octets: [u8; PATCH_BYTES_MAX],
}

impl PayloadPatch {
    pub(super) fn apply(&self, payload: &mut [u8]) -> Result<(), EgressError> {
        let at = usize::from(self.at);
        let octets = self.octets.get(..usize::from(self.bytes)).ok_or(EgressError::Patch)?;
        payload.get_mut(at..at + octets.len()).ok_or(EgressError::Patch)?.copy_from_slice(octets);
        Ok(())
    }
}
