//! Values of the extensions that we understand.

use super::{ExtensionBlock, ExtensionKind, ExtensionMap, STREAM_ID_BYTES_MAX};

/// Longest value of those that have a fixed layout.
pub const WIRE_BYTES_MAX: usize = 16;

/// How loud a packet's audio is (RFC 6464).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    /// Decibels below full scale, 0 (loudest) to 127 (silence).
    pub attenuation: u8,
    /// Whether the sender believes that somebody speaks.
    pub voice: bool,
}

impl AudioLevel {
    /// From the wire.
    pub fn from_octet(octet: u8) -> Self {
        Self { attenuation: octet & 0x7f, voice: octet & 0x80 != 0 }
    }

    /// For the wire.
    pub fn to_octet(self) -> u8 {
        u8::from(self.voice) << 7 | self.attenuation & 0x7f
    }
}

/// Which camera a picture is from and how it is turned (3GPP TS 26.114), as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoOrientation(pub u8);

impl VideoOrientation {
    /// Degrees, clockwise, by which a receiver turns the picture.
    pub fn degrees(self) -> u16 {
        u16::from(self.0 & 0b11) * 90
    }
}

/// Bounds that a sender sets on the receiver's jitter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutDelay {
    /// Shortest, in units of 10 ms, 12 bits.
    pub min_10ms: u16,
    /// Longest, in units of 10 ms, 12 bits.
    pub max_10ms: u16,
}

impl PlayoutDelay {
    fn parse(value: &[u8]) -> Option<Self> {
        let [a, b, c] = *value else { return None };
        Some(Self {
            min_10ms: u16::from(a) << 4 | u16::from(b) >> 4,
            max_10ms: (u16::from(b) & 0x0f) << 8 | u16::from(c),
        })
    }

    /// For the wire.
    pub fn to_octets(self) -> [u8; 3] {
        let [_, a, b, c] =
            (u32::from(self.min_10ms & 0xfff) << 12 | u32::from(self.max_10ms & 0xfff)).to_be_bytes();
        [a, b, c]
    }
}

/// When a packet left its sender, 24 bits of 6.18 fixed point seconds, which repeat every 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendTime(pub u32);

impl SendTime {
    /// It has 24 bits, and begins anew after 64 s.
    pub const MASK: u32 = 0xff_ffff;

    /// The middle of an NTP timestamp (32.32 fixed point).
    pub fn from_ntp(ntp: u64) -> Self {
        Self((ntp >> 14) as u32 & Self::MASK)
    }

    /// For the wire.
    pub fn to_octets(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

/// When a frame was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureTime {
    /// NTP time by the capturing clock, 32.32 fixed point.
    pub ntp: u64,
    /// What to add to get the time of the sender's clock, 32.32 fixed point.
    pub clock_offset: Option<i64>,
}

impl CaptureTime {
    fn parse(value: &[u8]) -> Option<Self> {
        let (ntp, rest) = value.split_first_chunk::<8>()?;
        let clock_offset = match rest {
            [] => None,
            rest => Some(i64::from_be_bytes(*rest.as_array()?)),
        };
        Some(Self { ntp: u64::from_be_bytes(*ntp), clock_offset })
    }

    /// For the wire: 8 or 16 octets of the array.
    pub fn to_octets(self) -> ([u8; WIRE_BYTES_MAX], usize) {
        let offset = self.clock_offset.unwrap_or_default();
        let octets = (u128::from(self.ntp) << 64 | u128::from(offset as u64)).to_be_bytes();
        (octets, if self.clock_offset.is_some() { 16 } else { 8 })
    }
}

/// What the extensions of one packet say. A value that is malformed counts as absent; of an extension that
/// occurs twice the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The m-line.
    pub mid: Option<&'a str>,
    /// The encoding.
    pub rid: Option<&'a str>,
    /// The encoding that is repaired.
    pub repaired_rid: Option<&'a str>,
    /// The transport-wide sequence number.
    pub transport_sequence: Option<u16>,
    /// When the packet left its sender.
    pub send_time: Option<SendTime>,
    /// When the frame was captured.
    pub capture_time: Option<CaptureTime>,
    /// How loud it is.
    pub audio_level: Option<AudioLevel>,
    /// How the picture is turned.
    pub orientation: Option<VideoOrientation>,
    /// Bounds of the jitter buffer.
    pub playout_delay: Option<PlayoutDelay>,
    /// The dependency descriptor, raw: 3 to 255 octets.
    pub dependency_descriptor: Option<&'a [u8]>,
    /// The video layers allocation, raw: 1 to 255 octets.
    pub layers_allocation: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    /// Reads a block with the meanings that the session negotiated.
    #[inline]
    pub fn read(map: &ExtensionMap, block: ExtensionBlock<'a>) -> Self {
        let mut values = Self::default();
        for (id, value) in block {
            if let Some(kind) = map.kind(id) {
                values.take(kind, value);
            }
        }
        values
    }

    fn take(&mut self, kind: ExtensionKind, value: &'a [u8]) {
        match kind {
            ExtensionKind::Mid => first(&mut self.mid, stream_id(value)),
            ExtensionKind::Rid => first(&mut self.rid, stream_id(value)),
            ExtensionKind::RepairedRid => first(&mut self.repaired_rid, stream_id(value)),
            ExtensionKind::TransportSequence => {
                // The draft's second version appends a feedback request of two octets.
                let sequence = value.first_chunk().filter(|_| matches!(value.len(), 2 | 4));
                first(&mut self.transport_sequence, sequence.map(|octets| u16::from_be_bytes(*octets)));
            }
            ExtensionKind::AbsoluteSendTime => {
                let time = match *value {
                    [a, b, c] => Some(SendTime(u32::from_be_bytes([0, a, b, c]))),
                    _ => None,
                };
                first(&mut self.send_time, time);
            }
            ExtensionKind::AbsoluteCaptureTime => first(&mut self.capture_time, CaptureTime::parse(value)),
            ExtensionKind::AudioLevel => {
                // RFC 6464, section 3: two-byte forms may pad to a second octet.
                let octet = value.first().filter(|_| value.len() <= 2);
                first(&mut self.audio_level, octet.map(|octet| AudioLevel::from_octet(*octet)));
            }
            ExtensionKind::VideoOrientation => {
                let octet = value.first().filter(|_| value.len() == 1);
                first(&mut self.orientation, octet.map(|octet| VideoOrientation(*octet)));
            }
            ExtensionKind::PlayoutDelay => first(&mut self.playout_delay, PlayoutDelay::parse(value)),
            ExtensionKind::DependencyDescriptor => {
                // The mandatory fields are 3 octets.
                first(&mut self.dependency_descriptor, Some(value).filter(|value| value.len() >= 3));
            }
            ExtensionKind::VideoLayersAllocation => {
                first(&mut self.layers_allocation, Some(value).filter(|value| !value.is_empty()));
            }
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

/// A `mid` or `rid`: visible ASCII, as an SDP token is.
fn stream_id(value: &[u8]) -> Option<&str> {
    if value.is_empty() || value.len() > STREAM_ID_BYTES_MAX || !value.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    std::str::from_utf8(value).ok()
}
