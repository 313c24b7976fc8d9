//! libFuzzer's entry to `zynk_fuzz::payload_descriptors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::payload_descriptors(data));
