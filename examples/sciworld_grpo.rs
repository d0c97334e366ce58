//! GRPO with EPO in the real ScienceWorld simulator, on a CPU, from nothing.
//!
//! A small policy clones gold paths of training variations, then plays. Episodes of the same task are compared
//! (GRPO, arXiv 2402.03300), and so are turns from the same observation (GiGPO, arXiv 2505.10978), while the
//! entropy is held inside a band around its own history (EPO, arXiv 2509.22576). Before and after, the policy is
//! examined on variations it has never seen; a task counts as solved at a score of 100 and not otherwise.
//!
//! ```text
//! cargo run --release --example sciworld_grpo -- --seed 1 --out runs/seed1
//! cargo run --release --example sciworld_grpo -- --entropy none --out runs/plain
//! ```

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{ensure, Result};
use clap::Parser;
use epo::entropy::EntropyConfig;
use epo::env::scienceworld::{
    variations, DemonstrationConfig, Provision, ScienceWorldConfig, ScienceWorldPool, Split,
};
use epo::env::{Demonstration, Environment, Task};
use epo::rollout::{demonstration_texts, RolloutConfig, Trajectory};
use epo::train::*;
use serde::{Deserialize, Serialize};

/// Short families: one asks to read a room and a colour and to act on them, the other to know animals.
const TASKS: [&str; 2] = ["find-non-living-thing", "lifespan-longest-lived"];

/// Everything that decides what a run does. A run folder's `config.toml` holds it; `--config` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Decides every random draw.
    seed: u64,
    /// Training steps; a step is one batch of episodes and its update.
    steps: u64,
    /// Steps between checkpoints.
    checkpoint_every: u64,
    evaluation: EvaluationConfig,
    /// ScienceWorld task families, as the simulator names them.
    tasks: Vec<String>,
    /// Variations of each family to learn on, spread over the official train split.
    train_variations: usize,
    /// Unseen variations of each family to be examined on, spread over the official test split.
    test_variations: usize,
    /// Episodes played at the same time.
    environments: usize,
    advantage: AdvantageConfig,
    /// Highest learning rate of reinforcement learning.
    learning_rate: f64,
    schedule: LrSchedule,
    policy: PolicyConfig,
    model: ModelConfig,
    demonstrations: DemonstrationConfig,
    cloning: CloningConfig,
    rollout: RolloutConfig,
    update: UpdateConfig,
    optimizer: AdamWConfig,
    entropy: EntropyConfig,
    simulator: ScienceWorldConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 60,
            checkpoint_every: 10,
            evaluation: EvaluationConfig::default(),
            tasks: TASKS.map(String::from).to_vec(),
            train_variations: 150,
            test_variations: 75,
            environments: 2,
            // Turns alone: an episode's ending says little about most of its turns, and is much noise.
            advantage: AdvantageConfig { episode_weight: 0.0, ..AdvantageConfig::default() },
            learning_rate: 2e-4,
            schedule: LrSchedule::Cosine { warmup_steps: 3, total_steps: 60, min_ratio: 0.1, cycles: 0.5 },
            policy: PolicyConfig::default(),
            model: ModelConfig::default(),
            demonstrations: DemonstrationConfig::default(),
            cloning: CloningConfig::default(),
            rollout: RolloutConfig::default(),
            update: UpdateConfig::default(),
            optimizer: AdamWConfig { beta2: 0.98, ..AdamWConfig::default() },
            entropy: EntropyConfig::paper_v2(),
            simulator: ScienceWorldConfig::default(),
        }
    }
}

impl Config {
    /// A run of less than two minutes that goes through everything.
    fn smoke() -> Self {
        let base = Self::default();
        Self {
            steps: 2,
            checkpoint_every: 1,
            train_variations: 8,
            test_variations: 4,
            evaluation: EvaluationConfig { episodes: 1, ..base.evaluation },
            policy: PolicyConfig { vocabulary: 512, hidden_size: 64, layers: 2, ..base.policy },
            cloning: CloningConfig { demonstrations: 8, epochs: 20, batch: 2, ..base.cloning },
            rollout: RolloutConfig { tasks: 2, group: 4, max_turns: 6, ..base.rollout },
            ..base
        }
    }

    fn from_args(args: &Args) -> Result<Self> {
        let mut config = match &args.config {
            Some(path) => read_config(path)?,
            None if args.smoke => Self::smoke(),
            None => Self::default(),
        };
        config.seed = args.seed.unwrap_or(config.seed);
        config.steps = args.steps.unwrap_or(config.steps);
        let Args { model, lora, dtype, device, .. } = args;
        config.model.choose(&mut config.policy, model.as_deref(), *lora, *dtype, *device);
        if let Some(name) = &args.entropy {
            config.entropy = config.entropy.with_method(name)?;
        }
        config.validate()?;
        Ok(config)
    }

    fn panels(&self) -> Result<(Panel, Panel)> {
        let train = self.panel("train", Split::Train, self.train_variations)?;
        Ok((train, self.panel("test", Split::Test, self.test_variations)?))
    }

