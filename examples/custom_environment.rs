//! An environment of your own, and an agent that learns it: PPO with a critic, through the library's parts.
//!
//! The world is a corridor of rooms; a treasure lies at one end, and a sign in the middle says at which. Everything
//! that a world needs is in `impl Environment`: text in, text out, a score, and when it is over.
//!
//! `cargo run --release --example custom_environment -- runs/corridor`

use std::time::Instant;

use epo::env::{DemonstratedTurn, Demonstration, Environment, Start, Step, Task};
use epo::rollout::ActionSpace;
use epo::train::*;
use epo::{Error, Result};
use serde::{Deserialize, Serialize};

/// Rooms on either side of the middle.
const REACH: i32 = 2;

/// A corridor; even variations have the treasure in the west, odd ones in the east.
#[derive(Default)]
struct Corridor {
    treasure: i32,
    room: i32,
    steps: usize,
    over: bool,
}

impl Environment for Corridor {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        let treasure = if task.variation.is_multiple_of(2) { -REACH } else { REACH };
        *self = Self { treasure, ..Self::default() };
        let side = if treasure < 0 { "west" } else { "east" };
        Ok(Start { goal: "find the treasure".into(), observation: format!("a sign points {side}") })
    }

    fn step(&mut self, action: &str) -> Result<Step> {
        if self.over {
            return Err(Error::setting("action", action, "the episode is over"));
        }
        let moved = match action {
            "go west" => -1,
            "go east" => 1,
            _ => 0,
        };
        (self.room, self.steps) = (self.room + moved, self.steps + 1);
        let success = self.room == self.treasure;
        self.over = self.room.abs() == REACH || self.steps == 8;
        let observation = match (success, self.over) {
            (true, _) => "the treasure!",
            (_, true) => "a wall; it was the other way",
            _ => "an empty room",
        };
        let score = if success { 1.0 } else { 0.0 };
        let observation = observation.into();
        Ok(Step { observation, reward: score, score, done: self.over, success, valid: moved != 0 })
    }

    fn admissible(&mut self) -> Result<Vec<String>> {
        Ok(["go east", "go west"].map(String::from).to_vec())
    }
}

/// `[environment]` of the configuration: this world has nothing to set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/corridor".into());
    let mut config = TrainConfig::small(Benchmark::AlfWorld, Algorithm::Ppo, Nothing {});
    (config.steps, config.environments, config.evaluation.episodes) = (12, 8, 20);
    (config.rollout.tasks, config.rollout.max_turns) = (32, 8);
    config.rollout.actions = ActionSpace::Admissible;
    config.policy = PolicyConfig { vocabulary: 300, hidden_size: 32, layers: 2, context: 160 };
    (config.learning_rate, config.cloning.epochs) = (1e-3, 1);
    config.critic = Some(CriticConfig::default());

    // Only the tokenizer has to know the texts; one pass over two walks is not enough to follow the sign.
    let task = |variation| Task { name: "corridor".into(), variation };
    let walk = |variation| -> Result<Demonstration> {
        let (mut world, mut turns) = (Corridor::default(), Vec::new());
        let start = world.reset(&task(variation))?;
        let action = if world.treasure < 0 { "go west" } else { "go east" };
        while !world.over {
            turns.push(DemonstratedTurn { action: action.into(), step: world.step(action)?, imitated: true });
        }
        Ok(Demonstration { task: task(variation), start, turns })
    };
    let panel = |name: &str| Panel::new(name, vec![task(0), task(1)]);
    let beginning = Beginning {
        train: panel("train")?,
        exams: vec![panel("test")?],
        demonstrations: vec![walk(0)?, walk(1)?],
    };

    let worlds = (0..config.environments).map(|_| Box::new(Corridor::default()) as Box<dyn Environment>);
    let folder = RunFolder::create(dir, config.clone())?;
    let mut run = Trainer::open(folder, worlds.collect(), Some(beginning))?;
    let (gae, _) = config.ppo()?;
    while let Some(step) = run.next_step() {
        let (began, rollouts, settings) =
            (Instant::now(), run.play(step)?, config.settings(step, run.lr_factor()));
        let rewards = config.reward.of(&rollouts.trajectories);
        let returns: Vec<f64> = rewards.iter().map(|of_turns| of_turns.iter().sum()).collect();
        let (agent, critic) = run.actor_critic()?;
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = token_advantages(&rollouts.trajectories, &rewards, &values, &gae)?;
        let advantages = Advantages::Tokens(credit.advantages);
        let mut record = update_policy(agent, &rollouts, &returns, &advantages, &settings)?;
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        run.record(record, &rollouts, began)?;
        run.examine_and_save()?;
    }
    let [before, after] = run.finish()?;
    println!("before: {}\nafter:  {}", before[0], after[0]);
    Ok(())
}
