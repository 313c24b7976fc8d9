//! libFuzzer's entry to `zynk_fuzz::turn_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::turn_message(data));
