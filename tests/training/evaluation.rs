//! Evaluations: sampled and greedy, recorded task by task, and their episodes
//! play again.

use epo::env::ToyEnvironment;
use epo::evaluation::{read_outcomes, task_set_gains};
use epo::run::{read_episodes, read_metrics, replay_episode, Recorder, EPISODES_FILE};
use epo::settings::Count;
use epo::train::{evaluate_all, EvaluationConfig};

use crate::driver::{environments, panel, Config};

#[test]
fn task_sets_are_evaluated_sampled_and_greedily_under_their_own_names() {
    let config = Config::default();
    let (agent, dir) = (config.new_agent().unwrap(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::create(dir.path()).unwrap();
    let evaluation = EvaluationConfig {
        episodes: Count::literal(3),
        greedy: true,
        ..EvaluationConfig::default()
    };
    let mut evaluate = |step| {
        let settings = (&evaluation, &config.rollout);
        let environments = &mut environments(2);
        evaluate_all(&agent, environments, &[&panel()], settings, (7, step), &mut recorder).unwrap()
    };
    let outcomes = evaluate(0);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(
        (outcomes[0].success.n, evaluate(5)),
        (12, outcomes),
        "the same draws, the same outcome"
    );

    let lines = read_metrics(dir.path()).unwrap();
    let of: Vec<_> = lines
        .iter()
        .map(|l| (l["panel"].as_str().unwrap(), l["temperature"].as_f64().unwrap()))
        .collect();
    assert_eq!(of, [("toy", 1.0), ("toy-greedy", 0.0), ("toy", 1.0), ("toy-greedy", 0.0)]);
    assert_eq!((&lines[0]["n"], &lines[1]["n"]), (&12.into(), &4.into()));
    let found = read_outcomes(dir.path()).unwrap();
    let sizes: Vec<_> =
        found.iter().map(|e| (e.task_set.as_str(), e.step, e.tasks.len())).collect();
    assert_eq!(sizes, [("toy", 0, 4), ("toy-greedy", 0, 4), ("toy", 5, 4), ("toy-greedy", 5, 4)]);
    assert!(found[0].tasks.values().all(|members| members.len() == 3));
    let gains = task_set_gains(&[("run".into(), found)]);
    assert!(gains.iter().all(|g| (g.success.gain.mean, g.success.gain.n) == (0.0, 4)), "{gains:?}");

    let mut turns = 0;
    read_episodes(dir.path().join(EPISODES_FILE), |_, line| {
        turns += line.episode.turns.len();
        assert_eq!(replay_episode(&mut ToyEnvironment::new(), &line.episode, false)?, []);
        Ok(())
    })
    .unwrap();
    assert!(turns > 32, "{turns} turns");
}
