//! The same seed gives the same bits: again, after a resume, in any number of environments or
//! threads.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use epo::entropy::EntropyConfig;
use epo::objective::{KlKind, KlLoss};
use epo::rollout::{ActionSpace, RowKind, Trajectory};
use epo::run::first_difference;

use crate::driver::{assert_same_run, environments, resume, same_episode, train, Config};

/// With what a resume could forget: a KL reference, a history per turn, rows of turns.
fn variants() -> [Config; 3] {
    let plain = Config::default();
    let mut with_reference = plain.clone();
    with_reference.update.policy.kl = Some(KlLoss { estimator: KlKind::K3, coef: 0.1 });
    let mut turns = Config { entropy: EntropyConfig::official_code(), ..plain.clone() };
    turns.rollout.rows = RowKind::Turn;
    turns.rollout.actions = ActionSpace::Admissible;
    [plain, with_reference, turns]
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let [a, b, c] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let config = Config::default();
    train(a.path(), &config).unwrap();
    train(b.path(), &config).unwrap();
    assert_same_run(a.path(), b.path());
    train(c.path(), &Config { seed: config.seed + 1, ..config }).unwrap();
    assert!(first_difference(a.path(), c.path()).unwrap().is_some(), "another seed, the same run");
}

#[test]
fn two_steps_are_one_step_and_one_resumed() {
    for config in variants() {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        train(whole.path(), &config).unwrap();
        train(parts.path(), &Config { steps: 1, ..config.clone() }).unwrap();
        assert!(first_difference(whole.path(), parts.path()).unwrap().is_some());
        resume(parts.path(), config.steps).unwrap();
        assert_same_run(whole.path(), parts.path());
    }
}

#[test]
fn a_damaged_checkpoint_costs_the_steps_since_the_one_before() {
    let (whole, damaged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(whole.path(), &Config::default()).unwrap();
    train(damaged.path(), &Config::default()).unwrap();
    let weights = damaged.path().join("checkpoints/step-000002/model.safetensors");
    std::fs::File::options().write(true).open(weights).unwrap().set_len(1000).unwrap();
    resume(damaged.path(), 2).unwrap();
    assert_same_run(whole.path(), damaged.path());
}

#[test]
fn episodes_do_not_depend_on_how_many_are_played_at_once() {
    let config = Config::default();
    let agent = config.new_agent().unwrap();
    let episodes = config.episodes(0);
    let played: Vec<Vec<Trajectory>> = [1, 3, 8]
        .map(|n| config.play_in(&agent, &episodes, &mut environments(n)).unwrap().trajectories)
        .to_vec();
    for other in &played[1..] {
        assert_eq!(other.len(), episodes.len());
        for (alone, together) in played[0].iter().zip(other) {
            assert!(same_episode(alone, together), "{alone:?}\n{together:?}");
        }
    }
    let first = &played[0][0];
    assert!(
        played[0].iter().any(|t| t.turns[0].action_ids != first.turns[0].action_ids),
        "no draw differs"
    );
}

#[test]
fn the_tokens_of_a_prompt_are_counted_once_for_episodes_that_start_together() {
    let config = Config::default();
    let agent = config.new_agent().unwrap();
    let episodes = config.episodes(0);
    let play = |n| config.play_in(&agent, &episodes, &mut environments(n)).unwrap();
    let [alone, together] = [play(1), play(episodes.len())];
    let turns = || alone.trajectories.iter().flat_map(|t| &t.turns);
    let sampled: usize = turns().map(|turn| turn.action_ids.len()).sum();
    assert_eq!([alone.stats.sampled_tokens, together.stats.sampled_tokens], [sampled, sampled]);
    let prompts: usize = turns().map(|turn| turn.prompt_ids.len()).sum();
    assert_eq!(alone.stats.read_tokens, prompts);
    let first: Vec<&[u32]> =
        alone.trajectories.iter().map(|t| t.turns[0].prompt_ids.as_slice()).collect();
    let distinct: BTreeSet<&[u32]> = first.iter().copied().collect();
    assert!(distinct.len() < first.len());
    let shared = first.concat().len() - distinct.iter().map(|ids| ids.len()).sum::<usize>();
    assert_eq!(together.stats.read_tokens, prompts - shared);
}

/// The child of the test below trains in the folder it is given.
const CHILD: &str = "EPO_TEST_TRAINING_CHILD";

#[test]
fn the_number_of_threads_changes_no_bit() {
    if let Some(dir) = std::env::var_os(CHILD) {
        train(Path::new(&dir), &Config { steps: 1, ..Config::default() }).unwrap();
        return;
    }
    let runs = ["1", "2", "5"].map(|threads| {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "repeat::the_number_of_threads_changes_no_bit"])
            .env(CHILD, dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "the run with {threads} threads failed");
        dir
    });
    assert_same_run(runs[0].path(), runs[1].path());
    assert_same_run(runs[0].path(), runs[2].path());
}
