//! Environments that fail cost what they hold and no more.

use epo::env::{Environment, Start, Step, Task, ToyEnvironment};
use epo::rollout::ActionSpace;
use epo::{Error, Result};

use crate::driver::{environments, same_episode, Config};

/// A toy environment whose given calls fail.
struct Faulty {
    inner: ToyEnvironment,
    calls: usize,
    fails: fn(call: &'static str, index: usize) -> bool,
}

impl Faulty {
    fn boxed(fails: fn(&'static str, usize) -> bool) -> Box<dyn Environment> {
        Box::new(Self { inner: ToyEnvironment::new(), calls: 0, fails })
    }

    fn call(&mut self, what: &'static str) -> Result<()> {
        self.calls += 1;
        if !(self.fails)(what, self.calls) {
            return Ok(());
        }
        let reason = "the machine under the table caught fire".into();
        Err(Error::Environment {
            environment: "faulty",
            what,
            value: self.calls.to_string(),
            reason,
        })
    }
}

impl Environment for Faulty {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        self.call("reset")?;
        self.inner.reset(task)
    }

    fn step(&mut self, action: &str) -> Result<Step> {
        self.call("step")?;
        self.inner.step(action)
    }

    fn admissible(&mut self) -> Result<Vec<String>> {
        self.call("admissible")?;
        self.inner.admissible()
    }
}

#[test]
fn a_failure_costs_its_episode_and_the_step_goes_on() {
    for (fails, panics) in [
        ((|call, index| call == "step" && index == 6) as fn(&'static str, usize) -> bool, false),
        (|call, index| call == "reset" && index == 1, false),
        (|_, index| index == 6 && panic!("as asked"), true),
    ] {
        let config = Config::default();
        let mut agent = config.new_agent().unwrap();
        let episodes = config.episodes(0);
        let undisturbed = config.play(&agent, &episodes).unwrap().trajectories;
        let mut environments = environments(3);
        environments[1] = Faulty::boxed(fails);
        let rollouts = config.play_in(&agent, &episodes, &mut environments).unwrap();
        assert_eq!(
            (rollouts.stats.dropped, rollouts.trajectories.len()),
            (1, 31),
            "panics: {panics}"
        );
        for t in &rollouts.trajectories {
            let same = undisturbed.iter().any(|u| same_episode(u, t));
            assert!(same, "episode {} of {} was disturbed", t.member, t.task);
        }
        let record = config.update(&mut agent, &rollouts, 0).unwrap();
        assert_eq!(record.number("dropped_episodes"), Some(1.0));
    }
}

#[test]
fn an_environment_that_cannot_say_what_is_admissible_loses_its_episode() {
    let mut config = Config::default();
    config.rollout.actions = ActionSpace::Admissible;
    let agent = config.new_agent().unwrap();
    let episodes = config.episodes(0);
    let undisturbed = config.play(&agent, &episodes).unwrap().trajectories;
    let mut environments = environments(3);
    environments[1] = Faulty::boxed(|call, index| call == "admissible" && index == 4);
    let rollouts = config.play_in(&agent, &episodes, &mut environments).unwrap();
    assert_eq!((rollouts.stats.dropped, rollouts.trajectories.len()), (1, 31));
    assert!(rollouts.trajectories.iter().all(|t| undisturbed.iter().any(|u| same_episode(u, t))));
}

#[test]
fn an_environment_that_never_begins_takes_only_a_few_episodes_with_it() {
    let config = Config::default();
    let agent = config.new_agent().unwrap();
    let mut environments = environments(3);
    environments[0] = Faulty::boxed(|call, _| call == "reset");
    let rollouts = config.play_in(&agent, &config.episodes(0), &mut environments).unwrap();
    let (dropped, played) = (rollouts.stats.dropped, rollouts.trajectories.len());
    assert!(
        (1..=3).contains(&dropped) && dropped + played == 32,
        "{dropped} dropped, {played} played"
    );
}

#[test]
fn where_every_environment_fails_its_error_is_the_result() {
    let config = Config::default();
    let agent = config.new_agent().unwrap();
    for fails in [(|_, _| true) as fn(&'static str, usize) -> bool, |call, _| call == "step"] {
        let mut environments: Vec<_> = (0..2).map(|_| Faulty::boxed(fails)).collect();
        let error = config.play_in(&agent, &config.episodes(0), &mut environments).unwrap_err();
        assert!(matches!(&error, Error::Environment { environment: "faulty", .. }), "{error}");
        assert!(error.to_string().contains("caught fire"), "{error}");
    }
    let error = config.play_in(&agent, &config.episodes(0), &mut []).unwrap_err().to_string();
    assert!(error.contains("environments"), "{error}");
}
