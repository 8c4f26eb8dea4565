#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proscenium::fuzz::runs(data));
