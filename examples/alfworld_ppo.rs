//! PPO with EPO in ALFWorld's text games, on a CPU, from nothing: no Python, no download.
//!
//! A policy clones an expert that searches, then plays every game for itself. A critic of the same shape says what each turn
//! was worth beforehand (generalised advantage estimation, arXiv 1506.02438), both learn from the same rows (PPO, arXiv
//! 1707.06347), and the entropy is held inside a band around its history (EPO, arXiv 2509.22576). In the first steps the
//! critic learns alone. The games are ALFWorld's where `ALFWORLD_DATA` names their folder, and otherwise made here.
//!
//! `ALFWORLD_DATA=~/.cache/alfworld cargo run --release --example alfworld_ppo -- --seed 1 --out runs/ppo1`

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::rollout::ActionSpace;
use epo::run::{config_text, stop_on_ctrl_c, RunFolder};
use epo::train::config::{
    Algorithm, Benchmark, DeviceKind, Overrides, Preset, TrainConfig, WeightType,
};
use epo::train::{record_without_update, update_critic, update_policy, Advantages, Trainer};
use epo::worlds::AlfWorldTasks;

/// Everything that decides what a run does; a run folder's `config.toml` holds it.
type Config = TrainConfig<AlfWorldTasks>;

/// Trains a small agent with PPO, a critic and EPO in ALFWorld's text games, on a CPU.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Settings come from the preset, then from --config, then from the options; --print-config shows the result.
One that has no effect beside the others is an error.
A run's folder holds config.toml, metrics.jsonl, episodes.jsonl, report.html, tensorboard/ and checkpoints/;
Ctrl-C finishes the step, saves and evaluates, and --resume goes on to the bit.
The last line of standard output is `summary {…}`, a JSON object."
)]
struct Args {
    /// Decides every random draw: the same seed gives the same run [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Training steps in all, those before a resume included [default: the preset's, 150 for small]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder of a new run [default: runs/alfworld_ppo-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its last checkpoint; only --steps may change, and --model where the
    /// checkpoint that it trains is elsewhere now
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "out", "config", "preset", "print_config", "seed", "entropy", "actions", "lora", "dtype", "device", "dump",
        "smoke",
    ])]
    resume: Option<PathBuf>,
    /// Settings over the preset's, in TOML: any part of what --print-config prints
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// Settings to start from: a small policy on a CPU, the paper's runs, or its published code's [default: small]
    #[arg(long, value_name = "small|paper|official", conflicts_with = "smoke")]
    preset: Option<Preset>,
    /// Print the settings that have an effect as TOML, and do nothing else
    #[arg(long, conflicts_with = "out")]
    print_config: bool,
    /// How entropy is controlled: none, bonus, decayed-bonus, adaptive, epo, epo-official, clip-cov, kl-cov or
    /// top-entropy; [entropy] of --config sets the rest [default: the preset's, epo for small]
    #[arg(long, value_name = "METHOD")]
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
    /// Keep every training episode with its tokens, for `--example replay`, up to dump_megabytes of --config
    #[arg(long)]
    dump: bool,
    /// A complete run in under two minutes
    #[arg(long)]
    smoke: bool,
}

impl Args {
    /// The settings of a new run: the preset, the file over it, the options over both.
    fn config(&self) -> Result<Config> {
        let preset = self.preset.unwrap_or_default();
        let tasks = AlfWorldTasks::of(preset).found();
        let base = Config::preset(preset, Benchmark::AlfWorld, Algorithm::Ppo, tasks);
        let overrides = Overrides {
            seed: self.seed,
            steps: self.steps,
            entropy: self.entropy.as_deref(),
            actions: self.actions,
            model: self.model.as_deref(),
            lora: self.lora,
            dtype: self.dtype,
            device: self.device,
            dump: self.dump,
        };
        let base = if self.smoke { smoke(base) } else { base };
        let config = base.with(self.config.as_deref(), &overrides)?;
        config.ppo()?;
        config.validate()?;
        config.environment.validate()?;
        Ok(config)
    }

    /// The folder of the run to be continued, or of a new one.
    fn folder(&self) -> Result<RunFolder<Config>> {
        if let Some(dir) = &self.resume {
            return Ok(RunFolder::resume(dir, Config::resumed(self.steps, self.model.as_deref()))?);
        }
        let config = self.config()?;
        config.model.available()?;
        let default = || format!("runs/alfworld_ppo-{}", config.seed).into();
        Ok(RunFolder::create(self.out.clone().unwrap_or_else(default), config)?)
    }
}

/// A run of less than two minutes that goes through everything.
fn smoke(config: Config) -> Config {
    let mut config = config.smoke();
    (config.cloning.epochs, config.rollout.max_turns) = (8, 12);
    config.environment = config.environment.smoke();
    config
}

fn main() -> Result<()> {
    let (began, args) = (Instant::now(), Args::parse());
    if args.print_config {
        print!("{}", config_text(&args.config()?)?);
        return Ok(());
    }
    let (folder, stop) = (args.folder()?, stop_on_ctrl_c()?);
    let config = folder.config.clone();
    let (gae, _) = config.ppo()?;

    let made = || "household games that are made here (ALFWORLD_DATA is not set)".into();
    let place = config.environment.data.as_ref();
    let place = place.map_or_else(made, |dir| format!("ALFWorld's games in {}", dir.display()));
    eprintln!("playing {place}");
    let games = config.environment.games()?;
    let new = folder.checkpoint.is_none();
    let beginning = new.then(|| AlfWorldTasks::begin(&config, &games)).transpose()?;
    let environments = config.environment.environments(&games, config.environments);
    let mut run = Trainer::open(folder, environments, beginning)?.stopping_at(stop);

    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let (settings, (agent, critic)) =
            (config.settings(step, run.lr_factor()), run.actor_critic()?);
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = rewards.credit(&rollouts.trajectories, &values, &gae)?;
        let mut record = if critic.warms_up(step) {
            record_without_update(agent, &rollouts, &returns, &settings)?
        } else {
            let advantages = Advantages::Tokens(credit.advantages);
            update_policy(agent, &rollouts, &returns, &advantages, &settings)?
        };
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    let mut summary = run.summary(began, &before[1], &after[1]); // in rooms never seen
    summary["success_before_seen"] = before[0].success.mean.into();
    summary["success_after_seen"] = after[0].success.mean.into();
    println!("summary {summary}");
    Ok(())
}
