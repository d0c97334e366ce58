//! GRPO with EPO in the real ScienceWorld simulator, on a CPU, from nothing.
//!
//! A small policy first clones a few gold paths of training variations, then plays and learns: groups of
//! episodes of the same task are compared with each other (GRPO, arXiv 2402.03300) while the entropy of the
//! policy is held inside a band around its own history (EPO, arXiv 2509.22576). Before and after, it is
//! examined on variations it has never seen; a task counts as solved at a score of 100 and not otherwise.
//!
//! ```text
//! cargo run --release --example sciworld_grpo -- --seed 1 --out runs/seed1
//! cargo run --release --example sciworld_grpo -- --entropy none --out runs/plain
//! cargo run --release --example sciworld_grpo -- --resume runs/seed1 --steps 120
//! ```

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use clap::Parser;
use epo::advantage::{Groups, OutcomeEstimator};
use epo::entropy::EntropyConfig;
use epo::env::scienceworld::{variations, Provision, ScienceWorldConfig, ScienceWorldPool, Split};
use epo::env::{Demonstration, Environment, Task};
use epo::policy::DecoderConfig;
use epo::rollout::{demonstration_texts, play, Episode, RolloutConfig, Rollouts};
use epo::train::optim::AdamWConfig;
use epo::train::schedule::LrSchedule;
use epo::train::*;
use serde::{Deserialize, Serialize};

/// Everything that decides what a run does. A run folder's `config.toml` holds it; `--config` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Decides every random draw.
    seed: u64,
    /// Training steps; a step is one batch of episodes and its update.
    steps: u64,
    /// Steps between checkpoints; 0: only before and after training.
    checkpoint_every: u64,
    /// Steps between examinations; 0: only before and after training.
    evaluate_every: u64,
    /// Sampling temperature of examinations; 0 takes the most probable token.
    evaluation_temperature: f64,
    /// ScienceWorld task families, as the simulator names them.
    tasks: Vec<String>,
    /// Variations of each family to learn on, spread over the official train split.
    train_variations: usize,
    /// Unseen variations of each family to be examined on, spread over the official test split.
    test_variations: usize,
    /// Episodes played at the same time.
    environments: usize,
    /// Entries of the tokenizer's vocabulary.
    vocabulary: usize,
    /// Width of the policy; a head is 32 wide, two query heads share a key/value head.
    hidden_size: usize,
    /// Blocks of the policy.
    layers: usize,
    /// Most tokens of an episode.
    context: usize,
    /// How a group's returns become advantages.
    advantage: OutcomeEstimator,
    /// Highest learning rate of reinforcement learning.
    learning_rate: f64,
    schedule: LrSchedule,
    cloning: CloningConfig,
    rollout: RolloutConfig,
    update: UpdateConfig,
    optimizer: AdamWConfig,
    entropy: EntropyConfig,
    simulator: ScienceWorldConfig,
}

impl Default for Config {
    fn default() -> Self {
        let tasks = ["find-non-living-thing", "lifespan-longest-lived", "lifespan-shortest-lived"];
        Self {
            seed: 0,
            steps: 60,
            checkpoint_every: 10,
            evaluate_every: 20,
            evaluation_temperature: 1.0,
            tasks: tasks.map(String::from).to_vec(),
            train_variations: 60,
            test_variations: 30,
            environments: 8,
            vocabulary: 1024,
            hidden_size: 128,
            layers: 3,
            context: 1024,
            advantage: OutcomeEstimator::Grpo,
            learning_rate: 1e-3,
            schedule: LrSchedule::Constant { warmup_steps: 0 },
            cloning: CloningConfig::default(),
            rollout: RolloutConfig::default(),
            update: UpdateConfig::default(),
            optimizer: AdamWConfig::default(),
            entropy: EntropyConfig { lambda: 0.01, ..EntropyConfig::paper_v2() },
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
            evaluate_every: 0,
            tasks: vec!["lifespan-longest-lived".into()],
            train_variations: 8,
            test_variations: 4,
            environments: 2,
            vocabulary: 512,
            hidden_size: 64,
            layers: 2,
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
        match args.entropy.as_deref() {
            None => {}
            Some("epo-official") => {
                let lambda = config.entropy.lambda;
                config.entropy = EntropyConfig { lambda, ..EntropyConfig::official_code() };
            }
            Some(name) => config.entropy.method = serde_json::from_value(name.into())?,
        }
        config.validate()?;
        Ok(config)
    }

    /// Refuses what would fail later, before anything is written or waited for.
    fn validate(&self) -> Result<()> {
        self.agent().validate()?;
        self.cloning.validate()?;
        self.update.validate()?;
        self.schedule.validate()?;
        self.panel("train", Split::Train, self.train_variations)?;
        self.panel("test", Split::Test, self.test_variations)?;
        Ok(())
    }

    fn agent(&self) -> AgentConfig {
        let Self { optimizer, entropy, rollout, .. } = self.clone();
        AgentConfig { optimizer, entropy, rollout }
    }

    /// What is learned on, or what is examined.
    fn panel(&self, name: &str, split: Split, of_each: usize) -> Result<Panel> {
        let mut tasks = Vec::new();
        for family in &self.tasks {
            let all = variations(family, split)?.map(|variation| Task { name: family.clone(), variation });
            tasks.extend(Panel::new(name, all.collect())?.thin(of_each)?.tasks);
        }
        Ok(Panel::new(name, tasks)?)
    }

    fn decoder(&self, vocab_size: usize) -> DecoderConfig {
        DecoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: 3 * self.hidden_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.hidden_size / 32,
            num_key_value_heads: self.hidden_size / 64,
            max_position_embeddings: self.context,
            ..DecoderConfig::tiny(vocab_size)
        }
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
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "seed", "entropy", "smoke"])]
    resume: Option<PathBuf>,
    /// Settings to start from, in TOML; config.toml of any run folder shows them all
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// How entropy is controlled [default: epo]
    #[arg(long, value_parser = ["none", "bonus", "epo", "epo-official"])]
    entropy: Option<String>,
    /// A complete run in under two minutes
    #[arg(long)]
    smoke: bool,
}

