//! GRPO with EPO in ALFWorld's text games, on a CPU, from nothing: no Python, no download.
//!
//! A policy clones an expert that searches, then plays: episodes of one game are compared (GRPO, arXiv 2402.03300), and turns from
//! one observation (GiGPO, arXiv 2505.10978), while the entropy is held inside a band around its history (EPO, arXiv
//! 2509.22576). It is examined on ALFWorld's games where `ALFWORLD_DATA` names their folder, and otherwise on ones made here.
//!
//! `ALFWORLD_DATA=~/.cache/alfworld cargo run --release --example alfworld_grpo -- --seed 1 --out runs/seed1`

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{ensure, Result};
use clap::Parser;
use epo::entropy::EntropyConfig;
use epo::env::alfworld::{expert_demonstrations, AlfWorld, DataFolder, Games, Split, TaskType};
use epo::env::household::{GeneratorConfig, Household};
use epo::env::{show_admissible, Demonstration, Environment};
use epo::rollout::{demonstration_texts, ActionSpace, RolloutConfig, Trajectory};
use epo::train::*;
use serde::{Deserialize, Serialize};

/// Everything that decides what a run does, as in a run folder's `config.toml`; `--config` reads it.
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
    /// The folder of ALFWorld's games; none: households made here.
    data: Option<PathBuf>,
    /// Observations end with the admissible commands; their tokens have to fit into the context.
    show_admissible: bool,
    household: GeneratorConfig,
    tasks: Vec<TaskType>,
    /// Games of each kind to learn on.
    train_games: usize,
    /// Games of each kind to be examined on, in rooms seen and unseen.
    test_games: usize,
    /// Episodes played at the same time.
    environments: usize,
    advantage: AdvantageConfig,
    /// Highest learning rate of reinforcement learning.
    learning_rate: f64,
    schedule: LrSchedule,
    policy: PolicyConfig,
    model: ModelConfig,
    cloning: CloningConfig,
    rollout: RolloutConfig,
    update: UpdateConfig,
    optimizer: AdamWConfig,
    entropy: EntropyConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 150,
            checkpoint_every: 10,
            evaluation: EvaluationConfig { every: 50, ..EvaluationConfig::default() },
            data: None,
            show_admissible: false,
            household: GeneratorConfig { receptacles: (4, 10), items: (8, 10), ..Default::default() },
            tasks: TaskType::ALL.to_vec(),
            train_games: 4000,
            test_games: 16,
            environments: 16,
            // Turns alone: an episode's ending says little about most of its turns, and is much noise.
            // The discount makes a turn towards the shorter way the better one.
            advantage: AdvantageConfig { episode_weight: 0.0, gamma: 0.95, ..AdvantageConfig::default() },
            learning_rate: 3e-4,
            schedule: LrSchedule::Cosine { warmup_steps: 3, total_steps: 150, min_ratio: 0.1, cycles: 0.5 },
            policy: PolicyConfig { context: 1536, ..PolicyConfig::default() },
            model: ModelConfig::default(),
            cloning: CloningConfig { demonstrations: 500, epochs: 2, ..CloningConfig::default() },
            rollout: RolloutConfig { max_turns: 20, actions: ActionSpace::Admissible, ..Default::default() },
            update: UpdateConfig::default(),
            optimizer: AdamWConfig { beta2: 0.98, ..AdamWConfig::default() },
            entropy: EntropyConfig::paper_v2(),
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
            train_games: 8,
            test_games: 2,
            evaluation: EvaluationConfig { episodes: 1, ..base.evaluation },
            policy: PolicyConfig { vocabulary: 512, hidden_size: 64, layers: 2, ..base.policy },
            cloning: CloningConfig { demonstrations: 8, epochs: 8, batch: 2, ..base.cloning },
            rollout: RolloutConfig { tasks: 2, group: 4, max_turns: 12, ..base.rollout },
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
        config.rollout.actions = args.actions.unwrap_or(config.rollout.actions);
        let data = std::env::var_os("ALFWORLD_DATA").filter(|folder| !folder.is_empty());
        config.data = config.data.or(data.map(PathBuf::from));
        config.validate()?;
        Ok(config)
    }

    fn games(&self) -> Result<Arc<dyn Games>> {
        Ok(match &self.data {
            Some(folder) => Arc::new(DataFolder::open(folder)?),
            None => Arc::new(Household::new(self.household.clone())?),
        })
    }

    /// The games to learn on, and to be examined on in seen and in unseen rooms.
    fn panels(&self, games: &dyn Games) -> Result<[Panel; 3]> {
        let of = |split, most| self.panel(games, split, most);
        let [seen, unseen] = [Split::ValidSeen, Split::ValidUnseen].map(|split| of(split, self.test_games));
        Ok([of(Split::Train, self.train_games)?, seen?, unseen?])
    }

    fn panel(&self, games: &dyn Games, split: Split, of_each: usize) -> Result<Panel> {
        let tasks = self.tasks.iter().map(|&kind| games.tasks(split, kind, of_each));
        Ok(Panel::new(split.name(), tasks.collect::<Result<Vec<_>, _>>()?.concat())?)
    }

    fn agent(&self) -> AgentConfig {
        AgentConfig::new(self.policy, &self.model, &self.optimizer, self.entropy, self.rollout)
    }

    fn validate(&self) -> Result<()> {
        let parts = [self.agent().validate(), self.advantage.validate(), self.cloning.validate()];
        let others = [self.update.validate(), self.evaluation.validate(), self.schedule.validate()];
        parts.into_iter().chain(others).collect::<Result<(), _>>()?;
        ensure!(self.checkpoint_every > 0, "checkpoint_every = 0: must be at least 1");
        ensure!(self.learning_rate > 0.0, "learning_rate = {}: must be positive", self.learning_rate);
        self.panels(&*self.games()?).map(drop)
    }
}

