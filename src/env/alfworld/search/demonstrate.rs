//! Demonstrations by the searching expert.

use std::sync::Arc;

use crate::env::alfworld::environment::{AlfWorld, Games};
use crate::env::alfworld::search::expert::{Expert, TASK_MARKER};
use crate::env::{DemonstratedTurn, Demonstration, Demonstrations, Environment, Task, Unsolved};
use crate::Result;

/// The turns after which a task counts as unsolvable for the expert.
const GIVEN_UP: usize = 200;

/// Plays tasks with the searching expert and records them as demonstrations.
///
/// The actions are replayed in `shown`, whose observations the demonstrations hold. Tasks that the
/// expert does not solve within `most_turns` turns are listed with the turns that it needs.
///
/// # Errors
/// Returns an error if a task does not exist or the expert does not understand its sentence.
pub fn expert_demonstrations(
    games: &Arc<dyn Games>,
    tasks: &[Task],
    most_turns: usize,
    shown: &mut dyn Environment,
) -> Result<Demonstrations> {
    let mut environment = AlfWorld::new(games.clone());
    let mut found = Demonstrations::default();
    for task in tasks {
        let played = expert_plays(&mut environment, task, most_turns.max(GIVEN_UP))?;
        let turns = played.turns.len();
        if played.solves() && turns <= most_turns {
            found.solved.push(played.replay(shown)?);
        } else {
            let needs = played.solves().then_some(turns);
            found.unsolved.push(Unsolved { task: task.clone(), needs });
        }
    }
    Ok(found)
}

fn expert_plays(
    environment: &mut AlfWorld,
    task: &Task,
    most_turns: usize,
) -> Result<Demonstration> {
    let start = environment.reset(task)?;
    let mut turns: Vec<DemonstratedTurn> = Vec::new();
    let mut expert = Expert::new(&format!("{}\n\n{TASK_MARKER}{}", start.observation, start.goal))?;
    while turns.len() < most_turns && turns.last().is_none_or(|turn| !turn.step.done) {
        let seen = turns.last().map_or(&start.observation, |turn| &turn.step.observation);
        let action = expert.next(seen, &environment.admissible()?);
        let step = environment.step(&action)?;
        turns.push(DemonstratedTurn { action, step, imitated: true });
    }
    Ok(Demonstration { task: task.clone(), start, turns })
}
