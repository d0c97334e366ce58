//! A file of a small fake wheel, from an index on loopback.

use std::sync::Mutex;

use crate::provision::fake_index::{closed, jar, serve, zeros, Response, JAR};
use crate::provision::file::*;
use crate::provision::index::PackageIndex;

/// The file in `folder`, and the lines that were reported.
fn get(file: &PinnedFile, folder: &Path, index: &PackageIndex) -> (Result<PathBuf>, String) {
    let lines = Mutex::new(String::new());
    let report = |line: &str| *lines.lock().unwrap() += &format!("{line}\n");
    let path = file.get(folder, &report, |wheel| wheel.fetch(folder, index, &report));
    (path, lines.into_inner().unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_unpacked_once_and_a_damaged_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().join("models/new");
    let (path, lines) = get(&jar(), folder, &serve(Response::Honest));
    let path = path.unwrap();
    assert_eq!(
        (path.as_path(), std::fs::read(&path).unwrap()),
        (&*folder.join("renamed.jar"), JAR.into())
    );
    assert!(lines.starts_with("downloading fake-wheel 1.0 into"), "{lines}");
    assert_eq!(get(&jar(), folder, &closed()).1, "");
    for damaged in [&b""[..], &JAR[..JAR.len() / 2], b"only the bytes of this jar Matter"] {
        std::fs::write(&path, damaged).unwrap();
        let (again, lines) = get(&jar(), folder, &closed());
        assert_eq!(std::fs::read(again.unwrap()).unwrap(), JAR);
        assert!(lines.contains("renamed.jar") && lines.contains("will be replaced"), "{lines}");
    }
    assert_eq!(names(folder), ["fake_wheel-1.0.whl", "renamed.jar"]);
}

#[test]
fn a_wheel_without_the_file_or_with_another_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let index = serve(Response::Honest);
    let absent = PinnedFile { member: "fake/none.jar", ..jar() };
    let other = PinnedFile { sha256: jar().wheel.sha256, ..jar() };
    for (file, reason) in [(absent, "not in this wheel"), (other, "SHA-256")] {
        let error = get(&file, folder.path(), &index).0.unwrap_err().to_string();
        assert!(error.contains(file.member) && error.contains(reason), "{error}");
        assert_eq!(names(folder.path()), ["fake_wheel-1.0.whl"]);
    }
}

#[test]
fn several_users_of_one_folder_all_get_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let index = &serve(Response::Honest);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| get(&jar(), folder.path(), index).0.unwrap());
        }
    });
    assert_eq!(names(folder.path()), ["fake_wheel-1.0.whl", "renamed.jar"]);
    get(&jar(), folder.path(), &closed()).0.unwrap();
}

/// A folder for [`a_process_with_a_limit`], and whether it may download.
#[cfg(target_os = "linux")]
const LIMITED: &str = "EPO_TEST_LIMITED_FOLDER";

/// Not a test by itself: the process of the next one.
#[cfg(target_os = "linux")]
#[test]
fn a_process_with_a_limit() {
    let Some(folder) = std::env::var_os(LIMITED) else { return };
    let (path, _) = get(&zeros(), Path::new(&folder), &serve(Response::Honest));
    panic!("error: {}", path.unwrap_err());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_with_its_file_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    // Blocks of 512 or 1,024 bytes: nothing fits, or the wheel but not the unpacked file.
    for (blocks, left) in [(0, vec![]), (4, vec!["fake_wheel-1.0.whl"])] {
        let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut child = std::process::Command::new("sh");
        child.args(["-c", &limit, "sh"]).arg(std::env::current_exe().unwrap());
        child.args(["--exact", "provision::file::tests::a_process_with_a_limit", "--nocapture"]);
        let output = child.env(LIMITED, &cache).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let error = text.lines().find(|line| line.starts_with("error: ")).unwrap_or(&text);
        assert!(!output.status.success() && error.contains("File too large"), "{text}");
        assert!(error.contains(cache.to_str().unwrap()), "{error}");
        assert_eq!(names(&cache), left);
    }
    get(&zeros(), &cache, &closed()).0.unwrap();
    assert_eq!(names(&cache), ["fake_wheel-1.0.whl", "zeros"]);
}
