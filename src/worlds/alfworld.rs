//! ALFWorld's tasks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::console::note;
use crate::entropy::config::EntropyConfig;
use crate::env::alfworld::environment::{AlfWorld, Games};
use crate::env::alfworld::search::demonstrate::expert_demonstrations;
use crate::env::alfworld::task::{Split, TaskType};
use crate::env::choices::show_admissible;
use crate::env::Environment;
use crate::evaluation::task_set::TaskSet;
use crate::objective::aggregate::Aggregation;
use crate::rollout::action::ActionFormat;
use crate::rollout::config::ActionSpace;
use crate::rollout::rows::RowKind;
use crate::settings::{AtLeast, Count, NonNegative, Positive, Unit};
use crate::train::config::algorithm::{Algorithm, AlgorithmConfig};
use crate::train::config::model::ModelConfig;
use crate::train::config::presets::{small_schedule, Preset};
use crate::train::config::run::TrainConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::run_state::Setup;
use crate::worlds::benchmark::Benchmark;
use crate::worlds::games::GameSource;
use crate::worlds::paper::{check_tasks, paper as paper_settings, paper_model};
use crate::Result;

/// The text games of a run, and how they are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlfWorldTasks {
    /// Where the games come from.
    pub games: GameSource,
    /// Observations end with the admissible commands; their tokens have to fit into the context.
    pub show_admissible: bool,
    /// The kinds of tasks.
    pub tasks: Vec<TaskType>,
    /// Games of each kind to learn on.
    pub train_games: Count,
    /// Games of each kind to be evaluated on, in rooms seen and unseen.
    pub test_games: Count,
}

impl Default for AlfWorldTasks {
    fn default() -> Self {
        Self {
            games: GameSource::default(),
            show_admissible: false,
            tasks: TaskType::ALL.to_vec(),
            train_games: Count::literal(4000),
            test_games: Count::literal(16),
        }
    }
}

impl AlfWorldTasks {
    /// The tasks of a preset: the paper's runs show the admissible commands.
    pub fn of(preset: Preset) -> Self {
        match preset {
            Preset::Small => Self::default(),
            Preset::Llm => Self { test_games: Count::literal(12), ..Self::default() },
            Preset::Paper | Preset::Official => {
                Self { show_admissible: true, test_games: Count::literal(1000), ..Self::default() }
            }
        }
    }

    /// These tasks on the games of the folder that the variable `ALFWORLD_DATA` names, if it is
    /// set.
    #[must_use]
    pub fn found(mut self) -> Self {
        if let Some(games) = GameSource::named() {
            self.games = games;
        }
        self
    }

    /// Opens the games.
    ///
    /// # Errors
    /// A folder that does not hold the run's games, or settings for which no household can be
    /// made.
    pub fn games(&self) -> Result<Arc<dyn Games>> {
        self.games.open()
    }

    /// The training games, and the evaluation sets in seen and in unseen rooms.
    ///
    /// # Errors
    /// No kind of task, or a split without games of it.
    pub fn panels(&self, games: &dyn Games) -> Result<[TaskSet; 3]> {
        let of = |split, most| self.panel(games, split, most);
        let [seen, unseen] =
            [Split::ValidSeen, Split::ValidUnseen].map(|split| of(split, self.test_games.get()));
        Ok([of(Split::Train, self.train_games.get())?, seen?, unseen?])
    }

