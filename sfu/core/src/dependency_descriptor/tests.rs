use proptest::prelude::*;

use super::*;

/// Builds descriptors of a stream with two spatial layers and one temporal layer (`L2T1_KEY`): templates are
/// keyframe and delta frame of either layer, targets are the lower layer and both.
struct Writer(BitWriter);

impl Writer {
    fn new(template: u8, frame: u16) -> Self {
        Self(BitWriter { bytes: Vec::new(), free: 0 })
            .bits(2, 0b11)
            .bits(6, template.into())
            .bits(16, frame.into())
    }

    fn bits(mut self, count: u32, value: u32) -> Self {
        (0..count).rev().for_each(|bit| self.0.push(value >> bit & 1 != 0));
        self
    }

    /// The five flags: structure, mask, indications, references, chains.
    fn flags(self, flags: u32) -> Self {
        self.bits(5, flags)
    }

    fn structure(self, offset: u8) -> Self {
        let layers = self.bits(6, offset.into()).bits(5, 1).bits(2, 0).bits(2, 2).bits(2, 0).bits(2, 3);
        // Indications of each template for the targets: 3 is required, 2 a switch, 0 not present.
        let indications = layers.bits(4, 0b1111).bits(4, 0b1010).bits(4, 0b0011).bits(4, 0b0010);
        // References: none; two frames back; one; two.
        let references = indications.bits(1, 0).bits(6, 0b10_0010).bits(6, 0b10_0000).bits(6, 0b10_0010);
        // Two of up to two chains take one bit more than one; each target has its own.
        let chains = references.bits(2, 0b11).bits(1, 0).bits(1, 1).bits(32, 0x0012_1122);
        chains.bits(1, 1).bits(32, 0x013f_00b3).bits(32, 0x027f_0167)
    }

    fn done(self) -> Vec<u8> {
        self.0.bytes
    }
}

const OFFSET: u8 = 62;
const KEY: [u8; 2] = [OFFSET, OFFSET + 2 - TEMPLATES_MAX];
const DELTA: [u8; 2] = [OFFSET + 1, OFFSET + 3 - TEMPLATES_MAX];

fn keyframe(frame: u16) -> Vec<u8> {
    Writer::new(KEY[0], frame).flags(0b10000).structure(OFFSET).done()
}

fn short(template: u8, frame: u16) -> Vec<u8> {
    Writer::new(template, frame).done()
}

fn started() -> DescriptorReader {
    let mut reader = DescriptorReader::default();
    reader.read(&keyframe(65_535), 0).unwrap();
    reader
}

#[test]
fn frames_are_found_in_the_structure_of_the_keyframe() {
    let mut reader = DescriptorReader::default();
    assert_eq!(reader.read(&short(DELTA[0], 7), 0), None, "no structure came");
    let first = reader.read(&keyframe(65_535), 0).unwrap();
    assert_eq!(first.layer, Layer { spatial: 0, refresh: true, frame_end: true });
    assert_eq!(first.layers, Some(2));
    let second = reader.read(&short(KEY[1], 0), 0).unwrap();
    assert_eq!(second.layer, Layer { spatial: 1, refresh: true, frame_end: true }, "needs its own picture");
    assert_eq!(second.layers, None);
    for (layer, frame) in [(0, 1), (1, 2)] {
        let delta = reader.read(&short(DELTA[usize::from(layer)], frame), 3000).unwrap();
        assert_eq!(delta.layer, Layer { spatial: layer, refresh: false, frame_end: true });
    }
    assert_eq!(reader.read(&short(30, 3), 6000), None, "no such template");
}

#[test]
fn a_frame_without_the_one_below_is_taken_for_a_dependent_one() {
    let mut reader = started();
    let alone = reader.read(&short(KEY[1], 9), 3000).unwrap();
    assert!(!alone.layer.refresh, "what it depends on is not known to be in the picture");
    let late = reader.read(&short(DELTA[0], 65_534), 0_u32.wrapping_sub(3000)).unwrap();
    assert!(!late.layer.refresh);
}

