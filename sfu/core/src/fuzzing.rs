//! Thin wrappers for the fuzz targets around parsers that are not public. Not an interface.

use crate::{dependency_descriptor, red, vp8, vp9};
#[cfg(feature = "test-keys")]
use {
    crate::{Shard, Transport, connection::Path, media::srtp::KeyingMaterial},
    std::net::SocketAddr,
    zynk_protocol::ConnectionId,
};

/// VP8's payload descriptor: read, and its own numbers written back.
pub fn vp8(payload: &[u8]) {
    let Some(ids) = vp8::ids(payload) else { return };
    let mut copy = payload.to_vec();
    let written = vp8::patch(payload, ids).is_some_and(|patch| patch.apply(&mut copy).is_ok());
    assert!(written && copy == payload, "writing what was read changed the payload");
}

/// As [`vp8`], VP9's.
pub fn vp9(payload: &[u8]) {
    let Some(descriptor) = vp9::Descriptor::parse(payload) else { return };
    let _parts = (descriptor.is_start(), descriptor.layer(), descriptor.layers());
    let Some(ids) = descriptor.ids() else { return };
    let mut copy = payload.to_vec();
    if vp9::patch(payload, ids).is_some_and(|patch| patch.apply(&mut copy).is_ok()) {
        assert!(copy == payload, "writing what was read changed the payload");
    }
}

/// Opus with redundancy (RFC 2198): what is sent to who takes none is the end of what came.
pub fn red(payload: &[u8]) {
    if let Some(primary) = red::own_payload(payload) {
        assert!(primary.len() < payload.len() && payload.ends_with(primary), "more than the primary block");
    }
}

/// A stream's dependency descriptors, one after the other, each limited to every spatial layer.
pub fn dependency_descriptors(descriptors: &[&[u8]]) {
    let mut reader = dependency_descriptor::DescriptorReader::default();
    for (timestamp, descriptor) in (0_u32..).zip(descriptors) {
        let _number = dependency_descriptor::frame_number(descriptor);
        let Some(described) = reader.read(descriptor, timestamp / 2) else { continue };
        for highest in 0..4 {
            for explicit in [false, true] {
                if let Some(limited) = described.targets.limited(descriptor, highest, explicit) {
                    assert!(limited.len() <= descriptor.len() + 8, "a limited descriptor grew");
                }
            }
        }
    }
}

/// Has a connection come up without a handshake, over the path whose ends are ours and theirs. False if there is none of
/// that id, or it is up.
#[cfg(feature = "test-keys")]
pub fn connect(
    shard: &mut Shard,
    id: ConnectionId,
    (transport, local, remote): (Transport, SocketAddr, SocketAddr),
    material: KeyingMaterial,
) -> bool {
    shard.connect(id, Path { transport, local, remote }, material)
}

/// The tables of a shard in which something is left.
#[cfg(feature = "test-keys")]
pub fn leftovers(shard: &Shard) -> Vec<&'static str> {
    shard.leftovers()
}
