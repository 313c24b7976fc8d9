//! What differs from receiver to receiver about a payload: a few octets.

use super::EgressError;

/// Longest patch of a payload: a VP8 payload descriptor with all its fields (RFC 7741, section 4.2).
pub const PATCH_BYTES_MAX: usize = 6;

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
    pub(crate) fn apply(&self, payload: &mut [u8]) -> Result<(), EgressError> {
        let at = usize::from(self.at);
        let octets = self.octets.get(..usize::from(self.bytes)).ok_or(EgressError::Patch)?;
        payload.get_mut(at..at + octets.len()).ok_or(EgressError::Patch)?.copy_from_slice(octets);
        Ok(())
    }
}
