//! What stands before a frame, the AV1 dependency descriptor, and Opus with redundancy.

use zynk_sfu_core::fuzzing;

/// Descriptors that one reader is fed: it keeps the structure between them.
const DESCRIPTORS_MAX: usize = 32;

/// Reads the input as VP8's and VP9's descriptor, as audio with redundancy, and as a sequence of dependency descriptors, each after an
/// octet with its length.
pub fn payload_descriptors(data: &[u8]) {
    fuzzing::vp8(data);
    fuzzing::vp9(data);
    fuzzing::red(data);
    let mut descriptors = Vec::new();
    let mut rest = data;
    while let [length, after @ ..] = rest
        && descriptors.len() < DESCRIPTORS_MAX
    {
        let (descriptor, next) = after.split_at(usize::from(*length).min(after.len()));
        descriptors.push(descriptor);
        rest = next;
    }
    fuzzing::dependency_descriptors(&descriptors);
}
