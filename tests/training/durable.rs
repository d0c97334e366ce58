//! What killed processes, full and read-only disks do to a run: it loses the steps since its last
//! checkpoint.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use epo::rng::{Purpose, Stream};
use epo::rollout::RolloutConfig;
use epo::run::{Checkpoint, RunFolder};
use epo::settings::Count;
use epo::train::learn::CloningConfig;
use epo::Result;

use crate::driver::{assert_same_run, begin, resume, train, Config};

/// What a child process is to train: a folder and a number of steps.
const RUN: &str = "EPO_TEST_DURABLE_RUN";
const STEPS: &str = "EPO_TEST_DURABLE_STEPS";
/// Where a child writes the error it ended with.
const REPORT: &str = "EPO_TEST_DURABLE_REPORT";
const KILLS: usize = 50;

/// Three steps in a fraction of a second.
fn config() -> Config {
    let base = Config::default();
    Config {
        steps: 3,
        cloning: CloningConfig { epochs: Count::literal(2), ..base.cloning },
        rollout: RolloutConfig {
            tasks: Count::literal(2),
            group: Count::literal(2),
            ..base.rollout
        },
        ..base
    }
}

/// What a trainer's `main` does: a new run, or the one in the folder continued.
fn train_or_resume(dir: &Path, steps: u64) -> Result<()> {
    let config = Config { steps, ..config() };
    if !dir.join("config.toml").exists() {
        return train(dir, &config).map(drop);
    }
    let folder = RunFolder::resume(dir, Config::resumed(steps))?;
    if folder.checkpoint.is_none() {
        return begin(&folder).map(drop);
    }
    drop(folder); // releases its lock
    resume(dir, steps).map(drop)
}

/// This test binary as a child that trains; `wrap` is a shell script that ends in `exec "$@"`.
fn child(wrap: &str, dir: &Path, steps: u64, report: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", wrap, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "durable::a_child_trains"]);
    command.env(RUN, dir).env(STEPS, steps.to_string()).env(REPORT, report);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// No test by itself: what the children of the tests below run.
#[test]
fn a_child_trains() {
    let Some(dir) = std::env::var_os(RUN).map(PathBuf::from) else { return };
    let steps = std::env::var(STEPS).unwrap().parse().unwrap();
    let Err(error) = train_or_resume(&dir, steps) else { return };
    let found = Checkpoint::latest(&dir).unwrap();
    let (last, skipped) = (found.checkpoint.map(|c| c.step()), found.skipped.len());
    let report = format!("{error}\nlast checkpoint {last:?}, {skipped} skipped\n");
    std::fs::write(std::env::var_os(REPORT).unwrap(), report).unwrap();
    std::process::exit(1);
}

#[test]
fn killed_at_random_moments_a_run_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, report) = (folder.path().join("whole"), folder.path().join("report"));
    let start = |dir: &Path| child("exec \"$@\"", dir, config().steps, &report).spawn().unwrap();
    let clock = Instant::now();
    assert!(start(&whole).wait().unwrap().success());
    let duration = clock.elapsed();
    let moments = Stream::new(1, Purpose::Tasks, 0, 0, 0);
    let (mut kills, mut runs, mut draws) = (0, 0, 0);
    while kills < KILLS {
        let dir = folder.path().join(format!("run{runs}"));
        runs += 1;
        loop {
            let mut running = start(&dir);
            draws += 1;
            std::thread::sleep(duration.mul_f64(moments.uniform(0, draws)));
            running.kill().unwrap();
            if running.wait().unwrap().success() {
                break;
            }
            kills += 1;
            assert!(!report.exists(), "{}", std::fs::read_to_string(&report).unwrap());
        }
        assert_same_run(&whole, &dir);
        std::fs::remove_dir_all(dir).unwrap();
    }
    eprintln!("{kills} kills in {runs} runs of {duration:?}");
    assert!(draws < 10_000 && duration < Duration::from_secs(60));
}

