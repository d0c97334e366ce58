//! Generated games as the source of games for tasks.

use std::sync::Arc;

use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::library::Library;
use crate::env::alfworld::environment::{family, parse_family, Games, Recent};
use crate::env::alfworld::task::{Split, TaskType};
use crate::env::household::generator::{Generator, GeneratorConfig};
use crate::env::Task;
use crate::{Error, Result};

/// Household games by split, task type and number.
///
/// Variation `n` of a task name is game `n` of its split and type.
pub struct Household {
    library: Library,
    recent: Recent,
    generator: Generator,
    kinds: Vec<TaskType>,
}

impl Household {
    /// Creates the games of a configuration.
    ///
    /// # Errors
    /// Returns [`Error::Setting`] if the settings allow no games; see [`Generator::new`].
    pub fn new(config: GeneratorConfig) -> Result<Self> {
        Ok(Self {
            kinds: config.task_types.clone(),
            generator: Generator::new(config)?,
            library: Library::new(),
            recent: Recent::default(),
        })
    }
}

impl Games for Household {
    fn game(&self, task: &Task) -> Result<Arc<Game>> {
        let (split, kind) = parse_family(task)?;
        let place = self.kinds.iter().position(|known| *known == kind).ok_or_else(|| {
            Error::Environment {
                environment: "household",
                what: "task",
                value: task.to_string(),
                reason: "`environment.games.task_types` does not include this task type".into(),
            }
        })?;
        let number = u64::from(task.variation) * self.kinds.len() as u64 + place as u64;
        self.recent.get(task, || {
            let made = self.generator.game(split, number);
            Ok(self.library.parse(&made.name, &made.text)?)
        })
    }

    fn tasks(&self, split: Split, kind: TaskType, most: usize) -> Result<Vec<Task>> {
        Ok((0..most as u32)
            .map(|variation| Task { name: family(split, kind), variation })
            .collect())
    }
}