    fn panel(&self, name: &str, split: Split, of_each: usize) -> Result<Panel> {
        let mut tasks = Vec::new();
        for family in &self.tasks {
            let all = variations(family, split)?.map(|variation| Task { name: family.clone(), variation });
            tasks.extend(Panel::new(name, all.collect())?.thin(of_each)?.tasks);
        }
        Ok(Panel::new(name, tasks)?)
    }

    fn agent(&self) -> AgentConfig {
        AgentConfig::new(self.policy, &self.model, &self.optimizer, self.entropy, self.rollout)
    }

    fn validate(&self) -> Result<()> {
        let parts = [self.agent().validate(), self.advantage.validate(), self.demonstrations.validate()];
        let others = [self.update.validate(), self.evaluation.validate(), self.schedule.validate()];
        parts.into_iter().chain(others).chain([self.cloning.validate()]).collect::<Result<(), _>>()?;
        self.simulator.validate()?;
        ensure!(self.checkpoint_every > 0, "checkpoint_every = 0: must be at least 1");
        ensure!(self.learning_rate > 0.0, "learning_rate = {}: must be positive", self.learning_rate);
        self.panels().map(drop)
    }
}

/// Trains a small agent with GRPO and EPO in the real ScienceWorld simulator, on a CPU.
#[derive(Debug, Parser)]
#[command(version, after_help = "The last line of standard output is `summary {…}`, a JSON object.")]
struct Args {
    /// Decides every random draw: the same seed gives the same run [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Training steps in all, those before a resume included [default: 60]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder of a new run [default: runs/sciworld_grpo-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its last checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "seed", "entropy", "model", "lora", "dtype", "device", "smoke"])]
    resume: Option<PathBuf>,
    /// Settings to start from, in TOML; config.toml of any run folder shows them all
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// How entropy is controlled [default: epo]
    #[arg(long, value_parser = ["none", "bonus", "epo", "epo-official"])]
    entropy: Option<String>,
    /// Train this checkpoint: a folder in Hugging Face's layout, or `owner/name` on its hub (feature `hub`)
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// Train corrections of this rank beside frozen weights
    #[arg(long, value_name = "R")]
    lora: Option<usize>,
    /// What weights are stored in [default: f32]
    #[arg(long, value_name = "f32|bf16")]
    dtype: Option<WeightType>,
    /// Where the policy is computed [default: cpu]
    #[arg(long, value_name = "cpu|cuda|metal")]
    device: Option<DeviceKind>,
    /// A complete run in under two minutes
    #[arg(long)]
    smoke: bool,
}

/// What a checkpoint holds beside the agent and the configuration.
#[derive(Serialize, Deserialize)]
struct State {
    position: Position,
    train: Panel,
    test: Panel,
    before: Option<Outcome>,
}

/// A run in progress.
struct Run {
    folder: RunFolder<Config>,
    recorder: Recorder,
    pool: ScienceWorldPool,
    environments: Vec<Box<dyn Environment>>,
    agent: Agent,
    state: State,
    throughput: Throughput,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let began = Instant::now();
    let folder = match &args.resume {
        Some(dir) => RunFolder::resume(dir, |c: &mut Config| c.steps = args.steps.unwrap_or(c.steps))?,
        None => {
            let config = Config::from_args(&args)?;
            let default = || format!("runs/sciworld_grpo-{}", config.seed).into();
            RunFolder::create(args.out.clone().unwrap_or_else(default), config)?
        }
    };
    folder.skipped.iter().for_each(|error| eprintln!("passed over: {error}"));
    let (stop, mut run) = (stop_on_ctrl_c()?, Run::open(folder)?);
    let mut step = run.folder.checkpoint.as_ref().map_or(0, Checkpoint::step);
    let Config { steps, evaluation, checkpoint_every, .. } = run.folder.config;
    let mut progress = Progress::new("step", steps as usize).starting_at(step as usize);
    while step < steps && !stop.load(Ordering::Relaxed) {
        run.train_step(step, &mut progress)?;
        step += 1;
        let stopping = step == steps || stop.load(Ordering::Relaxed);
        if evaluation.every > 0 && step % evaluation.every == 0 && step < steps {
            run.examine(step)?;
        }
        if step % checkpoint_every == 0 || stopping {
            run.save(step)?;
        }
    }
    if step < steps {
        eprintln!("stopped after step {step}; continue with --resume {}", run.folder.dir.display());
    }
    let after = run.examine(step)?;
    run.agent.export(&run.folder.dir, step)?;
    let report = write_report(&[&run.folder.dir])?;
    eprintln!("look at {}, or: tensorboard --logdir {}", report.display(), run.folder.dir.display());
    let outcomes = [&run.state.before.unwrap_or(after), &after];
    println!("summary {}", summary(step, began, outcomes, &run.throughput, &run.folder.dir));
    Ok(())
}

