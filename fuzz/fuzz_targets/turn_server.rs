//! libFuzzer's entry to `zynk_fuzz::turn_server`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::turn_server(data));
