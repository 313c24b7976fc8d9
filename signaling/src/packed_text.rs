//! Texts that are kept long and rarely read.

use std::{
    fmt,
    io::{self, Read, Write},
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

/// A text, deflated (RFC 1951): descriptions say the same of many codecs.
#[derive(Clone)]
pub(crate) struct PackedText(Box<[u8]>);

impl PackedText {
    pub(crate) fn new(text: &str) -> Self {
        let pack = || -> io::Result<Vec<u8>> {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text.as_bytes())?;
            encoder.finish()
        };
        // Writing to memory does not fail.
        Self(pack().unwrap_or_default().into_boxed_slice())
    }

    /// The text.
    pub(crate) fn unpack(&self) -> String {
        let mut text = String::new();
        // What was packed here can be unpacked.
        let _ = DeflateDecoder::new(&self.0[..]).read_to_string(&mut text);
        text
    }
}

impl fmt::Debug for PackedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedText({} octets)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_and_takes_less() {
        let line = |number| format!("a=rtpmap:{number} VP8/90000\r\na=rtcp-fb:{number} transport-cc\r\n");
        let sdp: String = (96..127).map(line).collect();
        for text in ["", "v=0\r\n", "größer", &sdp] {
            assert_eq!(PackedText::new(text).unpack(), text);
        }
        assert!(PackedText::new(&sdp).0.len() < sdp.len() / 4);
    }
}