/// Trains a small agent with GRPO and EPO in ALFWorld's text games, on a CPU.
#[derive(Debug, Parser)]
#[command(version, after_help = "The last line of standard output is `summary {…}`, a JSON object.")]
struct Args {
    /// Decides every random draw: the same seed gives the same run [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Training steps in all, those before a resume included [default: 150]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder of a new run [default: runs/alfworld_grpo-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its last checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "seed", "entropy", "actions", "model", "lora", "dtype", "device", "smoke"])]
    resume: Option<PathBuf>,
    /// Settings to start from, in TOML; config.toml of any run folder shows them all
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// How entropy is controlled [default: epo]
    #[arg(long, value_parser = ["none", "bonus", "epo", "epo-official"])]
    entropy: Option<String>,
    /// What the policy may write: any text, or one of the admissible commands [default: admissible]
    #[arg(long, value_name = "free|admissible")]
    actions: Option<ActionSpace>,
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
    seen: Panel,
    unseen: Panel,
    /// Of the first examination: in rooms seen in training, and in others.
    before: Option<[Outcome; 2]>,
}

/// A run in progress.
struct Run {
    folder: RunFolder<Config>,
    recorder: Recorder,
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
            let default = || format!("runs/alfworld_grpo-{}", config.seed).into();
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
    let [seen, unseen] = [0, 1].map(|i| [&run.state.before.as_ref().unwrap_or(&after)[i], &after[i]]);
    let mut summary = summary(step, began, unseen, &run.throughput, &run.folder.dir);
    summary["success_before_seen"] = seen[0].success.mean.into();
    summary["success_after_seen"] = seen[1].success.mean.into();
    println!("summary {summary}");
    Ok(())
}

impl Run {
    /// A run continued from its checkpoint, or a new one: an expert's games, tokenizer, cloning, first examination.
    fn open(folder: RunFolder<Config>) -> Result<Self> {
        let config = folder.config.clone();
        let made = || "household games that are made here (ALFWORLD_DATA is not set)".into();
        let place =
            config.data.as_ref().map_or_else(made, |dir| format!("ALFWorld's games in {}", dir.display()));
        eprintln!("playing {place}");
        let games = config.games()?;
        let environment = || show_admissible(AlfWorld::new(games.clone()), config.show_admissible);
        let shape = config.agent();
        let (agent, state, demonstrations) = match &folder.checkpoint {
            Some(saved) => (Agent::restore(&shape, saved)?, saved.state()?, vec![]),
            None => {
                let [train, seen, unseen] = config.panels(&*games)?;
                let tasks = config.panel(&*games, Split::Train, config.cloning.demonstrations)?.tasks;
                let turns = config.rollout.max_turns;
                let demonstrations = expert_demonstrations(&games, &tasks, turns, &mut *environment())?;
                eprintln!("the expert solved {} of {} games", demonstrations.len(), tasks.len());
                let texts = demonstrations.iter().flat_map(demonstration_texts);
                let agent = Agent::new(&shape, texts, config.seed)?;
                let state = State { position: Position::default(), train, seen, unseen, before: None };
                (agent, state, demonstrations)
            }
        };
        let recorder = Recorder::resume(&folder.dir, state.position)?;
        let environments = (0..config.environments).map(|_| environment()).collect();
        let throughput = Throughput::default();
        let mut run = Self { folder, recorder, environments, agent, state, throughput };
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
        let rewards: Vec<Vec<f64>> = rollouts.trajectories.iter().map(Trajectory::gains).collect();
        let returns: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
        let advantages = turn_advantages(&rollouts.trajectories, &rewards, &advantage)?;
        let lr = learning_rate * schedule.factor(step);
        let settings = StepSettings { seed, step, lr, rows: rollout.rows, update: &update };
        let mut record = update_policy(&mut self.agent, &rollouts, &returns, &advantages, &settings)?;
        self.throughput.add(&mut record, &rollouts.stats, began);
        self.recorder.record(&record)?;
        progress.set(step as usize + 1, "");
        progress.line(&step_line(&record, step + 1, steps, progress));
        Ok(())
    }

    fn examine(&mut self, step: u64) -> Result<[Outcome; 2]> {
        let Config { seed, evaluation: EvaluationConfig { episodes, temperature, .. }, rollout, .. } =
            self.folder.config;
        let Self { agent, environments, state, recorder, .. } = self;
        let limits = rollout.play(temperature);
        let exam = |panel| Examination { panel, episodes, limits, seed, step };
        let mut of = |panel| examine(agent, environments, &exam(panel), recorder);
        Ok([of(&state.seen)?, of(&state.unseen)?])
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
