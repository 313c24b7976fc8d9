//! libFuzzer's entry to `zynk_fuzz::rtcp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::rtcp(data));
