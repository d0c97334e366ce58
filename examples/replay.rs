//! Shows recorded episodes as dialogues, or plays their actions again and compares every answer.
//!
//! ```text
//! cargo run --release --example replay -- runs/seed0 --panel valid_seen --step 150 --failed --limit 3
//! cargo run --release --example replay -- runs/seed0 --check
//! cargo run --release --example replay -- rollouts.jsonl --check --env alfworld --data ~/.cache/alfworld
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use clap::{Parser, ValueEnum};
use epo::env::alfworld::{AlfWorld, DataFolder, Games};
use epo::env::household::{GeneratorConfig, Household};
use epo::env::scienceworld::{Provision, ScienceWorldConfig, ScienceWorldPool};
use epo::env::{show_admissible, Environment, ToyEnvironment};
use epo::rollout::ActionSpace;
use epo::run::{episode_files, read_episodes, replay_episode, EpisodeLine};

/// Shows recorded episodes, or plays them again.
#[derive(Parser)]
#[command(version, after_help = "With --check the exit code is 1 where anything differs.")]
struct Args {
    /// A run folder, or a file of episodes (episodes.jsonl, rollouts.jsonl)
    path: PathBuf,
    /// Only of this training step
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Only of this panel; `rl`: training episodes
    #[arg(long, value_name = "NAME")]
    panel: Option<String>,
    /// Only of tasks with this in their name (`look_at_obj_in_light`, `boil:3`)
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Only unsolved episodes
    #[arg(long, conflicts_with = "solved")]
    failed: bool,
    /// Only solved episodes
    #[arg(long)]
    solved: bool,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Play the actions again and compare goal, observations, rewards, scores, validity and success
    #[arg(long)]
    check: bool,
    /// The environment [default: that of the config.toml beside the episodes]
    #[arg(long, requires = "check")]
    env: Option<World>,
    /// The folder of ALFWorld's games [default: the run's, then ALFWORLD_DATA]
    #[arg(long, value_name = "DIR", requires = "check")]
    data: Option<PathBuf>,
}

/// An environment by name.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum World {
    Alfworld,
    Household,
    Scienceworld,
    Toy,
}

/// The settings of a run that its environment depends on; the others are not looked at.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    environment: Option<Tasks>,
    /// The same beside the other settings, where older runs had them.
    #[serde(flatten)]
    beside: Tasks,
    rollout: Rollout,
}

/// Those of `[environment]`, of either world.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Tasks {
    data: Option<PathBuf>,
    household: Option<GeneratorConfig>,
    show_admissible: bool,
    simulator: Option<ScienceWorldConfig>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Rollout {
    actions: ActionSpace,
}

impl Settings {
    /// Those of the run that a folder or a file of episodes belongs to; defaults where there is no config.toml.
    fn beside(path: &Path) -> Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let config = folder.join("config.toml");
        Ok(if config.is_file() { epo::run::read_config(config)? } else { Self::default() })
    }

    fn tasks(&self) -> &Tasks {
        self.environment.as_ref().unwrap_or(&self.beside)
    }

    fn world(&self) -> Result<World> {
        match self.tasks() {
            Tasks { simulator: Some(_), .. } => Ok(World::Scienceworld),
            Tasks { data: Some(_), .. } => Ok(World::Alfworld),
            Tasks { household: Some(_), .. } => Ok(World::Household),
            _ => bail!(
                "no config.toml beside the episodes names an environment: choose one with --env"
            ),
        }
    }

    fn environment(&self, args: &Args) -> Result<Box<dyn Environment>> {
        let (tasks, world) = (self.tasks(), args.env.map_or_else(|| self.world(), Ok)?);
        ensure!(
            args.data.is_none() || world == World::Alfworld,
            "--data names ALFWorld's games; these are of another world"
        );
        let games: Arc<dyn Games> = match world {
            World::Toy => return Ok(Box::new(ToyEnvironment::new())),
            World::Scienceworld => return self.scienceworld(),
            World::Household => {
                Arc::new(Household::new(tasks.household.clone().unwrap_or_default())?)
            }
            World::Alfworld => {
                let set = || std::env::var_os("ALFWORLD_DATA").filter(|data| !data.is_empty());
                let data =
                    args.data.clone().or(tasks.data.clone()).or_else(|| set().map(PathBuf::from));
                let data =
                    data.context("the folder of ALFWorld's games: --data or ALFWORLD_DATA")?;
                Arc::new(DataFolder::open(data)?)
            }
        };
        Ok(show_admissible(AlfWorld::new(games), tasks.show_admissible))
    }

    fn scienceworld(&self) -> Result<Box<dyn Environment>> {
        let installation = Provision::default().install(&|line| eprintln!("{line}"))?;
        let config = self.tasks().simulator.clone().unwrap_or_default();
        let environment =
            ScienceWorldPool::new(&installation, &config, 1)?.take_environments().pop();
        Ok(Box::new(environment.context("the pool has no environment")?))
    }
}

impl Args {
    fn wants(&self, line: &EpisodeLine) -> bool {
        let EpisodeLine { phase, step, panel, episode, .. } = line;
        let panels = [Some(phase.as_str()), panel.as_deref()];
        self.step.is_none_or(|wanted| wanted == *step)
            && self.panel.as_deref().is_none_or(|wanted| panels.contains(&Some(wanted)))
            && self.task.as_deref().is_none_or(|wanted| episode.task.to_string().contains(wanted))
            && !(self.failed && episode.success)
            && (!self.solved || episode.success)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.path.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let files = episode_files(&self.path)?;
        ensure!(
            !files.is_empty(),
            "{}: no episodes.jsonl and no rollouts.jsonl",
            self.path.display()
        );
        Ok(files)
    }
}

/// How many episodes were looked at, and how many of them answered differently.
#[derive(Default)]
struct Counts {
    episodes: usize,
    turns: usize,
    different: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let settings = Settings::beside(&args.path)?;
    let mut environment = args.check.then(|| settings.environment(&args)).transpose()?;
    let ask = settings.rollout.actions == ActionSpace::Admissible;
    let mut counts = Counts::default();
    for file in args.files()? {
        read_episodes(&file, |number, line| {
            if !args.wants(&line) || args.limit.is_some_and(|most| counts.episodes >= most) {
                return Ok(());
            }
            counts.episodes += 1;
            counts.turns += line.episode.turns.len();
            let Some(environment) = &mut environment else {
                println!("{line}");
                return Ok(());
            };
            let differences = replay_episode(environment.as_mut(), &line.episode, ask)?;
            if !differences.is_empty() {
                counts.different += 1;
                let (file, task) = (file.display(), &line.episode.task);
                println!("{file}: line {number}: {task}, step {}:", line.step);
                differences.iter().for_each(|difference| println!("{difference}"));
            }
            Ok(())
        })?;
    }
    let Counts { episodes, turns, different } = counts;
    ensure!(episodes > 0, "no episode is what was asked for");
    if args.check {
        println!("{episodes} episodes of {turns} turns played again, {different} of them differ");
    }
    std::process::exit(i32::from(different > 0))
}
