//! RTP headers and their extensions.

use zynk_sfu_core::media::{
    extensions::{ExtensionKind, ExtensionMap, Extensions},
    rtp::RtpHeader,
};

/// Parses a datagram as an RTP packet: every part must lie inside.
pub fn rtp(data: &[u8]) {
    let Ok(header) = RtpHeader::parse(data) else { return };
    assert!(header.bytes() <= data.len(), "the header reaches beyond the packet");
    assert!(header.csrcs(data).count() <= 15);
    let (mut elements, mut octets) = (0_usize, 0_usize);
    for (id, value) in header.extensions(data) {
        assert_ne!(id, 0, "padding is no element");
        elements += 1;
        octets += value.len();
    }
    assert!(elements + octets <= header.bytes(), "elements overlap");
    let mut map = ExtensionMap::default();
    for (id, kind) in (1..).zip(ExtensionKind::ALL) {
        map.set(id, kind);
    }
    let _values = Extensions::read(&map, header.extensions(data));
    if let Ok(payload) = header.payload(data) {
        assert!(header.bytes() <= payload.start && payload.start <= payload.end && payload.end <= data.len());
    }
    // A header may be asked about another packet than its own; it must not believe it.
    let half = data.get(..data.len() / 2).unwrap_or_default();
    let _elements = header.extensions(half).count();
    if let Ok(payload) = header.payload(half) {
        assert!(payload.end <= half.len());
    }
}
