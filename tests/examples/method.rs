//! The examples of the method: EPO in one file, and a regulariser of the user's own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use epo::run::{first_difference, read_metrics};

use crate::tools::{command, example};

/// The number after `name` in a line of output.
fn number(line: &str, name: &str) -> f64 {
    let rest = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line:?}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn epo_from_scratch_learns_and_repeats() {
    let (out, err, success) = example("epo_from_scratch", &[]);
    assert!(success, "{err}");
    let steps: Vec<&str> = out.lines().filter(|line| line.starts_with("step ")).collect();
    assert_eq!(steps.len(), 100);
    assert!(number(steps[0], "success") < 0.3, "{out}");
    let last = out.lines().last().unwrap();
    assert!(number(last, "success") > 0.9, "{out}");
    assert_eq!(example("epo_from_scratch", &[]).0, out, "the same seed gives the same run");
}

/// Arguments of a short run in `dir`.
fn run<'a>(dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--smoke", "--set", "checkpoint_every=1", "--out", dir], more].concat()
}

#[test]
fn a_users_regulariser_is_killed_resumed_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["whole", "killed", "epo", "none"].map(|name| folder.path().join(name));
    let [whole, killed, epo, none] = [0, 1, 2, 3].map(|i| paths[i].to_str().unwrap());

    let (_, err, success) = example("custom_regularizer", &run(whole, &[]));
    assert!(success, "{err}");
    let records = read_metrics(whole).unwrap();
    assert!(records.iter().any(|record| record.contains_key("entropy/spring")));

    let mut child = command("custom_regularizer")
        .args(run(killed, &[]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&Path::new(killed).join("checkpoints/step-000001"));
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, err, success) = example("custom_regularizer", &["--resume", killed]);
    assert!(success, "{err}");
    assert_eq!(first_difference(whole, killed).unwrap(), None);

    for (dir, kind) in [(epo, "entropy.method.kind=epo"), (none, "entropy.method.kind=none")] {
        let (_, err, success) = example("custom_regularizer", &run(dir, &["--set", kind]));
        assert!(success, "{err}");
    }
    let page = folder.path().join("compare.html");
    let page = page.to_str().unwrap();
    let (_, err, success) = example("report", &[whole, epo, none, "--out", page]);
    assert!(success, "{err}");
    let html = std::fs::read_to_string(page).unwrap();
    assert!(["whole", "epo", "none"].iter().all(|name| html.contains(name)));
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
