//! Writing an extension block.

use thiserror::Error;

use super::{ONE_BYTE_ID_MAX, ONE_BYTE_VALUE_BYTES_MAX};

/// One element: the id that the receiver negotiated, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// 1 to 255, not 15.
    pub id: u8,
    /// Up to 255 octets.
    pub value: &'a [u8],
}

impl Element<'_> {
    /// Whether the one-byte form can carry it.
    #[inline]
    pub fn fits_one_byte(&self) -> bool {
        (1..=ONE_BYTE_ID_MAX).contains(&self.id) && (1..=ONE_BYTE_VALUE_BYTES_MAX).contains(&self.value.len())
    }
}

/// Why a block was not written; the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// The buffer is too small.
    #[error("the extensions do not fit into their buffer")]
    Bounds,
    /// An id of 0, or a value longer than 255 octets.
    #[error("an element that no form can carry")]
    Element,
}

/// Writes a block with its profile, length and padding to the front of `out`; returns its octets, a multiple of
/// 4. Without elements it writes nothing and returns 0: the header's extension bit stays clear.
///
/// The one-byte form is used when every element fits, else the two-byte form (RFC 8285, sections 4.2, 4.3).
///
/// # Errors
/// [`ExtensionError`]; `out` may be partly written then.
#[inline]
pub fn write_elements(out: &mut [u8], elements: &[Element<'_>]) -> Result<usize, ExtensionError> {
    if elements.is_empty() {
        return Ok(0);
    }
    let one_byte = elements.iter().all(Element::fits_one_byte);
    let mut at = 4;
    for element in elements {
        let length = u8::try_from(element.value.len()).map_err(|_| ExtensionError::Element)?;
        if element.id == 0 {
            return Err(ExtensionError::Element);
        }
        if one_byte {
            put(out, &mut at, &[element.id << 4 | (length - 1)])?;
        } else {
            put(out, &mut at, &[element.id, length])?;
        }
        put(out, &mut at, element.value)?;
    }
    let padded = at.next_multiple_of(4);
    out.get_mut(at..padded).ok_or(ExtensionError::Bounds)?.fill(0);
    let words = u16::try_from(padded / 4 - 1).map_err(|_| ExtensionError::Bounds)?;
    let [w0, w1] = words.to_be_bytes();
    let profile = if one_byte { [0xbe, 0xde] } else { [0x10, 0x00] };
    put(out, &mut 0, &[profile[0], profile[1], w0, w1])?;
    Ok(padded)
}

#[inline]
fn put(out: &mut [u8], at: &mut usize, octets: &[u8]) -> Result<(), ExtensionError> {
    let end = *at + octets.len();
    out.get_mut(*at..end).ok_or(ExtensionError::Bounds)?.copy_from_slice(octets);
    *at = end;
    Ok(())
}
