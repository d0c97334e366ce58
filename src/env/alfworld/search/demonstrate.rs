//! The searching expert's games as demonstrations.

use std::sync::Arc;

use crate::env::alfworld::environment::{AlfWorld, Games};
use crate::env::alfworld::search::expert::{Expert, TASK_MARKER};
use crate::env::{DemonstratedTurn, Demonstration, Environment, Task};
use crate::Result;

/// The tasks as the searching expert plays them, and as `shown` shows what it does; those that it does not solve within
/// `most_turns` are left out.
///
/// # Errors
/// A task that does not exist, or whose sentence the expert does not know.
pub fn expert_demonstrations(
    games: &Arc<dyn Games>,
    tasks: &[Task],
    most_turns: usize,
    shown: &mut dyn Environment,
) -> Result<Vec<Demonstration>> {
    let mut environment = AlfWorld::new(games.clone());
    let played = tasks.iter().map(|task| expert_plays(&mut environment, task, most_turns));
    let solved = |played: &Result<Demonstration>| {
        played.as_ref().map_or(true, |d| d.turns.last().is_some_and(|turn| turn.step.success))
    };
    played.filter(solved).map(|demonstration| demonstration?.replay(shown)).collect()
}

fn expert_plays(
    environment: &mut AlfWorld,
    task: &Task,
    most_turns: usize,
) -> Result<Demonstration> {
    let (start, mut turns) = (environment.reset(task)?, Vec::<DemonstratedTurn>::new());
    let mut expert = Expert::new(&format!("{}\n\n{TASK_MARKER}{}", start.observation, start.goal))?;
    while turns.len() < most_turns && turns.last().is_none_or(|turn| !turn.step.done) {
        let seen = turns.last().map_or(&start.observation, |turn| &turn.step.observation);
        let action = expert.next(seen, &environment.admissible()?);
        let step = environment.step(&action)?;
        turns.push(DemonstratedTurn { action, step, imitated: true });
    }
    Ok(Demonstration { task: task.clone(), start, turns })
}
