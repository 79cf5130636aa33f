#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pontoon_fuzz::cdi::spec(bytes));
