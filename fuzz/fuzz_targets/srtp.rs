//! libFuzzer's entry to `zynk_fuzz::srtp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::srtp(data));
