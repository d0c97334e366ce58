//! The example binary as a user meets it: its summary, its folder, resuming, kills, and its refusals.
//!
//! `cargo test` builds the examples as well; to run this file alone, build it first:
//! `cargo build --example sciworld_grpo && cargo test --test sciworld_example`.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "scienceworld", feature = "text", unix))]

mod simulator;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use epo::train::{first_difference, Checkpoint};

/// The binary that cargo puts beside the tests: target/PROFILE/examples.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join("sciworld_grpo");
    assert!(path.is_file(), "{} is not built: cargo build --example sciworld_grpo", path.display());
    let mut command = Command::new(path);
    command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE").stdin(Stdio::null());
    command
}

/// Arguments of a smoke run in `dir`.
fn smoke(dir: &Path, steps: u32) -> Vec<String> {
    let [dir, steps] = [dir.display().to_string(), steps.to_string()];
    ["--smoke", "--seed", "5", "--steps", &steps, "--out", &dir].map(String::from).to_vec()
}

/// Arguments that continue the run in `dir`.
fn resume(dir: &Path, steps: u32) -> Vec<String> {
    let [dir, steps] = [dir.display().to_string(), steps.to_string()];
    ["--resume", &dir, "--steps", &steps].map(String::from).to_vec()
}

/// Runs the example to its end and returns its summary.
fn summary(args: &[String]) -> serde_json::Map<String, serde_json::Value> {
    let output = example().args(args).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{args:?}: {}\n{err}", output.status);
    let last = out.lines().last().unwrap_or_default();
    let json = last.strip_prefix("summary ").unwrap_or_else(|| panic!("the last line is {last:?}"));
    serde_json::from_str(json).unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (out, err)
}

/// Requires the same metrics (times left out) and the same learned bits.
fn assert_same(a: &Path, b: &Path, what: &str) {
    assert_eq!(first_difference(a, b).unwrap(), None, "{what}");
    let [a, b] = [a, b].map(|dir| Checkpoint::latest(dir).unwrap().checkpoint.unwrap());
    assert_eq!(a.step(), b.step(), "{what}");
    for name in ["model.safetensors", "optimizer.safetensors", "entropy.json", "state.json"] {
        let [a, b] = [&a, &b].map(|checkpoint| std::fs::read(checkpoint.file(name).unwrap()).unwrap());
        assert!(a == b, "{what}: {name} differs");
    }
}

#[test]
fn a_smoke_run_repeats_resumes_and_survives_kills() {
    if simulator::installation().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts, killed] = ["whole", "parts", "killed"].map(|name| folder.path().join(name));
    let clock = Instant::now();
    let numbers = summary(&smoke(&whole, 2));
    let duration = clock.elapsed();
    check_summary(&numbers, &whole);
    check_folder(&whole);

    assert_eq!(summary(&smoke(&parts, 1))["steps"], 1);
    assert!(first_difference(&whole, &parts).unwrap().is_some(), "one step and two steps are the same");
    assert_eq!(summary(&resume(&parts, 2))["steps"], 2);
    assert_same(&whole, &parts, "1 step and 1 resumed");

    interrupt_until_done(&killed, duration);
    assert_same(&whole, &killed, "killed and resumed");
}

fn check_summary(numbers: &serde_json::Map<String, serde_json::Value>, dir: &Path) {
    assert_eq!((&numbers["steps"], &numbers["out"]), (&2.into(), &dir.to_str().unwrap().into()));
    let shares = ["success_before", "success_after"].map(|key| (key, 0.0..=1.0));
    let scores = ["score_before", "score_after"].map(|key| (key, 0.0..=100.0));
    let rates = ["seconds", "tokens_per_second", "env_steps_per_second"].map(|key| (key, 1e-3..=1e9));
    for (key, range) in shares.into_iter().chain(scores).chain(rates) {
        let value = numbers[key].as_f64().unwrap_or(f64::NAN);
        assert!(range.contains(&value), "{key} = {}", numbers[key]);
    }
}

