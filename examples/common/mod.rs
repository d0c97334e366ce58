//! The command line of the training examples: each flag is declared here once.
// Each example uses a part of this module.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};
use epo::console::note;
use epo::run::{config_text, RunFolder};
use epo::train::config::{Algorithm, CheckpointConfig, ModelConfig, Preset, TrainConfig};
use epo::worlds::Benchmark;
use epo::Error;
use serde::de::DeserializeOwned;
use serde::Serialize;

use output::print;

pub(crate) mod output;
pub(crate) mod toy;

/// The end of every trainer's `--help`.
pub(crate) const AFTER_HELP: &str = "\
Settings come from the preset, then --config, then the flags; --print-config shows the result.
A setting that does not exist, is out of range or contradicts another is an error.
A run's folder holds config.toml, metrics.jsonl, episodes.jsonl, report.html, tensorboard/ and
checkpoints/.
Ctrl-C finishes the step, saves and evaluates; --resume continues, bit for bit.
The exit code is 2 if the settings or the input are wrong, 1 if the run fails.
The last line of standard output is `summary {…}`, a JSON object.";

/// Flags of every training example.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Seed of every random draw: the same seed gives the same run
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Training steps in all, those before a resume included
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    /// Folder of a new run [default: runs/NAME-SEED]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Continue the run in this folder from its last checkpoint; only --steps may change, --model
    /// if the model checkpoint that it trains has moved, and --set environment.games.path=DIR (or
    /// ALFWORLD_DATA) if ALFWorld's games have
    #[arg(long, value_name = "DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// Settings in TOML: any part of what --print-config prints
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One setting by its full key, such as `entropy.method.kind=bonus`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print all settings as TOML and exit
    #[arg(long, conflicts_with = "out")]
    pub(crate) print_config: bool,
    /// A complete run in under two minutes; with --model, for models of about 135 M parameters
    #[arg(long)]
    pub(crate) smoke: bool,
}

impl RunArgs {
    /// The folder of a new run of `base` with the settings of the command line over it, or of the
    /// run to be continued; `None` if the settings were printed instead.
    pub(crate) fn folder<E: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        base: TrainConfig<E>,
    ) -> Result<Option<RunFolder<TrainConfig<E>>>> {
        self.folder_of(name, base, Vec::new(), None, |_| Ok(()), unmoved)
    }

    fn folder_of<E: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        base: TrainConfig<E>,
        named: Vec<String>,
        model: Option<&str>,
        prepare: impl Fn(&mut E) -> epo::Result<()>,
        relocate: impl Fn(&mut E, &[String]) -> epo::Result<()>,
    ) -> Result<Option<RunFolder<TrainConfig<E>>>> {
        if let Some(dir) = &self.resume {
            ensure!(named.is_empty(), RESUME_TAKES);
            return self.resumed(dir, model, relocate).map(Some);
        }
        let mut sets = named;
        sets.extend(self.seed.map(|seed| format!("seed={seed}")));
        sets.extend(self.steps.map(|steps| format!("steps={steps}")));
        sets.extend(self.set.iter().cloned());
        let usual_steps = base.steps;
        let mut config = base.layered(self.config.as_deref(), &sets)?;
        prepare(&mut config.environment)?;
        config.model.make_absolute();
        if self.print_config {
            print(config_text(&config)?)?;
            return Ok(None);
        }
        if config.steps != usual_steps {
            show_schedules(&config)?;
        }
        config.model.available()?;
        let default = || PathBuf::from(format!("runs/{name}-{}", config.seed));
        let dir = self.out.clone().unwrap_or_else(default);
        Ok(Some(RunFolder::create(dir, config)?))
    }

    fn resumed<E: Serialize + DeserializeOwned>(
        &self,
        dir: &Path,
        model: Option<&str>,
        relocate: impl Fn(&mut E, &[String]) -> epo::Result<()>,
    ) -> Result<RunFolder<TrainConfig<E>>> {
        let others = self.seed.is_some() || self.out.is_some() || self.config.is_some();
        ensure!(!others && !self.smoke && !self.print_config, RESUME_TAKES);
        let resumed = TrainConfig::resumed(self.steps, model);
        let folder = RunFolder::resume(dir, |config: &mut TrainConfig<E>| {
            resumed(config)?;
            relocate(&mut config.environment, &self.set)
        })?;
        if self.steps.is_some() {
            show_schedules(&folder.config)?;
        }
        Ok(folder)
    }
}

/// The flags of a resumed run.
const RESUME_TAKES: &str = "--resume takes only --steps, --model and --set";

