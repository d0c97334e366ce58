//! The simulator on unusual machines: locales, paths, variables for Java, a trainer that is killed.
//!
//! Variables cannot be changed in a process with threads, so each case runs this test program again
//! as a child, with the test `child` and the variables of the case.
#![cfg(unix)]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::simulator;
use epo::env::scienceworld::{Installation, Provision, ScienceWorldConfig, ScienceWorldPool};
use epo::env::{Environment, Task};

/// Set for a child: `play` to play, `wait` to wait after that for its end.
const ROLE: &str = "EPO_TEST_CHILD";

/// Plays the start of an episode and prints it, as a child of another test.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let installation = Provision::default().install(&|line| println!("REPORT {line}")).unwrap();
    let config = ScienceWorldConfig::default();
    let mut pool = ScienceWorldPool::new(&installation, &config, 1).unwrap();
    let env = &mut pool.environments()[0];
    let start = env.reset(&Task { name: "boil".into(), variation: 0 }).unwrap();
    println!("PLAYED {start:?} {:?}", env.admissible().unwrap());
    println!("PROCESS {}", pool.process_ids()[0]);
    if role == "wait" {
        let _ = std::io::stdin().read(&mut [0]);
    }
}

fn command(role: &str, variables: &[(&str, &OsStr)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "machine::child", "--nocapture"]).env(ROLE, role);
    for name in ["LC_ALL", "LANG", "XDG_CACHE_HOME", "TMPDIR", "SCIENCEWORLD_JAR"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

fn run(variables: &[(&str, &OsStr)]) -> Output {
    command("play", variables).output().unwrap()
}

/// The line of the output that starts with a word.
fn line(output: &Output, word: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| Some(line.split_once(word)?.1.to_owned()))
}

/// Copies the jars into the cache below `base`.
fn fill(base: &Path, installation: &Installation) {
    let cache = base.join("epo/scienceworld/1.2.3");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::copy(&installation.simulator_jar, cache.join("scienceworld.jar")).unwrap();
    std::fs::copy(&installation.gateway_jar, cache.join("py4j0.10.9.9.jar")).unwrap();
}

/// A folder in `root` with a name that may be any bytes.
fn folder(root: &Path, name: &[u8]) -> PathBuf {
    let path = root.join(OsString::from_vec(name.to_vec()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_simulator_starts_whatever_the_locale_the_paths_and_the_variables_for_java() {
    let Some(installation) = simulator::installation() else { return };
    let root = tempfile::tempdir().unwrap();
    let java = installation.java.parent().unwrap().as_os_str();
    let usual = folder(root.path(), b"usual");
    fill(&usual, &installation);
    let expected = run(&[("XDG_CACHE_HOME", usual.as_os_str()), ("PATH", java)]);
    let expected = line(&expected, "PLAYED ").expect("a start");

    let text = OsStr::new;
    let [accent, colon, crab, bytes] =
        ["caché".as_bytes(), b"a:b", "🦀".as_bytes(), b"x\xe9 y"].map(|n| folder(root.path(), n));
    for cache in [&accent, &colon, &crab, &bytes] {
        fill(cache, &installation);
    }
    let home = folder(root.path(), b"home");
    fill(&home.join(".cache"), &installation);
    let [odd_tmp, tmp] = ["t:é🦀".as_bytes(), b"tmp"].map(|name| folder(root.path(), name));
    let cases: [&[(&str, &OsStr)]; 6] = [
        &[("LC_ALL", text("C")), ("XDG_CACHE_HOME", accent.as_os_str())],
        &[
            ("LC_ALL", text("C.UTF-8")),
            ("XDG_CACHE_HOME", crab.as_os_str()),
            ("JAVA_TOOL_OPTIONS", text("-XX:+UseG1GC")),
            ("_JAVA_OPTIONS", text("-XX:hashCode=5")),
        ],
        &[("XDG_CACHE_HOME", colon.as_os_str()), ("TMPDIR", odd_tmp.as_os_str())],
        &[
            ("LC_ALL", text("tr_TR.UTF-8")),
            ("XDG_CACHE_HOME", bytes.as_os_str()),
            ("CLASSPATH", text("/nonexistent.jar")),
            ("JDK_JAVA_OPTIONS", text("--no-such-flag")),
        ],
        &[("XDG_CACHE_HOME", text("relative")), ("HOME", home.as_os_str())],
        &[("HOME", text("")), ("TMPDIR", tmp.as_os_str())],
    ];
    let private = tmp.join(format!("epo-cache-{}", user_of(root.path())));
    fill(&private, &installation);
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    for case in cases {
        let mut variables = case.to_vec();
        variables.push(("PATH", java));
        let output = run(&variables);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(line(&output, "PLAYED ").as_ref(), Some(&expected), "{case:?}: {errors}");
        let named = line(&output, "REPORT ").unwrap_or_default();
        let options = ["_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"];
        let ignored = case.iter().find(|(name, _)| options.contains(name));
        assert!(ignored.is_none_or(|(name, _)| named.contains(name)), "{case:?}: {named}");
    }
    assert!(!Path::new("relative").exists());
}

fn user_of(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&path.metadata().unwrap())
}

#[test]
fn a_temporary_folder_that_cannot_be_used_is_named() {
    let Some(_) = simulator::installation() else { return };
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    let output = run(&[("TMPDIR", missing.as_os_str())]);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("TMPDIR"), "{text}");
    assert!(text.contains(&missing.display().to_string()), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_trainer_leaves_no_process_and_the_next_start_removes_its_folder() {
    let Some(_) = simulator::installation() else { return };
    let root = tempfile::tempdir().unwrap();
    let variables = [("TMPDIR", root.path().as_os_str())];
    let mut trainer =
        command("wait", &variables).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(trainer.stdout.take().unwrap()).lines().map_while(Result::ok);
    let process = lines.find_map(|line| Some(line.split_once("PROCESS ")?.1.to_owned())).unwrap();
    let java = Path::new("/proc").join(&process);
    let folders = || std::fs::read_dir(root.path()).unwrap().count();
    assert!(java.exists() && folders() == 1);
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let runs = || std::fs::read(java.join("cmdline")).is_ok_and(|line| !line.is_empty());
    while runs() {
        assert!(Instant::now() < deadline, "Java still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(folders(), 1, "nobody was left to remove it");
    let output = run(&variables);
    assert!(line(&output, "PLAYED ").is_some());
    assert_eq!(folders(), 0);
}