/// What an examination found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Outcome {
    success: f64,
    score: f64,
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
    let stop = stop_on_ctrl_c()?;
    let mut run = Run::open(folder)?;
    let mut step = run.folder.checkpoint.as_ref().map_or(0, Checkpoint::step);
    let Config { steps, evaluate_every, checkpoint_every, .. } = run.folder.config;
    let mut progress = Progress::new("step", steps as usize).starting_at(step as usize);
    while step < steps && !stop.load(Ordering::Relaxed) {
        run.train_step(step, &mut progress)?;
        step += 1;
        let stopping = step == steps || stop.load(Ordering::Relaxed);
        if evaluate_every > 0 && step % evaluate_every == 0 && step < steps {
            run.examine(step)?;
        }
        if stopping || (checkpoint_every > 0 && step % checkpoint_every == 0) {
            run.save(step)?;
        }
    }
    if step < steps {
        eprintln!("stopped after step {step}; continue with --resume {}", run.folder.dir.display());
    }
    let after = run.examine(step)?;
    let report = write_report(&[&run.folder.dir])?;
    eprintln!("look at {}, or: tensorboard --logdir {}", report.display(), run.folder.dir.display());
    let before = run.state.before.unwrap_or(after);
    let summary = serde_json::json!({
        "steps": step,
        "seconds": began.elapsed().as_secs_f64(),
        "success_before": before.success,
        "success_after": after.success,
        "score_before": before.score,
        "score_after": after.score,
        "tokens_per_second": run.throughput.tokens_per_second(),
        "env_steps_per_second": run.throughput.env_steps_per_second(),
        "restarts": run.pool.restarts(),
        "out": run.folder.dir,
    });
    println!("summary {summary}");
    Ok(())
}

/// Ctrl-C lets the step in progress finish and saves; a second one ends the process.
fn stop_on_ctrl_c() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing this step; press Ctrl-C again to quit at once");
    })?;
    Ok(&STOP)
}

impl Run {
    /// A run continued from its checkpoint, or a new one: gold paths, tokenizer, cloning, first examination.
    fn open(folder: RunFolder<Config>) -> Result<Self> {
        let config = folder.config.clone();
        let installation = Provision::default().install(&|line| eprintln!("{line}"))?;
        let mut pool = ScienceWorldPool::new(&installation, &config.simulator, config.environments)?;
        let agent_config = config.agent();
        if let Some(checkpoint) = &folder.checkpoint {
            let agent = Agent::restore(&agent_config, checkpoint, &Device::Cpu)?;
            let state: State = checkpoint.state()?;
            return Self::assemble(folder, pool, agent, state);
        }
        let state = State {
            position: Position::default(),
            train: config.panel("train", Split::Train, config.train_variations)?,
            test: config.panel("test", Split::Test, config.test_variations)?,
            before: None,
        };
        let demonstrations = demonstrate(&config, &mut pool)?;
        let texts = demonstrations.iter().flat_map(demonstration_texts);
        let decoder = |vocab_size| config.decoder(vocab_size);
        let agent = Agent::new(&agent_config, texts, config.vocabulary, decoder, config.seed, &Device::Cpu)?;
        let mut run = Self::assemble(folder, pool, agent, state)?;
        let Config { cloning, update, seed, .. } = &config;
        clone_demonstrations(&mut run.agent, &demonstrations, cloning, update, *seed, &mut run.recorder)?;
        if update.policy.kl.is_some() {
            run.agent.learner.freeze_reference()?;
        }
        run.state.before = Some(run.examine(0)?);
        run.save(0)?;
        Ok(run)
    }

