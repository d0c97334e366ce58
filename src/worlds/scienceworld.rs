//! ScienceWorld's tasks.

use serde::{Deserialize, Serialize};

use crate::console::note;
use crate::entropy::config::{EntropyConfig, HistoryConfig};
use crate::env::scienceworld::config::{ScienceWorldConfig, SuccessRule};
use crate::env::scienceworld::demonstrate::DemonstrationConfig;
use crate::env::scienceworld::pool::ScienceWorldPool;
use crate::env::scienceworld::tasks::{check_simplification, task_names, variations, Split};
use crate::env::{Demonstration, Task};
use crate::evaluation::task_set::TaskSet;
use crate::objective::aggregate::Aggregation;
use crate::rollout::action::ActionFormat;
use crate::rollout::rows::RowKind;
use crate::run::progress::Progress;
use crate::settings::{AtLeast, Count, Positive};
use crate::train::config::algorithm::Algorithm;
use crate::train::config::presets::Preset;
use crate::train::config::run::TrainConfig;
use crate::train::run_state::Setup;
use crate::worlds::benchmark::Benchmark;
use crate::worlds::paper::{check_tasks, paper as paper_settings, paper_model};
use crate::{Error, Result};

/// The setting that ends an episode by its moves.
const STEP_LIMIT: &str = "environment.simulator.step_limit";

/// The ScienceWorld tasks of a run, and the simulator's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScienceWorldTasks {
    /// Task families, as the simulator names them.
    pub tasks: Vec<String>,
    /// Variations of each family to learn on, spread over the official train split.
    pub train_variations: Count,
    /// Unseen variations of each family to be evaluated on, spread over the official test split.
    pub test_variations: Count,
    /// How gold paths become demonstrations.
    pub demonstrations: DemonstrationConfig,
    /// The simulator's.
    pub simulator: ScienceWorldConfig,
}

impl Default for ScienceWorldTasks {
    /// Two short families: one needs reading a room and acting on it, the other knowledge of
    /// animals.
    fn default() -> Self {
        Self {
            tasks: ["find-non-living-thing", "lifespan-longest-lived"].map(String::from).to_vec(),
            train_variations: Count::literal(150),
            test_variations: Count::literal(75),
            demonstrations: DemonstrationConfig::default(),
            simulator: ScienceWorldConfig::default(),
        }
    }
}

impl ScienceWorldTasks {
    /// The tasks of a preset. The paper's runs train on all families except `use-thermometer`, as
    /// published, on all training variations, with two test variations each; `official` uses the
    /// published code's rule of success.
    pub fn of(preset: Preset) -> Self {
        let mut tasks = Self::default();
        if matches!(preset, Preset::Paper | Preset::Official) {
            let played = task_names().filter(|&name| name != "use-thermometer");
            tasks.tasks = played.map(String::from).collect();
            tasks.train_variations = Count::literal(10_000);
            tasks.test_variations = Count::literal(2);
        }
        if preset == Preset::Official {
            tasks.simulator.success = SuccessRule::DoneWithPositiveScore;
        }
        tasks
    }

    /// The training tasks `train` and the evaluation set `test`.
    ///
    /// # Errors
    /// No family, one that the simulator does not know, or none of its variations.
    pub fn panels(&self) -> Result<[TaskSet; 2]> {
        let train = self.panel("train", Split::Train, self.train_variations.get())?;
        Ok([train, self.panel("test", Split::Test, self.test_variations.get())?])
    }

    fn panel(&self, name: &str, split: Split, of_each: usize) -> Result<TaskSet> {
        let mut tasks = Vec::new();
        for family in &self.tasks {
            let all = variations(family, split)?
                .map(|variation| Task { name: family.clone(), variation });
            tasks.extend(TaskSet::new(name, all.collect())?.thin(of_each)?.tasks);
        }
        TaskSet::new(name, tasks)
    }

    /// The setup of a new run: the task sets, and the simulator's solutions of some training
    /// variations.
    ///
    /// # Errors
    /// See [`ScienceWorldTasks::panels`]; errors of the simulator.
    pub fn begin(config: &TrainConfig<Self>, pool: &mut ScienceWorldPool) -> Result<Setup> {
        let [train, test] = config.environment.panels()?;
        Ok(Setup {
            train,
            evaluation: vec![test],
            demonstrations: config.environment.gold_paths(config, pool)?,
        })
    }

    fn gold_paths(
        &self,
        config: &TrainConfig<Self>,
        pool: &mut ScienceWorldPool,
    ) -> Result<Vec<Demonstration>> {
        if !config.needs_demonstrations() {
            return Ok(Vec::new());
        }
        let tasks = self.panel("demonstrations", Split::Train, config.demonstrations.get())?.tasks;
        let mut progress = Progress::new("gold paths", tasks.len());
        let mut show = |done| progress.set(done, "");
        let found = pool.demonstrations(&tasks, &self.demonstrations, config.seed, &mut show)?;
        progress.finish(&found.summary());
        let limit = self.simulator.step_limit;
        let needs = found.needs();
        let demonstrations = found.for_imitation(STEP_LIMIT, limit)?;
        if let Some(most) = needs {
            note(format_args!("other gold paths need up to {most} moves ({STEP_LIMIT} = {limit})"));
        }
        let turns = config.rollout.max_turns.get();
        let long = demonstrations.iter().filter(|shown| shown.turns.len() > turns).count();
        if long > 0 {
            note(format_args!(
                "{long} of {} demonstrations have more than rollout.max_turns = {turns} turns",
                demonstrations.len()
            ));
        }
        Ok(demonstrations)
    }
}

