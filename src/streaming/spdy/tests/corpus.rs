use std::fs;
use std::path::Path;

use super::super::fuzzing;

/// The files of one fuzz target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(files.len() > 3, "{target}");
    files
}

#[test]
fn the_corpus_of_frames_passes() {
    for bytes in corpus("spdy_frames") {
        fuzzing::frames(&bytes);
        for length in 0..bytes.len().min(300) {
            fuzzing::frames(&bytes[..length]);
        }
    }
}

#[test]
fn the_corpus_of_sessions_passes() {
    for bytes in corpus("spdy_session") {
        fuzzing::session(&bytes);
        fuzzing::session(&bytes[..bytes.len() / 2]);
    }
}
