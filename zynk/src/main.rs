//! The `zynk` binary.
fn main() {}
