//! Damaged GGUF files never panic: any change of any byte is an error, or a model that loads.
//!
//! `PROPTEST_CASES` sets the number of cases.

use std::path::PathBuf;
use std::sync::OnceLock;

use epo::policy::GgufType;
use proptest::collection::vec;
use proptest::prelude::{any, prop_oneof, proptest, Just, Strategy};
use proptest::test_runner::Config;

use crate::tiny::{configs, file, open};

/// The bytes of a small file of every family, and a folder for damaged ones.
fn files() -> &'static (tempfile::TempDir, Vec<Vec<u8>>) {
    static FILES: OnceLock<(tempfile::TempDir, Vec<Vec<u8>>)> = OnceLock::new();
    FILES.get_or_init(|| {
        let bytes = |config: &_| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::read(file(config, GgufType::Q8_0, dir.path())).unwrap()
        };
        (tempfile::tempdir().unwrap(), configs().iter().map(bytes).collect())
    })
}

/// Bytes that are lengths, types or small numbers more often than by chance.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff), 2_u8..16]
}

fn cases() -> Config {
    let variable = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config { cases: variable.unwrap_or(200), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn damaged_files_are_errors_or_models(
        which in 0..4_usize,
        changes in vec((0.0..1.0_f64, vec(byte(), 1..9)), 1..4),
        keep in prop_oneof![4 => Just(1.0), 1 => 0.0..1.0_f64],
    ) {
        let (folder, files) = files();
        let mut bytes = files[which].clone();
        // The header is the first part; the rest is numbers.
        let header = bytes.len() / 3;
        for (place, new) in changes {
            let at = (place * header as f64) as usize;
            bytes[at..at + new.len()].copy_from_slice(&new);
        }
        bytes.truncate((keep * bytes.len() as f64) as usize);
        let name = format!("{:?}.gguf", std::thread::current().id());
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(model) = open(&path) {
            // Each of these may fail, and must say so.
            let _ = model.tokenizer().map(|tokenizer| tokenizer.encode("look at 12 345"));
            let _ = model.chat_template();
            let _ = model.verify();
            let _ = model.quantized_parameters();
        }
    }
}
