//! libFuzzer's entry to `zynk_fuzz::shard_operations`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zynk_fuzz::shard_operations(data));