/// Says which schedules are longer or shorter than a run whose number of steps was changed.
fn show_schedules<E: Serialize + DeserializeOwned>(config: &TrainConfig<E>) -> Result<()> {
    for line in config.schedule_notes()? {
        note(format_args!("note: {line}"));
    }
    Ok(())
}

/// Refuses every change of a resumed run: its environment has no files that could move.
fn unmoved<E>(_environment: &mut E, sets: &[String]) -> epo::Result<()> {
    match sets.first() {
        None => Ok(()),
        Some(set) => Err(Error::setting("--set", set, "a resumed run keeps its settings")),
    }
}

/// Flags of the benchmark trainers: those of every example, and short forms of frequent settings.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Settings to start from: a small policy on a CPU, a published language model on a CPU, the
    /// paper's runs, or its published code's [default: small]
    #[arg(long, value_name = "small|llm|paper|official", conflicts_with = "smoke")]
    pub(crate) preset: Option<Preset>,
    /// Entropy regulariser: none, bonus, decayed-bonus, adaptive, epo, epo-official, clip-cov,
    /// kl-cov or top-entropy, with its default settings [entropy.method.kind]
    #[arg(long, value_name = "KIND")]
    pub(crate) entropy: Option<String>,
    /// Actions that the policy may write: any text, or an admissible command [rollout.actions.kind]
    #[arg(long, value_name = "free|admissible")]
    pub(crate) actions: Option<String>,
    /// Train this model checkpoint: a folder in Hugging Face's layout, `smollm2-135m-instruct`,
    /// which is downloaded once, or `owner/name` on the Hub (feature `hub`) [model.source]
    #[arg(long, value_name = "DIR|NAME|ID")]
    pub(crate) model: Option<String>,
    /// Train LoRA adapters of this rank on frozen weights, with alpha = 2 R [model.lora]
    #[arg(long, value_name = "R")]
    pub(crate) lora: Option<usize>,
    /// Element type of the weights; `quantized` keeps the blocks of a GGUF file and needs --lora
    /// [model.dtype]
    #[arg(long, value_name = "f32|bf16|quantized")]
    pub(crate) dtype: Option<String>,
    /// Device of the policy [model.device]
    #[arg(long, value_name = "cpu|cuda|metal")]
    pub(crate) device: Option<String>,
    /// Keep every training episode with its tokens, for `--example replay` [dump]
    #[arg(long)]
    pub(crate) dump: bool,
}

impl TrainArgs {
    /// See [`RunArgs::folder`]; the settings to start from are the benchmark's preset.
    pub(crate) fn folder<E: Benchmark>(
        &self,
        name: &str,
        algorithm: Algorithm,
    ) -> Result<Option<RunFolder<TrainConfig<E>>>> {
        let mut base = E::preset(self.preset.unwrap_or_default(), algorithm);
        if self.run.smoke {
            if let Some(source) = &self.model {
                base.model = ModelConfig::Checkpoint(CheckpointConfig::new(source));
            }
            base = E::smoke(base);
        }
        let model = self.model.as_deref();
        let named = if self.run.resume.is_some() { self.without_model() } else { self.sets() };
        let prepare = |environment: &mut E| {
            environment.check()?;
            environment.complete()
        };
        self.run.folder_of(name, base, named, model, prepare, E::relocate)
    }

    /// The short forms as `KEY=VALUE`.
    fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        if let Some(source) = &self.model {
            sets.push("model.kind=checkpoint".to_owned());
            sets.push(format!("model.source={source:?}"));
        }
        sets.extend(self.without_model());
        sets
    }

    fn without_model(&self) -> Vec<String> {
        let mut sets = Vec::new();
        if let Some(kind) = &self.entropy {
            sets.push(format!("entropy.method.kind={kind:?}"));
            if kind == "epo-official" {
                sets.push("entropy.history={ kind = \"official\", max_steps = 50 }".to_owned());
            }
        }
        let texts = [
            ("rollout.actions.kind", &self.actions),
            ("model.dtype", &self.dtype),
            ("model.device", &self.device),
        ];
        for (key, value) in texts {
            sets.extend(value.iter().map(|value| format!("{key}={value:?}")));
        }
        if let Some(rank) = self.lora {
            sets.push(format!("model.lora.rank={rank}"));
            sets.push(format!("model.lora.alpha={}", 2 * rank));
        }
        if self.dump {
            sets.push("dump={ }".to_owned());
        }
        sets
    }
}
