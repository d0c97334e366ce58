//! Prints recorded episodes as dialogues, or replays their actions and compares every response.
//!
//! ```text
//! cargo run --release --example replay -- runs/seed0 --task-set valid_seen --failed
//! cargo run --release --example replay -- runs/seed0 --check
//! cargo run --release --example replay -- rollouts.jsonl --check --env alfworld --data GAMES
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use clap::{Parser, ValueEnum};
use epo::console::note;
use epo::env::alfworld::{AlfWorld, DataFolder, Games};
use epo::env::household::{GeneratorConfig, Household};
use epo::env::scienceworld::{Provision, ScienceWorldConfig, ScienceWorldPool};
use epo::env::{show_admissible, Environment, ToyEnvironment};
use epo::rollout::ActionSpace;
use epo::run::{episode_files, read_config, read_episodes, replay_episode, EpisodeLine};
use epo::worlds::GameSource;

use output::print_line;

#[path = "common/output.rs"]
mod output;

/// Prints recorded episodes, or replays them.
#[derive(Parser)]
#[command(version, after_help = "With --check, the exit code is 1 if anything differs.")]
struct Args {
    /// A run folder, or a file of episodes (episodes.jsonl, rollouts.jsonl)
    path: PathBuf,
    /// Only episodes after this many training steps
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Only episodes of this evaluation set; `rl` for training episodes
    #[arg(long, value_name = "NAME")]
    task_set: Option<String>,
    /// Only tasks whose name contains this text (`look_at_obj_in_light`, `boil:3`)
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Only unsolved episodes
    #[arg(long, conflicts_with = "solved")]
    failed: bool,
    /// Only solved episodes
    #[arg(long)]
    solved: bool,
    /// At most this many episodes
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Replay the actions and compare goal, observations, rewards, scores, validity and success
    #[arg(long)]
    check: bool,
    /// The environment [default: the one in the config.toml next to the episodes]
    #[arg(long, requires = "check")]
    env: Option<World>,
    /// The folder of ALFWorld's games [default: the run's, otherwise ALFWORLD_DATA]
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

/// The settings of a run that its environment depends on; others are ignored.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    environment: EnvironmentSettings,
    rollout: Rollout,
}

/// The settings in `[environment]`, of any environment.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct EnvironmentSettings {
    games: Option<GameSource>,
    show_admissible: bool,
    simulator: Option<ScienceWorldConfig>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Rollout {
    actions: ActionSpace,
}

impl Settings {
    /// Reads the config.toml next to the episodes, or returns the defaults if there is none.
    fn next_to(path: &Path) -> Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let config = folder.join("config.toml");
        if !config.is_file() {
            return Ok(Self::default());
        }
        Ok(read_config(config)?)
    }

    fn world(&self) -> Result<World> {
        if self.environment.simulator.is_some() {
            return Ok(World::Scienceworld);
        }
        match &self.environment.games {
            Some(GameSource::Folder { .. }) => Ok(World::Alfworld),
            Some(GameSource::Household(_)) => Ok(World::Household),
            None => bail!(
                "no config.toml next to the episodes names an environment: choose one with --env"
            ),
        }
    }

    fn environment(&self, args: &Args) -> Result<Box<dyn Environment>> {
        let settings = &self.environment;
        let world = args.env.map_or_else(|| self.world(), Ok)?;
        ensure!(
            args.data.is_none() || world == World::Alfworld,
            "--data is for ALFWorld's games, but these episodes are from another environment"
        );
        let games: Arc<dyn Games> = match world {
            World::Toy => return Ok(Box::new(ToyEnvironment::new())),
            World::Scienceworld => return self.scienceworld(),
            World::Household => {
                let config = match &settings.games {
                    Some(GameSource::Household(config)) => config.clone(),
                    _ => GeneratorConfig::default(),
                };
                Arc::new(Household::new(config)?)
            }
            World::Alfworld => {
                let variable = std::env::var_os("ALFWORLD_DATA").filter(|data| !data.is_empty());
                let of_run = match &settings.games {
                    Some(GameSource::Folder { path, .. }) => Some(path.clone()),
                    _ => None,
                };
                let data = args.data.clone().or(of_run);
                let data = data.or_else(|| variable.map(PathBuf::from));
                let data =
                    data.context("set the folder of ALFWorld's games: --data or ALFWORLD_DATA")?;
                Arc::new(DataFolder::open(data)?)
            }
        };
        Ok(show_admissible(AlfWorld::new(games), settings.show_admissible))
    }

    fn scienceworld(&self) -> Result<Box<dyn Environment>> {
        let installation = Provision::default().install(&|line| note(line))?;
        let config = self.environment.simulator.clone().unwrap_or_default();
        let environment =
            ScienceWorldPool::new(&installation, &config, 1)?.take_environments().pop();
        Ok(Box::new(environment.context("the pool has no environment")?))
    }
}

impl Args {
    fn wants(&self, line: &EpisodeLine) -> bool {
        let EpisodeLine { phase, step, task_set, episode, .. } = line;
        let names = [Some(phase.as_str()), task_set.as_deref()];
        self.step.is_none_or(|wanted| wanted == *step)
            && self.task_set.as_deref().is_none_or(|wanted| names.contains(&Some(wanted)))
            && self.task.as_deref().is_none_or(|wanted| episode.task.to_string().contains(wanted))
            && !(self.failed && episode.success)
            && (!self.solved || episode.success)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.path.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let files = episode_files(&self.path)?;
        let path = self.path.display();
        ensure!(!files.is_empty(), "{path}: no episodes.jsonl and no rollouts.jsonl");
        Ok(files)
    }
}

/// The numbers of selected episodes, of their turns, and of episodes with differences.
#[derive(Default)]
struct Counts {
    episodes: usize,
    turns: usize,
    different: usize,
}

fn main() -> ExitCode {
    output::run(replay)
}

fn replay() -> Result<()> {
    let args = Args::parse();
    let settings = Settings::next_to(&args.path)?;
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
                return print_line(line);
            };
            let differences = replay_episode(environment.as_mut(), &line.episode, ask)?;
            if !differences.is_empty() {
                counts.different += 1;
                let EpisodeLine { step, episode, .. } = &line;
                let file = file.display();
                let task = &episode.task;
                print_line(format_args!("{file}: line {number}: {task}, step {step}:"))?;
                for difference in &differences {
                    print_line(difference)?;
                }
            }
            Ok(())
        })?;
    }
    let Counts { episodes, turns, different } = counts;
    ensure!(episodes > 0, "no episode matches these options");
    if args.check {
        let played = format!("{episodes} episodes, {turns} turns played again");
        print_line(format_args!("{played}, {different} of them differ"))?;
    }
    std::process::exit(i32::from(different > 0))
}
