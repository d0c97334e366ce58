use crate::run::checkpoint::*;
use serde_json::{json, Value};

const WEIGHTS: &[u8] = b"0123456789abcdef";

fn write(run: &Path, step: u64) -> Checkpoint {
    let mut writer = CheckpointWriter::new(run, step).unwrap();
    writer.add_file("model.bin", |p| fs::write(p, WEIGHTS).map_err(|e| Error::io(p, e))).unwrap();
    writer
        .add_file("optimiser.bin", |p| fs::write(p, [step as u8; 40]).map_err(|e| Error::io(p, e)))
        .unwrap();
    writer.finish(&json!({ "beta": 1.0 + 1.0 / (3.0 + step as f64), "step": step })).unwrap()
}

fn latest_step(run: &Path) -> Option<u64> {
    Checkpoint::latest(run).unwrap().checkpoint.map(|c| c.step())
}

#[test]
fn state_floats_come_back_bit_for_bit() {
    let run = tempfile::tempdir().unwrap();
    let mut rng = crate::rng::Stream::new(1, crate::rng::Purpose::Init, 0, 0, 0).generator(0);
    let floats: Vec<f64> = std::iter::repeat_with(|| {
        f64::from_bits(rand_chacha::rand_core::RngCore::next_u64(&mut rng))
    })
    .filter(|x| x.is_finite())
    .take(5000)
    .collect();
    let writer = CheckpointWriter::new(run.path(), 0).unwrap();
    let back: Vec<f64> = writer.finish(&floats).unwrap().state().unwrap();
    assert!(back.iter().zip(&floats).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn files_and_state_are_listed_and_others_are_refused() {
    let run = tempfile::tempdir().unwrap();
    let checkpoint = write(run.path(), 7);
    assert_eq!(fs::read(checkpoint.file("model.bin").unwrap()).unwrap(), WEIGHTS);
    let error = checkpoint.file("head.bin").unwrap_err().to_string();
    assert!(error.contains("head.bin") && error.contains("checkpoint.json"), "{error}");
    let error = checkpoint.state::<Vec<f64>>().unwrap_err().to_string();
    assert!(error.contains("state.json"), "{error}");
    let mut writer = CheckpointWriter::new(run.path(), 8).unwrap();
    for name in ["", "a/b", "../a", "checkpoint.json", "state.json", ".hidden"] {
        assert!(writer.add_file(name, |_| Ok(())).is_err(), "{name}");
    }
}

#[test]
fn a_failed_writer_leaves_nothing() {
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1);
    let mut writer = CheckpointWriter::new(run.path(), 2).unwrap();
    writer.add_file("model.bin", |p| Err(Error::file(p, "model", "no"))).unwrap_err();
    drop(writer);
    assert_eq!(fs::read_dir(run.path().join(CHECKPOINTS)).unwrap().count(), 1);
    assert_eq!(latest_step(run.path()), Some(1));
}

#[test]
fn no_checkpoint_is_not_an_error() {
    let run = tempfile::tempdir().unwrap();
    assert_eq!(latest_step(run.path()), None);
    assert_eq!(latest_step(&run.path().join("absent")), None);
}

/// The writer's steps in order; each prefix, the last file cut at every length, is a crash.
#[test]
fn a_crash_at_any_moment_of_writing_leaves_the_previous_one() {
    let run = tempfile::tempdir().unwrap();
    let whole = write(&run.path().join("whole"), 2);
    write(run.path(), 1);
    let partial = run.path().join(CHECKPOINTS).join(".tmp-step-000002");
    fs::create_dir(&partial).unwrap();
    assert_eq!(latest_step(run.path()), Some(1));
    for name in ["model.bin", "optimiser.bin", STATE, MANIFEST] {
        let content = fs::read(whole.dir().join(name)).unwrap();
        for length in 0..=content.len() {
            fs::write(partial.join(name), &content[..length]).unwrap();
            assert_eq!(latest_step(run.path()), Some(1), "{name} cut at {length}");
        }
    }
    fs::rename(&partial, run.path().join(CHECKPOINTS).join("step-000002")).unwrap();
    assert_eq!(latest_step(run.path()), Some(2));
    write(run.path(), 3);
    assert_eq!(latest_step(run.path()), Some(3));
}

#[test]
fn a_crash_while_replacing_a_step_keeps_one_of_the_two() {
    let run = tempfile::tempdir().unwrap();
    let dir = write(run.path(), 2).dir().to_path_buf();
    let replaced = dir.with_file_name(format!("step-000002{REPLACED}"));
    fs::rename(&dir, &replaced).unwrap();
    assert_eq!(latest_step(run.path()), Some(2));
    write(run.path(), 2);
    fs::create_dir_all(&replaced).unwrap();
    write(run.path(), 2);
    assert!(!replaced.exists());
    assert_eq!(latest_step(run.path()), Some(2));
}

#[test]
fn damage_is_named_and_the_previous_one_is_used() {
    for name in ["model.bin", "optimiser.bin", STATE, MANIFEST] {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1);
        let dir = write(run.path(), 2).dir().to_path_buf();
        let content = fs::read(dir.join(name)).unwrap();
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            fs::write(dir.join(name), &damaged).unwrap();
            check_fallback(run.path(), name);
            fs::write(dir.join(name), &content[..at]).unwrap();
            check_fallback(run.path(), name);
        }
        fs::remove_file(dir.join(name)).unwrap();
        check_fallback(run.path(), name);
    }
}

