//! A deterministic environment with a few short texts, cheap enough for tests that learn.

use crate::env::environment::{Environment, Start, Step, Task};
use crate::{Error, Result};

const COLOURS: [&str; 4] = ["red", "blue", "green", "gold"];
const MAX_STEPS: usize = 6;
const NOT_UNDERSTOOD: &str = "nothing happens";

/// "Find the coin": `look` names the colour of the right box, `open COLOUR` ends the episode.
///
/// The variation chooses the colour. The first `look` is worth 25 points. The right box raises the
/// score to 100; a wrong box fails the episode with a score of 0. Six actions end the episode.
#[derive(Debug, Default)]
pub struct ToyEnvironment {
    colour: usize,
    steps: usize,
    score: f64,
    running: bool,
}

impl ToyEnvironment {
    /// The name of its only task family.
    pub const TASK: &'static str = "find-coin";

    /// Creates an environment with no episode in progress.
    pub fn new() -> Self {
        Self::default()
    }

    fn play(&mut self, action: &str) -> (String, f64, bool) {
        let action = action.trim();
        if action == "look" {
            return (
                format!("the coin is in the {} box", COLOURS[self.colour]),
                self.score.max(25.0),
                false,
            );
        }
        match action.strip_prefix("open ").and_then(|c| COLOURS.iter().position(|k| *k == c)) {
            Some(c) if c == self.colour => ("you found the coin".into(), 100.0, true),
            Some(_) => ("the box is empty".into(), 0.0, true),
            None => (NOT_UNDERSTOOD.into(), self.score, false),
        }
    }
}

impl Environment for ToyEnvironment {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        if task.name != Self::TASK {
            return Err(Error::Environment {
                environment: "toy",
                what: "task",
                value: task.to_string(),
                reason: format!("the only task is {}", Self::TASK),
            });
        }
        *self = Self {
            colour: task.variation as usize % COLOURS.len(),
            running: true,
            ..Self::default()
        };
        Ok(Start { goal: "find the coin".into(), observation: "you see four boxes".into() })
    }

    fn step(&mut self, action: &str) -> Result<Step> {
        if !self.running {
            return Err(Error::Environment {
                environment: "toy",
                what: "action",
                value: action.into(),
                reason: "no episode in progress".into(),
            });
        }
        let before = self.score;
        let (observation, score, ended) = self.play(action);
        self.steps += 1;
        self.score = score;
        let done = ended || self.steps == MAX_STEPS;
        self.running = !done;
        let valid = observation != NOT_UNDERSTOOD;
        Ok(Step {
            observation,
            reward: score - before,
            score,
            done,
            success: score == 100.0,
            valid,
        })
    }

    fn admissible(&mut self) -> Result<Vec<String>> {
        let mut actions: Vec<String> = COLOURS.iter().map(|c| format!("open {c}")).collect();
        actions.push("look".into());
        actions.sort();
        Ok(actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(variation: u32) -> ToyEnvironment {
        let mut env = ToyEnvironment::new();
        env.reset(&Task { name: ToyEnvironment::TASK.into(), variation }).unwrap();
        env
    }

    #[test]
    fn looking_and_opening_the_named_box_wins() {
        let mut env = start(2);
        let seen = env.step("look").unwrap();
        assert_eq!((seen.reward, seen.score, seen.done), (25.0, 25.0, false));
        assert!(seen.observation.contains("green"));
        let end = env.step("open green").unwrap();
        assert!(end.success && end.done && end.reward == 75.0);
        assert!(env.step("look").is_err(), "a finished episode stays finished");
    }

    #[test]
    fn waiting_is_not_success() {
        let mut env = start(0);
        env.step("look").unwrap();
        let last = (0..5).map(|_| env.step("wait").unwrap()).last().unwrap();
        assert!(last.done && !last.success && !last.valid && last.score == 25.0);
    }
}
