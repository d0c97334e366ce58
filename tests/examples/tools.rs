//! The examples `replay` and `report` as a user runs them.

use std::path::Path;
use std::process::Command;

use epo::env::{Environment, Task, ToyEnvironment};
use epo::rollout::{End, Trajectory, Turn};
use epo::run::{dump_rollouts, Record, Recorder, ROLLOUTS_FILE};
use serde_json::json;

/// The command that runs an example's binary.
pub(crate) fn command(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build --example {name}", path.display());
    let mut command = Command::new(path);
    command
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .env_remove("ALFWORLD_DATA");
    command
}

/// Standard output and error of an example, and whether it succeeded.
pub(crate) fn example(name: &str, args: &[&str]) -> (String, String, bool) {
    let output = command(name).args(args).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!err.contains("panicked"), "{err}");
    (out, err, output.status.success())
}

fn episode(variation: u32, actions: &[&str]) -> Trajectory {
    let mut env = ToyEnvironment::new();
    let task = Task { name: ToyEnvironment::TASK.into(), variation };
    let start = env.reset(&task).unwrap();
    let mut turns = Vec::new();
    let mut success = false;
    let mut end = End::TurnLimit;
    for action in actions {
        let step = env.step(action).unwrap();
        success = step.success;
        end = if step.done { End::Done } else { End::TurnLimit };
        turns.push(Turn {
            action: (*action).to_owned(),
            observation: step.observation,
            reward: step.reward,
            score: step.score,
            valid: step.valid,
            entropies: vec![0.25],
            ..Turn::default()
        });
    }
    Trajectory { task, group: 0, member: 0, start, turns, success, end }
}

/// Writes a run of two evaluations and one dumped step with two episodes.
fn run(dir: &Path) {
    let mut recorder = Recorder::create(dir).unwrap();
    for (step, action) in [(0, "open red"), (9, "open blue")] {
        let record =
            Record::new("eval", step).with("panel", "toy").with("n", 1u64).with("success", 0.5);
        recorder.record(&record).unwrap();
        let episode = episode(1, &["look", action]);
        let (phase, panel) = ("eval", "toy");
        let line = json!({ "phase": phase, "step": step, "panel": panel, "episode": episode });
        recorder.episode(&line).unwrap();
    }
    dump_rollouts(&mut recorder, 4, &[episode(2, &["dance"]), episode(3, &["open gold"])], &[])
        .unwrap();
}

#[test]
fn episodes_are_filtered_and_printed() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let folder = dir.path().to_str().unwrap();
    let shown = |filter: &[&str]| {
        let (out, err, success) = example("replay", &[&[folder], filter].concat());
        assert!(success, "{err}");
        out.lines().filter(|line| line.starts_with("──")).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = [
        "── eval step 0 toy · find-coin:1 · member 0 · not solved (done)",
        "── eval step 9 toy · find-coin:1 · member 0 · solved (done)",
        "── rl step 4 · find-coin:2 · member 0 · not solved (turn_limit)",
        "── rl step 4 · find-coin:3 · member 0 · solved (done)",
    ];
    assert_eq!(shown(&[]), all);
    assert_eq!(shown(&["--task-set", "toy"]), all[..2]);
    assert_eq!(shown(&["--task-set", "rl", "--failed"]), all[2..3]);
    assert_eq!(shown(&["--solved", "--limit", "1"]), all[1..2]);
    assert_eq!(shown(&["--step", "4", "--task", "coin:3"]), all[3..]);
    let (_, err, success) = example("replay", &[folder, "--step", "5"]);
    assert!(!success && err.contains("no episode matches these options"), "{err}");
}

#[test]
fn recorded_actions_are_replayed_and_differences_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let (folder, file) = (dir.path().to_str().unwrap(), dir.path().join(ROLLOUTS_FILE));
    let (out, err, success) = example("replay", &[folder, "--check", "--env", "toy"]);
    assert!(
        success && out.contains("4 episodes, 6 turns played again, 0 of them differ"),
        "{out}{err}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("you found the coin", "you found a coin")).unwrap();
    let (out, _, success) = example("replay", &[file.to_str().unwrap(), "--check", "--env", "toy"]);
    assert!(!success && out.contains("rollouts.jsonl: line 2: find-coin:3, step 4:"), "{out}");
    let both =
        "turn 0: `observation`\n  recorded \"you found a coin\"\n  replayed \"you found the coin\"";
    assert!(out.contains(both) && out.contains("1 of them differ"), "{out}");
    std::fs::write(&file, text.replacen("\"score\"", "\"scroe\"", 1)).unwrap();
    let (_, err, success) = example("replay", &[file.to_str().unwrap()]);
    assert!(!success && err.contains("rollouts.jsonl: `line 1`") && err.contains("score"), "{err}");
    let (_, err, success) = example("replay", &[folder, "--check"]);
    assert!(!success && err.contains("--env"), "{err}");
}

#[test]
fn gains_are_printed_and_a_run_without_any_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let (out, err, success) = example("report", &[dir.path().to_str().unwrap(), "--gains"]);
    let last = out.lines().last().unwrap_or_default();
    let last = last.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    let expected =
        "toy 0 → 9 1 0.000 → 1.000 +1.000 [+1.000, +1.000] 0.0 → 100.0 +100.0 [+100.0, +100.0]";
    assert!(success && last == expected, "{out}{err}");
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("metrics.jsonl"), "").unwrap();
    let (_, err, success) = example("report", &[empty.path().to_str().unwrap(), "--gains"]);
    assert!(!success && err.contains("no task set that was evaluated twice"), "{err}");
}

#[test]
fn a_picture_of_a_run_is_written() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let svg = dir.path().join("report.svg");
    let [folder, file] = [dir.path(), &svg].map(|path| path.to_str().unwrap());
    let (out, err, success) = example("report", &[folder, "--svg", file]);
    assert!(success && out.contains("report.svg"), "{out}{err}");
    assert!(std::fs::read_to_string(&svg).unwrap().contains(">Success</text>"));
    let (_, err, success) = example("report", &[folder, "--svg", file, "--gains"]);
    assert!(!success && err.contains("--gains"), "{err}");
}