fn check_folder(dir: &Path) {
    for name in ["config.toml", "metrics.jsonl", "report.html", "tensorboard/rl", "checkpoints/step-000002"] {
        assert!(dir.join(name).exists(), "{name} is missing");
    }
    let events: Vec<PathBuf> =
        std::fs::read_dir(dir.join("tensorboard/rl")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(events.iter().any(|path| path.to_string_lossy().contains("tfevents")), "{events:?}");
    let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    for phase in ["clone", "eval", "rl"] {
        assert!(metrics.contains(&format!("\"phase\":\"{phase}\"")), "no line of phase {phase}");
    }
    assert!(std::fs::read_to_string(dir.join("report.html")).unwrap().contains("</html>"));
}

/// Kills one run again and again, early and late; then Ctrl-C, which is answered by saving; then lets it end.
fn interrupt_until_done(dir: &Path, duration: Duration) {
    let mut args = smoke(dir, 2);
    let moments = [("KILL", 0.25), ("KILL", 0.9), ("KILL", 0.15), ("KILL", 0.3), ("INT", 0.2)];
    let mut kills = 0;
    for (signal, moment) in moments {
        let mut child = example().args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(moment));
        let simulators = children(child.id());
        let ended = child.try_wait().unwrap().is_some();
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        eprintln!("{signal} after {moment} of a run: {status}, {} simulators", simulators.len());
        kills += u32::from(!status.success());
        assert!(ended || signal == "KILL" || status.success(), "Ctrl-C: {status}");
        assert_gone(&simulators);
        args = resume(dir, 2);
    }
    assert!(kills >= 2, "only {kills} kills came before the end");
    assert_eq!(summary(&args)["steps"], 2);
}

/// The processes whose parent is `parent`; none where there is no /proc.
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| state(pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// State letter and parent of a process.
fn state(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// A simulator must not outlive the trainer that started it.
fn assert_gone(pids: &[u32]) {
    let limit = Instant::now() + Duration::from_secs(20);
    let alive = |pid: &u32| state(*pid).is_some_and(|(letter, _)| letter != "Z");
    while pids.iter().any(alive) {
        assert!(Instant::now() < limit, "of {pids:?} some outlived their parent");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The standard error of a call that must fail.
fn refusal(args: &[&str]) -> String {
    let output = example().args(args).output().unwrap();
    let (out, err) = texts(&output);
    assert!(!output.status.success() && out.is_empty(), "{args:?} was accepted: {out}");
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    assert!(err.lines().count() <= 8, "{args:?}: more than one message: {err}");
    err
}

#[test]
fn help_names_every_option() {
    let output = example().arg("--help").output().unwrap();
    let (out, _) = texts(&output);
    assert!(output.status.success());
    for option in ["--seed", "--steps", "--out", "--resume", "--config", "--smoke", "--entropy"] {
        assert!(out.contains(option), "{option} is missing: {out}");
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    assert!(refusal(&["--frobnicate"]).contains("--frobnicate"));
    assert!(refusal(&["--entropy", "maybe"]).contains("epo-official"));
    assert!(refusal(&["--resume", dir, "--seed", "1"]).contains("--seed"));
    let error = refusal(&["--resume", dir]);
    assert!(error.contains(dir) && error.contains("there is no run in this folder"), "{error}");
    let error = refusal(&["--config", &format!("{dir}/absent.toml")]);
    assert!(error.contains("absent.toml"), "{error}");
}

#[test]
fn bad_settings_are_refused_before_a_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("bad.toml"), folder.path().join("run"));
    for (text, named) in [
        ("lambda = 1.0", "lambda"),
        ("[entropy]\nkapa_low = 1.0", "kapa_low"),
        ("[entropy]\nkappa_low = -1.0", "entropy.kappa_low"),
        ("[entropy]\nkappa_low = 2.0\nkappa_high = 1.0", "entropy.kappa_low"),
        ("[entropy.beta]\nkind = \"official-two-phase\"\ntotal_steps = 0", "entropy.beta.total_steps"),
        ("[rollout]\ngroup = 1", "rollout.group"),
        ("[update]\nepochs = 0", "update.epochs"),
        ("[cloning]\nbatch = 0", "cloning.batch"),
        ("tasks = []", "panel `train`"),
        ("test_variations = 0", "panel `test`"),
        ("tasks = [\"boyl\"]", "boyl"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = refusal(&["--config", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        assert!(error.contains(named), "{text:?}: {error}");
        assert!(!out.exists(), "{text:?} left a folder");
    }
}