impl Run {
    /// A run continued from its checkpoint, or a new one: gold paths, tokenizer, cloning, first examination.
    fn open(folder: RunFolder<Config>) -> Result<Self> {
        let config = folder.config.clone();
        let installation = Provision::default().install(&|line| eprintln!("{line}"))?;
        let mut pool = ScienceWorldPool::new(&installation, &config.simulator, config.environments)?;
        let shape = config.agent();
        let (agent, state, demonstrations) = match &folder.checkpoint {
            Some(saved) => (Agent::restore(&shape, saved)?, saved.state()?, vec![]),
            None => {
                let (train, test) = config.panels()?;
                let demonstrations = demonstrate(&config, &mut pool)?;
                let texts = demonstrations.iter().flat_map(demonstration_texts);
                let agent = Agent::new(&shape, texts, config.seed)?;
                (agent, State { position: Position::default(), train, test, before: None }, demonstrations)
            }
        };
        let recorder = Recorder::resume(&folder.dir, state.position)?;
        let environments = pool.take_environments().into_iter().map(|e| Box::new(e) as _).collect();
        let throughput = Throughput::default();
        let mut run = Self { folder, recorder, pool, environments, agent, state, throughput };
        if run.state.before.is_none() {
            run.warm_start(&config, &demonstrations)?;
        }
        Ok(run)
    }

    /// Behaviour cloning, the examination that training has to beat, and the first checkpoint.
    fn warm_start(&mut self, config: &Config, demonstrations: &[Demonstration]) -> Result<()> {
        let Config { cloning, update, seed, .. } = config;
        clone_demonstrations(&mut self.agent, demonstrations, cloning, update, *seed, &mut self.recorder)?;
        self.state.before = Some(self.examine(0)?);
        self.save(0)
    }

    /// One batch of episodes and the update it teaches.
    fn train_step(&mut self, step: u64, progress: &mut Progress) -> Result<()> {
        let began = Instant::now();
        let Config { seed, steps, advantage, learning_rate, schedule, rollout, update, .. } =
            self.folder.config.clone();
        let tasks = TaskSchedule::new(&self.state.train, seed, rollout.tasks)?;
        let episodes = group_episodes(&tasks, seed, step, rollout.group);
        let limits = rollout.play(rollout.temperature);
        let rollouts = self.agent.play(&mut self.environments, &episodes, &limits, &mut |done| {
            progress.set(step as usize, &format!("playing {done}/{}", episodes.len()));
        })?;
        // Progress counts even where a wrong focus ends the episode at −100: otherwise waiting would pay.
        let rewards = |t: &Trajectory| t.gains().iter().map(|gain| gain / 100.0).collect();
        let rewards: Vec<Vec<f64>> = rollouts.trajectories.iter().map(rewards).collect();
        let returns: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
        let advantages = turn_advantages(&rollouts.trajectories, &rewards, &advantage)?;
        let lr = learning_rate * schedule.factor(step);
        let settings = StepSettings { seed, step, lr, rows: rollout.rows, update: &update };
        let mut record = update_policy(&mut self.agent, &rollouts, &returns, &advantages, &settings)?;
        record.set("restarts", self.pool.restarts());
        self.throughput.add(&mut record, &rollouts.stats, began);
        self.recorder.record(&record)?;
        progress.set(step as usize + 1, "");
        progress.line(&step_line(&record, step + 1, steps, progress));
        Ok(())
    }

    /// Plays the unseen panel.
    fn examine(&mut self, step: u64) -> Result<Outcome> {
        let Config { seed, evaluation: EvaluationConfig { episodes, temperature, .. }, rollout, .. } =
            self.folder.config;
        let Self { agent, environments, state, recorder, .. } = self;
        let limits = rollout.play(temperature);
        let examination = Examination { panel: &state.test, episodes, limits, seed, step };
        Ok(examine(agent, environments, &examination, recorder)?)
    }

    fn save(&mut self, step: u64) -> Result<()> {
        let mut checkpoint = CheckpointWriter::new(&self.folder.dir, step)?;
        self.agent.save(&mut checkpoint)?;
        self.folder.save(&mut checkpoint)?;
        self.state.position = self.recorder.sync()?;
        checkpoint.finish(&self.state)?;
        Ok(prune_checkpoints(&self.folder.dir, 3, None).map(drop)?)
    }
}

/// The simulator's own solutions of some training variations, to be cloned.
fn demonstrate(config: &Config, pool: &mut ScienceWorldPool) -> Result<Vec<Demonstration>> {
    let tasks = config.panel("demonstrations", Split::Train, config.cloning.demonstrations)?.tasks;
    let mut progress = Progress::new("gold paths", tasks.len());
    let mut show = |done| progress.set(done, "");
    let demonstrations = pool.demonstrations(&tasks, &config.demonstrations, config.seed, &mut show)?;
    progress.finish(&format!("{} episodes", demonstrations.len()));
    Ok(demonstrations)
}