/// Two runs of a folder: one that nothing happened to, and one after its first step.
fn whole_and_begun(folder: &Path) -> [PathBuf; 2] {
    let [whole, begun] = ["whole", "begun"].map(|name| folder.join(name));
    train(&whole, &config()).unwrap();
    train(&begun, &Config { steps: 1, ..config() }).unwrap();
    [whole, begun]
}

/// Runs a child that must end with an error which names `files`, with the checkpoint of step 1
/// untouched.
fn must_fail(mut child: Command, report: &Path, files: &[&str]) {
    let status = child.status().unwrap();
    let text = std::fs::read_to_string(report).unwrap_or_default();
    assert!(
        !status.success() && text.contains("last checkpoint Some(1), 0 skipped"),
        "{status}: {text}"
    );
    assert!(files.iter().any(|file| text.lines().next().unwrap().contains(file)), "{text}");
}

#[test]
fn a_file_that_cannot_grow_is_named_and_the_last_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let ([whole, begun], report) = (whole_and_begun(folder.path()), folder.path().join("report"));
    let weights =
        std::fs::metadata(begun.join("checkpoints/step-000001/model.safetensors")).unwrap().len();
    // Half of the weights fit, in blocks of 512 bytes; a write beyond is an error and not a signal.
    let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", weights / 2 / 512);
    must_fail(child(&limited, &begun, 3, &report), &report, &["safetensors", "jsonl"]);
    resume(&begun, 3).unwrap();
    assert_same_run(&whole, &begun);
}

/// Whether this process may mount what only its children see.
fn may_mount() -> bool {
    let probe = "mount -t tmpfs -o size=64k tmpfs /tmp";
    let status =
        Command::new("unshare").args(["-m", "sh", "-c", probe]).stderr(Stdio::null()).status();
    let may = status.is_ok_and(|status| status.success());
    if !may {
        eprintln!("not checked: this user may not mount");
    }
    may
}

#[test]
fn a_full_disk_is_named_and_the_last_checkpoint_stays() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ([whole, begun], report) = (whole_and_begun(folder.path()), folder.path().join("report"));
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let shell = "size=$(($(du -sk BEGUN | cut -f1) + ROOM)); \
                 mount -t tmpfs -o size=${size}k tmpfs DISK && \
                 cp -r BEGUN DISK/run && exec \"$@\"";
    // Room for next to nothing, for a part of a checkpoint, for most of one.
    for room in ["0", "64", "300"] {
        let text = shell.replace("BEGUN", &begun.display().to_string());
        let text = text.replace("DISK", &disk.display().to_string()).replace("ROOM", room);
        let outer =
            child("exec unshare -m sh -c \"$SCRIPT\" sh \"$@\"", &disk.join("run"), 3, &report);
        let mut outer = outer;
        outer.env("SCRIPT", text);
        must_fail(outer, &report, &["/disk/run/"]);
        std::fs::remove_file(&report).unwrap();
    }
    resume(&begun, 3).unwrap();
    assert_same_run(&whole, &begun);
}

#[test]
fn a_read_only_folder_is_named_and_left_as_it_is() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ([whole, begun], report) = (whole_and_begun(folder.path()), folder.path().join("report"));
    let shell = "mount --bind RUN RUN && mount -o remount,ro,bind RUN && exec \"$@\"";
    let mut outer = child("exec unshare -m sh -c \"$SCRIPT\" sh \"$@\"", &begun, 3, &report);
    outer.env("SCRIPT", shell.replace("RUN", &begun.display().to_string()));
    must_fail(outer, &report, &["/begun/"]);
    resume(&begun, 3).unwrap();
    assert_same_run(&whole, &begun);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_copied_run_goes_on_without_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, begun] = whole_and_begun(folder.path());
    let copied = folder.path().join("elsewhere");
    copy(&begun, &copied);
    std::fs::remove_dir_all(begun).unwrap();
    resume(&copied, 3).unwrap();
    assert_same_run(&whole, &copied);
}
