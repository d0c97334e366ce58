use crate::run::record::first_difference;
use crate::run::recorder::*;
use crate::run::rollout_log::ROLLOUTS_FILE;

fn step(step: u64, time: f64) -> Record {
    Record::new("rl", step)
        .with("entropy", 1.0 / (step as f64 + 3.0))
        .with("entropy_turn", vec![0.5, step as f64])
        .with("time/seconds", time)
}

fn play(recorder: &mut Recorder, steps: std::ops::Range<u64>, time: f64) {
    for k in steps {
        recorder.record(&step(k, time * k as f64)).unwrap();
        recorder.episode(&serde_json::json!({ "step": k })).unwrap();
        for i in 0..2 {
            recorder.rollout(&serde_json::json!({ "step": k, "member": i })).unwrap();
        }
    }
}

fn lines(run: &Path, file: &str) -> Vec<String> {
    std::fs::read_to_string(run.join(file)).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn lines_have_sorted_keys_and_every_kind_of_value() {
    let record = Record::new("eval", 2)
        .with("score", f32::INFINITY)
        .with("beta", f64::NEG_INFINITY)
        .with("n", 12usize)
        .with("panel", "unseen \"é\"")
        .with("aborted", false)
        .with("kl", None::<f64>)
        .with("step", 9usize);
    let json = concat!(
        r#"{"aborted":false,"beta":"-inf","kl":null,"n":12,"panel":"unseen \"é\"","#,
        r#""phase":"eval","score":"inf","step":2}"#
    );
    assert_eq!(record.to_json(), json);
    assert_eq!(record.number("n"), Some(12.0));
    assert_eq!(record.folder(), "eval/unseen____");
}

#[test]
fn a_record_is_in_the_file_when_record_returns() {
    let run = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(run.path()).unwrap();
    for k in 0..3 {
        recorder.record(&step(k, 0.0)).unwrap();
        assert_eq!(lines(run.path(), METRICS_FILE).len() as u64, k + 1);
    }
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let run = tempfile::tempdir().unwrap();
    Recorder::create(run.path()).unwrap();
    let mut recorder = Recorder::create(run.path()).unwrap();
    play(&mut recorder, 0..1, 1.0);
    let error = Recorder::create(run.path()).unwrap_err().to_string();
    assert!(error.contains(METRICS_FILE) && error.contains("already holds a run"), "{error}");
    assert_eq!(read_metrics(run.path()).unwrap().len(), 1);
}

/// A crash may cut the file at any byte after what the checkpoint counted.
#[test]
fn killed_at_any_byte_and_resumed_equals_uninterrupted() {
    let whole = tempfile::tempdir().unwrap();
    play(&mut Recorder::create(whole.path()).unwrap(), 0..6, 1.0);
    let run = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(run.path()).unwrap();
    play(&mut recorder, 0..3, 2.0);
    let position = recorder.sync().unwrap();
    assert_eq!(position, Position { metrics: 3, episodes: 3, rollouts: 6 });
    let saved = std::fs::read(run.path().join(METRICS_FILE)).unwrap();
    play(&mut recorder, 3..5, 2.0);
    let all = std::fs::read(run.path().join(METRICS_FILE)).unwrap();
    for end in saved.len()..=all.len() {
        std::fs::write(run.path().join(METRICS_FILE), &all[..end]).unwrap();
        let mut recorder = Recorder::resume(run.path(), position).unwrap();
        play(&mut recorder, 3..6, 3.0);
        assert_eq!(first_difference(whole.path(), run.path()).unwrap(), None, "cut at {end}");
        for file in [EPISODES_FILE, ROLLOUTS_FILE] {
            assert_eq!(lines(run.path(), file), lines(whole.path(), file), "{file}");
        }
    }
}

#[test]
fn a_file_shorter_than_the_checkpoint_counted_is_an_error() {
    let run = tempfile::tempdir().unwrap();
    play(&mut Recorder::create(run.path()).unwrap(), 0..3, 1.0);
    let error = Recorder::resume(run.path(), Position { metrics: 4, episodes: 3, rollouts: 6 })
        .unwrap_err()
        .to_string();
    assert!(error.contains(METRICS_FILE) && error.contains("fewer than the 4"), "{error}");
    assert_eq!(lines(run.path(), METRICS_FILE).len(), 3, "nothing may be lost");
}

#[test]
fn every_bit_that_differs_is_found_and_times_are_ignored() {
    let a = tempfile::tempdir().unwrap();
    let b = tempfile::tempdir().unwrap();
    play(&mut Recorder::create(a.path()).unwrap(), 0..3, 1.0);
    play(&mut Recorder::create(b.path()).unwrap(), 0..2, 5.0);
    let difference = |a, b| first_difference(a, b).unwrap().unwrap();
    assert_eq!(difference(a.path(), b.path()), "3 lines and 2 lines");
    let mut recorder =
        Recorder::resume(b.path(), Position { metrics: 2, episodes: 2, rollouts: 4 }).unwrap();
    let nudged = f64::from_bits((0.2f64).to_bits() + 1);
    recorder.record(&step(2, 5.0).with("entropy", nudged)).unwrap();
    assert_eq!(difference(a.path(), b.path()), "line 3: `entropy` is 0.2 and 0.20000000000000004");
    let mut recorder =
        Recorder::resume(b.path(), Position { metrics: 2, episodes: 2, rollouts: 4 }).unwrap();
    recorder.record(&step(2, 5.0).with("extra", true)).unwrap();
    assert_eq!(difference(a.path(), b.path()), "line 3: `extra` is absent and true");
}

#[test]
fn a_cut_last_line_is_left_out_and_a_broken_one_is_named() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join(METRICS_FILE);
    std::fs::write(&path, "{\"step\":0}\n{\"step\":1}\n{\"st").unwrap();
    assert_eq!(read_metrics(run.path()).unwrap().len(), 2);
    std::fs::write(&path, "{\"step\":0}\n{\"st\n").unwrap();
    let error = read_metrics(run.path()).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl") && error.contains("line 2"), "{error}");
    let error = read_metrics(run.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn a_run_without_dumped_episodes_has_no_file_for_them() {
    let run = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(run.path()).unwrap();
    recorder.record(&step(0, 0.0)).unwrap();
    let position = Position { metrics: 1, episodes: 0, rollouts: 0 };
    assert_eq!(recorder.sync().unwrap(), position);
    assert!(!run.path().join(ROLLOUTS_FILE).exists());
    // Episodes dumped after the checkpoint are dropped with the steps they belong to.
    recorder.rollout(&1).unwrap();
    Recorder::resume(run.path(), position).unwrap();
    assert!(lines(run.path(), ROLLOUTS_FILE).is_empty());
}

const READER: &str = r#"
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
for folder in sys.argv[1:]:
    reader = EventAccumulator(folder, size_guidance={"scalars": 0})
    reader.Reload()
    for tag in sorted(reader.Tags()["scalars"]):
        for event in reader.Scalars(tag):
            print(tag, event.step, event.value)
"#;

/// `EPO_TENSORBOARD_PYTHON` names a Python with TensorBoard, by default `python3`. Without
/// TensorBoard nothing is checked.
#[test]
fn official_tensorboard_reads_a_resumed_run() {
    let run = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(run.path()).unwrap();
    recorder.record(&Record::new("clone", 9).with("loss", 4.0)).unwrap();
    let scalar = |k: u64, x: f64| Record::new("rl", k).with("entropy", x).with("turn", [x, -x]);
    for k in 0..4 {
        recorder.record(&scalar(k, 100.0)).unwrap();
    }
    let position = Position { metrics: 3, ..recorder.sync().unwrap() };
    let mut recorder = Recorder::resume(run.path(), position).unwrap();
    for k in 2..4 {
        recorder.record(&scalar(k, 0.5)).unwrap();
    }
    recorder.record(&Record::new("eval", 0).with("panel", "unseen").with("success", 0.25)).unwrap();

    let python = std::env::var("EPO_TENSORBOARD_PYTHON").unwrap_or("python3".into());
    let folders = ["clone", "rl", "eval/unseen"].map(|f| run.path().join("tensorboard").join(f));
    let output = std::process::Command::new(&python).arg("-c").arg(READER).args(folders).output();
    let Some(output) = output.ok().filter(|o| o.status.success()) else {
        assert!(
            std::env::var("EPO_TENSORBOARD_PYTHON").is_err(),
            "{python} cannot read the events"
        );
        eprintln!("{python} has no TensorBoard: not checked");
        return;
    };
    let expected = "loss 9 4.0\n\
        entropy 0 100.0\nentropy 1 100.0\nentropy 2 0.5\nentropy 3 0.5\n\
        turn/00 0 100.0\nturn/00 1 100.0\nturn/00 2 0.5\nturn/00 3 0.5\n\
        turn/01 0 -100.0\nturn/01 1 -100.0\nturn/01 2 -0.5\nturn/01 3 -0.5\n\
        success 0 0.25\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
