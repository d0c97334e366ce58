//! Downloads from an index on loopback, and what is left of bad ones.

use std::time::{Duration, Instant};

use crate::provision::fake_index::{closed, serve, wheel, wheel_bytes, Response, FILE};
use crate::provision::wheel::*;

/// Fetches the wheel into an empty folder; the error's text and the files that are left.
fn failure(index: &PackageIndex) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = wheel().fetch(folder.path(), index, &|_| {}).unwrap_err();
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "no unverified file is left");
    error.to_string()
}

#[test]
fn a_wheel_is_downloaded_once_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = wheel().fetch(folder.path(), &serve(Response::Honest), &|_| {}).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), wheel_bytes());
    let again = wheel().fetch(folder.path(), &closed(), &|line| panic!("{line}")).unwrap();
    assert_eq!(again, path);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_wheel_that_pip_has_downloaded_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::write(&path, wheel_bytes()).unwrap();
    assert_eq!(wheel().fetch(folder.path(), &closed(), &|_| {}).unwrap(), path);
}

#[test]
fn a_bad_download_is_an_error_with_its_cause() {
    let wrong = failure(&serve(Response::OtherBytes));
    assert!(wrong.contains("SHA-256") && wrong.contains(wheel().sha256), "{wrong}");
    let short = failure(&serve(Response::Truncated));
    assert!(short.contains("download") && short.contains("http://127.0.0.1"), "{short}");
    assert!(failure(&serve(Response::Missing)).contains("404"));
    assert!(failure(&closed()).contains("127.0.0.1:1"));
}

#[test]
fn a_silent_server_is_abandoned() {
    let started = Instant::now();
    let reason = failure(&serve(Response::Silent));
    assert!(reason.contains("timeout"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