    fn assemble(
        folder: RunFolder<Config>,
        mut pool: ScienceWorldPool,
        agent: Agent,
        state: State,
    ) -> Result<Self> {
        let recorder = Recorder::resume(&folder.dir, state.position)?;
        let environments = pool.take_environments();
        let environments = environments.into_iter().map(|e| Box::new(e) as Box<dyn Environment>).collect();
        Ok(Self { folder, recorder, pool, environments, agent, state, throughput: Throughput::default() })
    }

    fn play(
        &mut self,
        episodes: &[Episode],
        temperature: f64,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Rollouts> {
        let limits = self.folder.config.rollout.play(temperature);
        let mut sampler = self.agent.sampler(self.environments.len());
        let prompter = &self.agent.prompter;
        Ok(play(&mut sampler, &mut self.environments, prompter, episodes, &limits, progress)?)
    }

    /// One batch of episodes and the update it teaches.
    fn train_step(&mut self, step: u64, progress: &mut Progress) -> Result<()> {
        let began = Instant::now();
        let Config { seed, steps, advantage, learning_rate, schedule, rollout, update, .. } =
            self.folder.config.clone();
        let tasks = TaskSchedule::new(&self.state.train, seed, rollout.tasks)?;
        let episodes = group_episodes(&tasks, seed, step, rollout.group);
        let rollouts = self.play(&episodes, rollout.temperature, &mut |done| {
            progress.set(step as usize, &format!("playing {done}/{}", episodes.len()));
        })?;
        progress.set(step as usize, "learning");
        // Progress counts even where a wrong focus ends the episode at −100: otherwise waiting would pay.
        let returns: Vec<f64> = rollouts.trajectories.iter().map(|t| t.best_score() / 100.0).collect();
        let groups: Vec<usize> = rollouts.trajectories.iter().map(|t| t.group as usize).collect();
        let advantages = advantage.advantages(&returns, &Groups::over_rows(&groups))?;
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
        let Config { seed, evaluation_temperature, .. } = self.folder.config;
        let episodes = panel_episodes(&self.state.test, seed, 1);
        let mut progress = Progress::new("examination", episodes.len());
        let played =
            self.play(&episodes, evaluation_temperature, &mut |done| progress.set(done, "episodes"))?;
        let mut record = Record::new("eval", step);
        panel_metrics(&mut record, &self.state.test, &played.trajectories, seed);
        self.recorder.record(&record)?;
        for trajectory in &played.trajectories {
            self.recorder.episode(&serde_json::json!({ "step": step, "episode": trajectory }))?;
        }
        progress.finish(&panel_line(&record));
        let value = |key| record.number(key).context("the examination has no result");
        Ok(Outcome { success: value("success")?, score: value("score")? })
    }

    fn save(&mut self, step: u64) -> Result<()> {
        let mut checkpoint = CheckpointWriter::new(&self.folder.dir, step)?;
        self.agent.save(&mut checkpoint)?;
        self.folder.save(&mut checkpoint)?;
        self.state.position = self.recorder.sync()?;
        checkpoint.finish(&self.state)?;
        prune_checkpoints(&self.folder.dir, 3, None)?;
        Ok(())
    }
}

/// The simulator's own solutions of some training variations, to be cloned.
fn demonstrate(config: &Config, pool: &mut ScienceWorldPool) -> Result<Vec<Demonstration>> {
    let tasks = config.panel("demonstrations", Split::Train, config.cloning.demonstrations)?.tasks;
    let mut progress = Progress::new("gold paths", tasks.len());
    let mut demonstrations = Vec::with_capacity(tasks.len());
    for chunk in tasks.chunks(config.environments) {
        progress.set(demonstrations.len(), "");
        demonstrations.extend(pool.demonstrations(chunk)?);
    }
    progress.finish(&format!("{} episodes", demonstrations.len()));
    Ok(demonstrations)
}
