//! ALFWorld's tasks.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::env::alfworld::environment::{AlfWorld, DataFolder, Games};
use crate::env::alfworld::search::demonstrate::expert_demonstrations;
use crate::env::alfworld::task::{Split, TaskType};
use crate::env::choices::show_admissible;
use crate::env::household::games::Household;
use crate::env::household::generator::GeneratorConfig;
use crate::env::Environment;
use crate::evaluation::task_set::TaskSet;
use crate::train::config::presets::Preset;
use crate::train::config::unused::{TaskSettings, Unused};
use crate::train::config::TrainConfig;
use crate::train::trainer::Setup;
use crate::Result;

/// Which of ALFWorld's text games a run plays, and how they are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlfWorldTasks {
    /// The folder of ALFWorld's games; none: households made here.
    pub data: Option<PathBuf>,
    /// Observations end with the admissible commands; their tokens have to fit into the context.
    pub show_admissible: bool,
    /// The kinds of tasks.
    pub tasks: Vec<TaskType>,
    /// Games of each kind to learn on.
    pub train_games: usize,
    /// Games of each kind to be evaluated on, in rooms seen and unseen.
    pub test_games: usize,
    /// How households are made, where `data` names no folder.
    pub household: GeneratorConfig,
}

impl Default for AlfWorldTasks {
    fn default() -> Self {
        Self {
            data: None,
            show_admissible: false,
            tasks: TaskType::ALL.to_vec(),
            train_games: 4000,
            test_games: 16,
            household: GeneratorConfig {
                receptacles: (4, 10),
                items: (8, 10),
                ..Default::default()
            },
        }
    }
}

impl AlfWorldTasks {
    /// The tasks of a preset: the paper's runs show the admissible commands, and are evaluated here on both splits whole.
    pub fn of(preset: Preset) -> Self {
        match preset {
            Preset::Small => Self::default(),
            Preset::Paper | Preset::Official => {
                Self { show_admissible: true, test_games: 1000, ..Self::default() }
            }
        }
    }

    /// Few of them, for a run of less than two minutes.
    #[must_use]
    pub fn smoke(self) -> Self {
        Self { train_games: 8, test_games: 2, ..self }
    }

    /// With the folder that the variable `ALFWORLD_DATA` names, where it does and `data` is not set.
    #[must_use]
    pub fn found(mut self) -> Self {
        let data = std::env::var_os("ALFWORLD_DATA").filter(|folder| !folder.is_empty());
        self.data = self.data.or(data.map(PathBuf::from));
        self
    }

    /// The games.
    ///
    /// # Errors
    /// A folder that does not hold ALFWorld's games, or households that cannot be made.
    pub fn games(&self) -> Result<Arc<dyn Games>> {
        Ok(match &self.data {
            Some(folder) => Arc::new(DataFolder::open(folder)?),
            None => Arc::new(Household::new(self.household.clone())?),
        })
    }

    /// The games to learn on, and to be evaluated on in seen and in unseen rooms.
    ///
    /// # Errors
    /// No kind of task, or a split without games of it.
    pub fn panels(&self, games: &dyn Games) -> Result<[TaskSet; 3]> {
        let of = |split, most| self.panel(games, split, most);
        let [seen, unseen] =
            [Split::ValidSeen, Split::ValidUnseen].map(|split| of(split, self.test_games));
        Ok([of(Split::Train, self.train_games)?, seen?, unseen?])
    }

    fn panel(&self, games: &dyn Games, split: Split, of_each: usize) -> Result<TaskSet> {
        let tasks = self.tasks.iter().map(|&kind| games.tasks(split, kind, of_each));
        TaskSet::new(split.name(), tasks.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// As [`AlfWorldTasks::games`] and [`AlfWorldTasks::panels`].
    pub fn validate(&self) -> Result<()> {
        self.panels(&*self.games()?).map(drop)
    }

    /// `n` environments that play `games`.
    pub fn environments(&self, games: &Arc<dyn Games>, n: usize) -> Vec<Box<dyn Environment>> {
        (0..n)
            .map(|_| show_admissible(AlfWorld::new(games.clone()), self.show_admissible))
            .collect()
    }

    /// What a new run begins with: the panels, and an expert's solutions of some training games.
    ///
    /// # Errors
    /// As [`AlfWorldTasks::panels`]; a game that cannot be played.
    pub fn begin(config: &TrainConfig<Self>, games: &Arc<dyn Games>) -> Result<Setup> {
        let world = &config.environment;
        let [train, seen, unseen] = world.panels(&**games)?;
        if !config.learns_from_demonstrations() {
            return Ok(Setup { train, evaluation: vec![seen, unseen], demonstrations: Vec::new() });
        }
        let tasks = world.panel(&**games, Split::Train, config.cloning.demonstrations)?.tasks;
        let mut environment = show_admissible(AlfWorld::new(games.clone()), world.show_admissible);
        let turns = config.rollout.max_turns;
        let demonstrations = expert_demonstrations(games, &tasks, turns, &mut *environment)?;
        eprintln!("the expert solved {} of {} games", demonstrations.len(), tasks.len());
        Ok(Setup { train, evaluation: vec![seen, unseen], demonstrations })
    }
}

impl TaskSettings for AlfWorldTasks {
    fn unused(config: &TrainConfig<Self>) -> Vec<Unused> {
        let reason =
            "no households are made where environment.data (or ALFWORLD_DATA) names a folder of games";
        let games = config.environment.data.as_ref();
        games.map(|_| Unused::new("environment.household", reason)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_tasks_and_few_of_them_for_a_smoke_run() {
        for preset in [Preset::Small, Preset::Paper, Preset::Official] {
            let tasks = AlfWorldTasks::of(preset).smoke();
            tasks.validate().unwrap();
            let games = tasks.games().unwrap();
            let sizes = tasks.panels(&*games).unwrap().map(|panel| panel.tasks.len());
            assert_eq!(
                sizes,
                [8 * TaskType::ALL.len(), 2 * TaskType::ALL.len(), 2 * TaskType::ALL.len()]
            );
            assert_eq!(tasks.environments(&games, 3).len(), 3);
        }
    }
}
