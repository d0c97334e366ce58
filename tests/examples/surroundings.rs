//! What a run's surroundings may do to it: closed and full outputs, odd names, a second process.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::tools::command;

/// A run of about a second.
fn quickstart(out: &Path) -> Command {
    let mut command = command("quickstart");
    command.args(["--smoke", "--out"]).arg(out);
    command
}

fn resume(dir: &Path) -> Command {
    let mut command = command("quickstart");
    command.arg("--resume").arg(dir);
    command
}

/// Standard output and error of a command that must not panic, and whether it succeeded.
fn ended(output: Output) -> (String, String, bool) {
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(!err.contains("panicked"), "{err}");
    (out, err, output.status.success())
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_closed_output_ends_a_tool_quietly_and_a_full_one_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (_, err, ok) = ended(quickstart(&run).output().unwrap());
    assert!(ok, "{err}");
    for (tool, args) in [("replay", vec![]), ("report", vec!["--gains"])] {
        let mut piped = command(tool);
        piped.arg(&run).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        drop(child.stdout.take());
        let (_, err, ok) = ended(child.wait_with_output().unwrap());
        assert!(ok && err.is_empty(), "{tool}: {err}");
        let (_, err, ok) = ended(piped.stdout(full()).output().unwrap());
        assert!(!ok && err.contains("standard output"), "{tool}: {err}");
    }
}

#[test]
fn a_run_goes_on_if_its_messages_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (out, _, ok) = ended(quickstart(&run).stderr(full()).output().unwrap());
    assert!(ok && out.contains("summary {"), "{out}");
    let run = dir.path().join("closed");
    let mut child = quickstart(&run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(run.join("report.html").is_file());
}

#[test]
fn a_folder_whose_name_is_not_utf8_holds_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join(OsStr::from_bytes(b"run\xe9\xff"));
    let (out, err, ok) = ended(quickstart(&run).output().unwrap());
    assert!(ok, "{err}");
    let summary = out.lines().last().unwrap().strip_prefix("summary ").unwrap();
    serde_json::from_str::<serde_json::Value>(summary).unwrap();
    for tool in ["report", "replay"] {
        let (_, err, ok) = ended(command(tool).arg(&run).output().unwrap());
        assert!(ok, "{tool}: {err}");
    }
    let (_, err, ok) = ended(resume(&run).args(["--steps", "4"]).output().unwrap());
    assert!(ok && err.contains("step 4/4"), "a resumed run counts all steps: {err}");
    assert!(!err.contains("step 3/1") && err.contains("does not follow steps = 4"), "{err}");
}

#[test]
fn a_second_process_is_refused_until_the_first_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut long = command("quickstart");
    long.args(["--steps", "100000", "--out"]).arg(&run);
    let mut first = long.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !run.join("checkpoints/step-000000").is_dir() {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint");
        assert!(first.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let holder = format!("another process (id {})", first.id());
    for mut second in [resume(&run), quickstart(&run)] {
        let (_, err, ok) = ended(second.output().unwrap());
        assert!(!ok && err.contains(&holder), "{err}");
    }
    first.kill().unwrap();
    let (_, err, ok) = ended(resume(&run).args(["--steps", "1"]).output().unwrap());
    assert!(ok, "{err}");
    first.wait().unwrap();
}

/// Standard error and exit code of a program that is asked for stack traces.
fn traced(mut command: Command) -> (String, Option<i32>) {
    let output = command.env("RUST_BACKTRACE", "full").output().unwrap();
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn what_was_given_wrongly_is_one_message_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let model = model.to_str().unwrap();
    let absent = dir.path().join("absent");
    let absent = absent.to_str().unwrap();
    let cases: [(&str, &[&str], &str); 10] = [
        ("quickstart", &["--set", "rollout.tasks=0"], "setting `rollout.tasks` = 0: must be"),
        ("quickstart", &["--config", absent], "absent: No such file"),
        ("quickstart", &["--config", model], "model: Is a directory"),
        ("quickstart", &["--out", "/proc/absent"], "/proc/absent"),
        ("quickstart", &["--resume", absent, "--seed", "1"], "--resume takes only"),
        ("alfworld_grpo", &["--model", absent], "setting `model.source`"),
        ("alfworld_grpo", &["--model", "smollm9"], "smollm2-135m-instruct"),
        ("alfworld_grpo", &["--model", model], "config.json: `model_type`: gpt2"),
        ("replay", &[absent], "absent"),
        ("report", &[absent], "absent"),
    ];
    for (name, args, said) in cases {
        let mut wrong = command(name);
        wrong.args(args).current_dir(dir.path());
        let (err, code) = traced(wrong);
        assert!(err.starts_with("Error: ") && err.contains(said), "{name} {args:?}: {err}");
        assert_eq!((err.lines().count(), code), (1, Some(2)), "{name} {args:?}: {err}");
    }
    let mut wrong = command("quickstart");
    wrong.args(["--set", "rollout.tasks=0"]);
    let error = "Error: setting `rollout.tasks` = 0: must be at least 1, got 0";
    assert_eq!(traced(wrong).0.trim(), error);
}

#[test]
fn what_fails_otherwise_is_one_message_and_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = quickstart(&dir.path().join("run"));
    child.stdout(full());
    let (err, code) = traced(child);
    let error = err.lines().find(|line| line.starts_with("Error: ")).unwrap_or(&err);
    assert!(error.contains("standard output") && !err.contains("stack backtrace"), "{err}");
    assert_eq!(code, Some(1));
}