fn check_fallback(run: &Path, name: &str) {
    let found = Checkpoint::latest(run).unwrap();
    assert_eq!(found.checkpoint.unwrap().step(), 1);
    let warning = found.skipped[0].to_string();
    assert!(
        found.skipped.len() == 1 && warning.contains("step-000002") && warning.contains(name),
        "{warning}"
    );
}

#[test]
fn only_damaged_checkpoints_are_an_error_not_a_fresh_start() {
    let run = tempfile::tempdir().unwrap();
    let checkpoint = write(run.path(), 1);
    fs::write(checkpoint.file("model.bin").unwrap(), b"cut").unwrap();
    let error = Checkpoint::latest(run.path()).unwrap_err().to_string();
    assert!(
        error.contains("model.bin") && error.contains("3 bytes, but the manifest says 16"),
        "{error}"
    );
}

#[test]
fn another_format_is_refused_by_number() {
    let run = tempfile::tempdir().unwrap();
    let path = write(run.path(), 1).dir().join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["format"] = json!(2);
    fs::write(&path, manifest.to_string()).unwrap();
    let error = Checkpoint::open(path.parent().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`format`: is 2; this version of epo reads format 1"), "{error}");
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let run = tempfile::tempdir().unwrap();
    for step in 1..=6 {
        write(run.path(), step);
    }
    assert_eq!(prune_checkpoints(run.path(), 2, Some(3)).unwrap(), [1, 2, 4]);
    assert!(prune_checkpoints(run.path(), 2, Some(3)).unwrap().is_empty());
    let steps: Vec<u64> =
        candidates(&run.path().join(CHECKPOINTS)).unwrap().iter().map(|c| c.step).collect();
    assert_eq!(steps, [3, 5, 6]);
    assert!(prune_checkpoints(run.path(), 0, None).is_err());
}

/// A child process writes checkpoints as fast as it can and is killed; whatever it left must open.
#[cfg(unix)]
#[test]
fn a_killed_process_leaves_an_usable_checkpoint() {
    const CHILD: &str = "EPO_TEST_CHECKPOINT_CHILD";
    if let Some(run) = std::env::var_os(CHILD) {
        let run = PathBuf::from(run);
        for step in 2.. {
            write(&run, step);
            prune_checkpoints(&run, 2, None).unwrap();
        }
    }
    let run = tempfile::tempdir().unwrap();
    write(run.path(), 1);
    let mut newest = 1;
    for attempt in 0..8 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "run::checkpoint::tests::a_killed_process_leaves_an_usable_checkpoint",
            ])
            .env(CHILD, run.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30 + 7 * attempt));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = Checkpoint::latest(run.path()).unwrap();
        assert!(found.skipped.is_empty(), "{:?}", found.skipped);
        let checkpoint = found.checkpoint.unwrap();
        assert_eq!(checkpoint.state::<Value>().unwrap()["step"], checkpoint.step());
        newest = newest.max(checkpoint.step());
    }
    assert!(newest > 1, "no child lived long enough to write");
}