impl Benchmark for ScienceWorldTasks {
    /// The settings called `preset`: for `small`, a small policy on a CPU; for `llm`, LoRA adapters
    /// on SmolLM2-135M-Instruct, on a CPU too; for `paper` and `official`, Qwen2.5-7B-Instruct as
    /// in the paper's ScienceWorld runs, evaluated on whole test sets.
    ///
    /// The paper's numbers do not carry over everywhere: its mini-batches are of rows of turns,
    /// these of episodes; it gives no learning rate for the critic (10⁻⁵ is verl's); its prompts
    /// are cut to 2048 tokens with two turns of history, here an episode is one conversation in
    /// the model's context. `official` is as
    /// [`AlfWorldTasks::preset`](crate::worlds::AlfWorldTasks::preset) describes; its ScienceWorld
    /// groups mix tasks, and its script never switches the penalty on for PPO, which
    /// `entropy.method.kind = "bonus"` reproduces. Neither has been trained here.
    fn preset(preset: Preset, algorithm: Algorithm) -> TrainConfig<Self> {
        let tasks = Self::of(preset);
        match preset {
            Preset::Small => TrainConfig::small(algorithm, tasks),
            Preset::Llm => llm(algorithm, tasks),
            Preset::Paper => paper(algorithm, tasks),
            Preset::Official => {
                let mut config = paper(algorithm, tasks);
                config.rollout.rows = RowKind::Turn;
                config.update.aggregation = Aggregation::TokenMean;
                let entropy = EntropyConfig::official_code().scienceworld();
                let history = HistoryConfig::Official { max_steps: config.rollout.max_turns };
                config.entropy = EntropyConfig { history, ..entropy };
                config
            }
        }
    }

    fn smoke(config: TrainConfig<Self>) -> TrainConfig<Self> {
        let mut config = config.smoke();
        let large = config.model.checkpoint().is_some();
        config.rollout.max_turns = Count::literal(6);
        if let Some(cloning) = &mut config.cloning {
            cloning.epochs = if large { Count::literal(1) } else { Count::literal(12) };
        }
        config.environment.train_variations = Count::literal(4);
        config.environment.test_variations = Count::literal(if large { 2 } else { 4 });
        config
    }

    /// Checks the simulator's settings, and that there are tasks for every task set.
    ///
    /// # Errors
    /// The first setting that does not fit; see [`ScienceWorldTasks::panels`].
    fn check(&self) -> Result<()> {
        check_tasks(&self.tasks)?;
        for family in &self.tasks {
            variations(family, Split::Train)
                .map_err(|e| Error::setting("environment.tasks", family, e.to_string()))?;
        }
        let simplification = &self.simulator.simplification;
        check_simplification("", simplification).map_err(|e| {
            Error::setting("environment.simulator.simplification", simplification, e.to_string())
        })?;
        self.demonstrations.validate()?;
        self.simulator.validate()?;
        self.panels().map(drop)
    }
}

/// The small run with a published language model, which needs fewer demonstrations.
fn llm(algorithm: Algorithm, tasks: ScienceWorldTasks) -> TrainConfig<ScienceWorldTasks> {
    let mut config = TrainConfig::small(algorithm, tasks).llm(AtLeast::literal(20));
    config.demonstrations = Count::literal(75);
    config
}

fn paper(algorithm: Algorithm, tasks: ScienceWorldTasks) -> TrainConfig<ScienceWorldTasks> {
    let mut config = paper_settings(algorithm, 125, tasks);
    config.rollout.max_turns = Count::literal(30);
    config.entropy = EntropyConfig::paper_v2().scienceworld();
    if algorithm == Algorithm::Ppo {
        config.learning_rate = Positive::literal(3e-6);
        config.update.mini_batches = Count::literal(2);
    }
    paper_model(&mut config, "Qwen/Qwen2.5-7B-Instruct", ActionFormat::OfficialScienceworld);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_tasks_and_none_is_evaluated_on_its_training_tasks() {
        for preset in [Preset::Small, Preset::Llm, Preset::Paper, Preset::Official] {
            let tasks = ScienceWorldTasks::of(preset);
            tasks.check().unwrap();
            let [train, test] = tasks.panels().unwrap();
            assert!(test.tasks.iter().all(|task| !train.tasks.contains(task)));
            let config = ScienceWorldTasks::preset(preset, Algorithm::Grpo);
            ScienceWorldTasks::smoke(config).environment.check().unwrap();
        }
        assert_eq!(ScienceWorldTasks::of(Preset::Paper).panels().unwrap()[0].tasks.len(), 3322);
    }
}