#[test]
fn references_of_the_frame_itself_count() {
    let mut reader = started();
    // One reference, sixteen frames back, in eight bits.
    let far = Writer::new(KEY[1], 0).flags(0b00110).bits(4, 0).bits(2, 2).bits(8, 15).bits(2, 0).done();
    assert!(!reader.read(&far, 0).unwrap().layer.refresh);
    let none = Writer::new(DELTA[1], 0).flags(0b00010).bits(2, 0).done();
    assert!(reader.read(&none, 0).unwrap().layer.refresh);
}

#[test]
fn the_mask_tells_which_layers_go_on() {
    let mut reader = started();
    let masked = Writer::new(DELTA[0], 1).flags(0b01000).bits(2, 0b01).done();
    assert_eq!(reader.read(&masked, 3000).unwrap().layers, Some(1));
    let unmasked = Writer::new(DELTA[0], 1).flags(0b01000).bits(2, 0b11).done();
    assert_eq!(reader.read(&unmasked, 3000).unwrap().layers, Some(2));
}

#[test]
fn a_limited_descriptor_says_the_same_but_for_the_mask() {
    let mut reader = started();
    let custom = Writer::new(DELTA[1], 5).flags(0b01110).bits(2, 0b11).bits(4, 0b0110).bits(2, 0).done();
    for descriptor in [short(DELTA[0], 5), keyframe(5), custom] {
        let before = reader.read(&descriptor, 3000).unwrap();
        assert_eq!(before.targets.limited(&descriptor, 1, false), None, "nothing is cut off");
        let limited = before.targets.limited(&descriptor, 0, false).unwrap();
        let after = reader.read(&limited, 3000).unwrap();
        assert_eq!(after.layer, before.layer);
        assert_eq!(after.layers, Some(1));
        assert_eq!(after.targets.active, 0b01);
        assert_eq!(after.targets.limited(&limited, 0, false), None, "it is limited already");
        let explicit = before.targets.limited(&descriptor, 7, true).unwrap();
        assert_eq!(reader.read(&explicit, 3000).unwrap().targets.active, 0b11);
        assert_eq!(limited[1..3], descriptor[1..3], "the frame number");
    }
}

#[test]
fn what_is_cut_off_changes_nothing() {
    let whole = keyframe(5);
    for length in 4..whole.len() {
        let mut reader = DescriptorReader::default();
        assert_eq!(reader.read(&whole[..length], 0), None, "{length}");
        assert_eq!(reader.read(&short(DELTA[0], 6), 0), None, "{length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(
        descriptors in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
        start: bool,
    ) {
        let mut reader = if start { started() } else { DescriptorReader::default() };
        for (descriptor, timestamp) in descriptors.iter().zip(0..) {
            if let Some(described) = reader.read(descriptor, timestamp) {
                for layer in 0..4 {
                    described.targets.limited(descriptor, layer, start);
                }
            }
        }
    }
}

#[test]
fn temporal_layers_open_where_a_frame_is_a_switch() {
    // L1T3 as libwebrtc writes it: keyframe, and frames of the layers 0, 1 and 2; targets are the three frame rates.
    let structure = |writer: Writer| {
        let layers = writer.bits(6, 0).bits(5, 2).bits(2, 0).bits(2, 1).bits(2, 1).bits(2, 3);
        let indications = layers.bits(6, 0b10_1010).bits(6, 0b10_1010).bits(6, 0b00_0110).bits(6, 0b00_0001);
        let references = indications.bits(1, 0).bits(6, 0b10_0110).bits(6, 0b10_0010).bits(6, 0b10_0000);
        references.bits(2, 0).bits(1, 0).bits(1, 0)
    };
    let mut reader = DescriptorReader::default();
    let mut read = |descriptor: Vec<u8>, picture| {
        let described = reader.read(&descriptor, picture).unwrap();
        (described.structure, described.temporal.id, described.temporal.opens)
    };
    assert_eq!(read(structure(Writer::new(0, 1).flags(0b10000)).done(), 0), (true, 0, 2));
    assert_eq!(read(short(3, 2), 1), (false, 2, 2));
    assert_eq!(read(short(2, 3), 2), (false, 1, 2));
    assert_eq!(read(short(1, 5), 3), (false, 0, 2));
    // Indications of the frame's own: no switch.
    let own = Writer::new(1, 9).flags(0b00100).bits(6, 0b11_1111).done();
    assert_eq!(read(own, 4), (false, 0, 0));
}
