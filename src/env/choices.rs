//! Observations that list the admissible actions.

use crate::env::environment::{Environment, Start, Step, Task};
use crate::Result;

/// Appends the admissible actions to each observation, in one line: `Actions: go to desk 1; look`.
///
/// The line is long: `rollout.max_observation_tokens` and the policy's context must leave room for
/// it.
pub struct ShowAdmissible<E>(pub E);

/// Boxes `environment`, wrapped in [`ShowAdmissible`] if `show` is true.
pub fn show_admissible<E: Environment + 'static>(
    environment: E,
    show: bool,
) -> Box<dyn Environment> {
    if show {
        Box::new(ShowAdmissible(environment))
    } else {
        Box::new(environment)
    }
}

impl<E: Environment> ShowAdmissible<E> {
    fn show(&mut self, observation: &mut String) -> Result<()> {
        let actions = self.0.admissible()?.join("; ");
        *observation = format!("{}\nActions: {actions}", observation.trim_end());
        Ok(())
    }
}

impl<E: Environment> Environment for ShowAdmissible<E> {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        let mut start = self.0.reset(task)?;
        self.show(&mut start.observation)?;
        Ok(start)
    }

    fn step(&mut self, action: &str) -> Result<Step> {
        let mut step = self.0.step(action)?;
        if !step.done {
            self.show(&mut step.observation)?;
        }
        Ok(step)
    }

    fn admissible(&mut self) -> Result<Vec<String>> {
        self.0.admissible()
    }

    fn waits(&self) -> bool {
        self.0.waits()
    }

    fn restarts(&self) -> u64 {
        self.0.restarts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::demonstration::{DemonstratedTurn, Demonstration};
    use crate::env::toy::ToyEnvironment;

    #[test]
    fn observations_end_with_the_admissible_actions_until_the_episode_is_over() {
        let mut plain = ToyEnvironment::default();
        let task = Task { name: ToyEnvironment::TASK.into(), variation: 1 };
        let start = plain.reset(&task).unwrap();
        let first = plain.admissible().unwrap();
        let step = plain.step(&first[0]).unwrap();
        let turns = vec![DemonstratedTurn { action: first[0].clone(), step, imitated: true }];
        let played = Demonstration { task, start, turns };

        let mut shown = ShowAdmissible(ToyEnvironment::default());
        let again = played.replay(&mut shown).unwrap();
        let expected =
            format!("{}\nActions: {}", played.start.observation.trim_end(), first.join("; "));
        assert_eq!(again.start.observation, expected);
        let got = &again.turns[0];
        let plain = &played.turns[0];
        assert_eq!(got.step.observation.contains("\nActions: "), !plain.step.done);
        assert!(got.step.observation.starts_with(plain.step.observation.trim_end()));
        assert_eq!(
            (&got.action, got.imitated, got.step.reward),
            (&plain.action, true, plain.step.reward)
        );
    }
}