    fn panel(&self, games: &dyn Games, split: Split, of_each: usize) -> Result<TaskSet> {
        let tasks = self.tasks.iter().map(|&kind| games.tasks(split, kind, of_each));
        TaskSet::new(split.name(), tasks.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// `n` environments that play `games`.
    pub fn environments(&self, games: &Arc<dyn Games>, n: usize) -> Vec<Box<dyn Environment>> {
        (0..n)
            .map(|_| show_admissible(AlfWorld::new(games.clone()), self.show_admissible))
            .collect()
    }

    /// The setup of a new run: the task sets, and an expert's solutions of some training games.
    ///
    /// # Errors
    /// See [`AlfWorldTasks::panels`]; a game that cannot be played.
    pub fn begin(config: &TrainConfig<Self>, games: &Arc<dyn Games>) -> Result<Setup> {
        let world = &config.environment;
        let left_out = games.left_out();
        if !left_out.is_empty() {
            note(format_args!("games: {left_out}"));
        }
        let [train, seen, unseen] = world.panels(&**games)?;
        if !config.needs_demonstrations() {
            return Ok(Setup { train, evaluation: vec![seen, unseen], demonstrations: Vec::new() });
        }
        let tasks = world.panel(&**games, Split::Train, config.demonstrations.get())?.tasks;
        let mut environment = show_admissible(AlfWorld::new(games.clone()), world.show_admissible);
        let turns = config.rollout.max_turns.get();
        let found = expert_demonstrations(games, &tasks, turns, &mut *environment)?;
        note(format_args!("expert: {}", found.summary()));
        let needs = found.needs();
        let demonstrations = found.for_imitation("rollout.max_turns", turns)?;
        if let Some(most) = needs {
            note(format_args!(
                "the other games need up to {most} turns (rollout.max_turns = {turns})"
            ));
        }
        Ok(Setup { train, evaluation: vec![seen, unseen], demonstrations })
    }
}

impl Benchmark for AlfWorldTasks {
    /// The settings called `preset`: for `small`, a small policy on a CPU; for `llm`, LoRA adapters
    /// on SmolLM2-135M-Instruct, on a CPU too; for `paper` and `official`, Qwen2.5-3B-Instruct as
    /// in the paper's ALFWorld runs, evaluated on whole splits.
    ///
    /// `official` is the published code with the commands of its README: rows of turns, the token
    /// mean, the indicator penalty (which has no gradient) with its gate, history and β of two
    /// phases. It still differs in this: the code normalises every micro-batch by itself, and
    /// weighs long episodes more in GRPO's means because it compares rows of turns. Neither has
    /// been trained here.
    fn preset(preset: Preset, algorithm: Algorithm) -> TrainConfig<Self> {
        let tasks = Self::of(preset).found();
        match preset {
            Preset::Small => small(algorithm, tasks),
            Preset::Llm => llm(algorithm, tasks),
            Preset::Paper => paper(algorithm, tasks),
            Preset::Official => {
                let mut config = paper(algorithm, tasks);
                config.rollout.rows = RowKind::Turn;
                config.update.aggregation = Aggregation::TokenMean;
                config.entropy = EntropyConfig::official_code().alfworld();
                config
            }
        }
    }

    fn smoke(config: TrainConfig<Self>) -> TrainConfig<Self> {
        let mut config = config.smoke();
        let large = config.model.checkpoint().is_some();
        config.rollout.max_turns = Count::literal(12);
        if let Some(cloning) = &mut config.cloning {
            cloning.epochs = if large { Count::literal(1) } else { Count::literal(8) };
        }
        config.environment.train_games = Count::literal(8);
        config.environment.test_games = Count::literal(2);
        if large {
            config.environment.tasks.truncate(2);
            config.environment.test_games = Count::literal(1);
        }
        config
    }

    /// Checks that kinds of tasks are named, each once, and that there are games of them.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for `environment.tasks`; see [`AlfWorldTasks::games`] and
    /// [`AlfWorldTasks::panels`].
    fn check(&self) -> Result<()> {
        check_tasks(&self.tasks)?;
        self.panels(&*self.games()?).map(drop)
    }

    /// Makes the path of the games absolute and records which games are there.
    ///
    /// # Errors
    /// See [`AlfWorldTasks::games`].
    fn complete(&mut self) -> Result<()> {
        self.games.complete()
    }

    /// Takes the folder of the games from `environment.games.path=FOLDER`, or from `ALFWORLD_DATA`
    /// if the run's folder does not hold them any more.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for another setting, or for a run of household games.
    fn relocate(&mut self, sets: &[String]) -> Result<()> {
        self.games.relocate(sets)
    }
}

fn small(algorithm: Algorithm, tasks: AlfWorldTasks) -> TrainConfig<AlfWorldTasks> {
    let mut config = TrainConfig::small(algorithm, tasks);
    config.steps = 150;
    config.schedule = small_schedule(150);
    config.environments = Count::literal(16);
    config.evaluation.every = 50;
    config.reward = RewardConfig::Progress { points: Positive::literal(1.0) };
    config.demonstrations = Count::literal(500);
    config.rollout.max_turns = Count::literal(20);
    config.rollout.actions = ActionSpace::Admissible;
    if let ModelConfig::Small(model) = &mut config.model {
        model.context = Count::literal(1536);
    }
    if let Some(cloning) = &mut config.cloning {
        cloning.epochs = Count::literal(2);
    }
    // A game pays once, at its end: a discount favours the shorter way, and a penalty of 0.1 per
    // action would teach a policy that writes free text to be understood and nothing else.
    let discount = Unit::literal(0.95);
    let penalty = NonNegative::literal(0.02);
    match &mut config.algorithm {
        AlgorithmConfig::Grpo { advantage } => {
            config.learning_rate = Positive::literal(3e-4);
            advantage.gamma = discount;
            advantage.invalid_penalty = penalty;
        }
        AlgorithmConfig::Ppo { gae, .. } => {
            // At GRPO's rate, PPO loses late in the episode what it has gained (docs/ALFWORLD.md).
            config.learning_rate = Positive::literal(1.5e-4);
            gae.gamma = discount;
            gae.invalid_penalty = penalty;
        }
    }
    config
}

/// The small run with a published language model, which needs fewer demonstrations.
fn llm(algorithm: Algorithm, tasks: AlfWorldTasks) -> TrainConfig<AlfWorldTasks> {
    let mut config = small(algorithm, tasks).llm(AtLeast::literal(28));
    config.demonstrations = Count::literal(50);
    config
}

fn paper(algorithm: Algorithm, tasks: AlfWorldTasks) -> TrainConfig<AlfWorldTasks> {
    let mut config = paper_settings(algorithm, 150, tasks);
    config.rollout.max_turns = Count::literal(50);
    config.entropy = EntropyConfig::paper_v2().alfworld();
    paper_model(&mut config, "Qwen/Qwen2.5-3B-Instruct", ActionFormat::OfficialAlfworld);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_tasks_and_few_of_them_for_a_smoke_run() {
        for preset in [Preset::Small, Preset::Llm, Preset::Paper, Preset::Official] {
            let config = AlfWorldTasks::preset(preset, Algorithm::Grpo);
            let mut tasks = AlfWorldTasks::smoke(config).environment;
            tasks.games = GameSource::default();
            tasks.check().unwrap();
            let games = tasks.games().unwrap();
            let sizes = tasks.panels(&*games).unwrap().map(|panel| panel.tasks.len());
            // A model checkpoint, which is larger, does less.
            let expected = if preset == Preset::Small { [48, 12, 12] } else { [16, 2, 2] };
            assert_eq!(sizes, expected);
            assert_eq!(tasks.environments(&games, 3).len(), 3);
        }
    }
}
