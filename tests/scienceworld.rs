//! The real simulator through the crate's `Environment`: gold paths, masking, latching, isolation, and
//! episodes that survive the death of their process.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "scienceworld")]

mod simulator;

use epo::env::scienceworld::{
    task_names, Installation, ScienceWorldConfig, ScienceWorldPool, SimulatorError,
};
use epo::env::{Environment, Task};
use epo::Error;

fn task(name: &str, variation: u32) -> Task {
    Task { name: name.into(), variation }
}

fn pool(installation: &Installation, count: usize) -> ScienceWorldPool {
    ScienceWorldPool::new(installation, &ScienceWorldConfig::default(), count).unwrap()
}

#[test]
fn every_gold_path_reaches_100() {
    let Some(installation) = simulator::installation() else { return };
    let tasks: Vec<Task> = task_names().map(|name| task(name, 0)).collect();
    let config = ScienceWorldConfig { step_limit: 1000, ..ScienceWorldConfig::default() };
    let mut pool = ScienceWorldPool::new(&installation, &config, simulator::parallelism()).unwrap();
    let demonstrations = pool.demonstrations(&tasks).unwrap();
    assert_eq!(demonstrations.len(), 30);
    for demonstration in &demonstrations {
        let (_, last) = demonstration.turns.last().unwrap();
        assert!(last.success && last.done && last.score == 100.0, "{}: {last:?}", demonstration.task);
        // Some tasks give points for the `look around` of the start already.
        let (_, first) = &demonstration.turns[0];
        let sum: f64 = demonstration.turns.iter().map(|(_, step)| step.reward).sum();
        assert_eq!(first.score - first.reward + sum, 100.0, "{}", demonstration.task);
    }
    assert_eq!(pool.restarts(), 0);
}

#[test]
fn a_failed_episode_stays_failed_and_reset_task_is_masked() {
    let Some(installation) = simulator::installation() else { return };
    let mut pool = pool(&installation, 1);
    let env = &mut pool.environments()[0];
    let start = env.reset(&task("boil", 0)).unwrap();
    assert!(start.goal.starts_with("Your task is to boil water."), "{}", start.goal);
    assert!(start.observation.starts_with("This room is called the hallway."), "{}", start.observation);
    let listed = env.admissible().unwrap();
    assert!(listed.is_sorted() && listed.iter().any(|a| a == "look around"));
    assert!(!listed.iter().any(|a| a == "reset task"));
    assert_eq!(env.admissible().unwrap(), listed, "asking twice asks the simulator once");
    let masked = env.step(" Reset  TASK ").unwrap();
    assert_eq!((masked.reward, masked.score, masked.done, masked.success), (0.0, 0.0, false, false));
    let failed = env.step("focus on air").unwrap();
    assert_eq!((failed.reward, failed.score, failed.done, failed.success), (-100.0, -100.0, true, false));
    for action in ["look around", "reset task"] {
        let error = env.step(action).unwrap_err();
        assert!(matches!(error, Error::Simulator(SimulatorError::Finished { .. })), "{error}");
    }
    env.reset(&task("boil", 1)).unwrap();
    assert_eq!(env.step("look around").unwrap().score, 0.0, "a new episode starts from nothing");
}
