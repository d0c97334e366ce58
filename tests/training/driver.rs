//! A complete small trainer out of the library's pieces, as an example would assemble them.

use std::path::Path;

use epo::entropy::{EntropyConfig, EntropyMethod, EpoConfig};
use epo::env::{DemonstratedTurn, Demonstration, Environment, Task, ToyEnvironment};
use epo::evaluation::{TaskSchedule, TaskSet};
use epo::optim::AdamWConfig;
use epo::rollout::{
    demonstration_texts, ActionSpace, Episode, RolloutConfig, Rollouts, Trajectory, Turn,
};
use epo::run::{
    dump_rollouts, episode_files, first_difference, Checkpoint, CheckpointWriter, Position, Record,
    Recorder, RunFolder, EPISODES_FILE,
};
use epo::settings::{Count, Limit, NonNegative, Positive};
use epo::train::config::{ModelConfig, SmallConfig, UpdateConfig};
use epo::train::credit::{turn_advantages, AdvantageConfig};
use epo::train::learn::{clone_demonstrations, Agent, AgentConfig, CloningConfig};
use epo::train::{evaluation_episodes, group_episodes, update_policy, Advantages, StepSettings};
use epo::Result;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    pub(crate) environments: usize,
    pub(crate) model: ModelConfig,
    pub(crate) learning_rate: f64,
    pub(crate) cloning: CloningConfig,
    pub(crate) rollout: RolloutConfig,
    pub(crate) update: UpdateConfig,
    pub(crate) optimizer: AdamWConfig,
    pub(crate) entropy: EntropyConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 3,
            steps: 2,
            environments: 4,
            model: small(96),
            learning_rate: 3e-3,
            cloning: CloningConfig {
                epochs: Count::literal(20),
                batch: Count::literal(4),
                learning_rate: Positive::literal(5e-3),
                observation_weight: NonNegative::literal(0.1),
            },
            rollout: RolloutConfig {
                tasks: Count::literal(4),
                group: Count::literal(8),
                max_turns: Count::literal(3),
                actions: ActionSpace::Free { max_tokens: Count::literal(8) },
                ..RolloutConfig::default()
            },
            update: UpdateConfig {
                micro_batch_tokens: Limit::literal(512),
                ..UpdateConfig::default()
            },
            optimizer: AdamWConfig::default(),
            entropy: EntropyConfig { method: epo(0.01), ..EntropyConfig::paper_v2() },
        }
    }
}

/// A small policy with room for `context` tokens.
pub(crate) fn small(context: usize) -> ModelConfig {
    ModelConfig::Small(SmallConfig {
        vocabulary: Count::literal(300),
        hidden_size: Count::literal(32),
        context: Count::literal(context),
        ..SmallConfig::default()
    })
}

/// EPO with another weight.
pub(crate) fn epo(lambda: f64) -> EntropyMethod {
    EntropyMethod::Epo(EpoConfig { lambda: Positive::literal(lambda), ..EpoConfig::default() })
}

impl Config {
    /// What changes when a run goes on up to `steps`.
    pub(crate) fn resumed(steps: u64) -> impl Fn(&mut Self) -> Result<()> {
        move |config| {
            config.steps = steps;
            Ok(())
        }
    }

    pub(crate) fn agent(&self) -> AgentConfig {
        let Self { model, optimizer, entropy, rollout, .. } = self.clone();
        AgentConfig { model, optimizer, entropy, rollout }
    }

    /// An agent that has learned nothing yet.
    pub(crate) fn new_agent(&self) -> Result<Agent> {
        let demonstrations = demonstrations();
        let texts = demonstrations.iter().flat_map(demonstration_texts);
        Agent::new(&self.agent(), texts, self.seed, None)
    }

    /// The episodes of step `step`.
    pub(crate) fn episodes(&self, step: u64) -> Vec<Episode> {
        let schedule = TaskSchedule::new(&panel(), self.seed, self.rollout.tasks.get()).unwrap();
        group_episodes(&schedule, self.seed, step, self.rollout.group.get())
    }

    pub(crate) fn play(&self, agent: &Agent, episodes: &[Episode]) -> Result<Rollouts> {
        self.play_in(agent, episodes, &mut environments(self.environments))
    }

    pub(crate) fn play_in(
        &self,
        agent: &Agent,
        episodes: &[Episode],
        environments: &mut [Box<dyn Environment>],
    ) -> Result<Rollouts> {
        let limits = self.rollout.play(self.rollout.temperature.get());
        agent.play(environments, episodes, &limits, &mut |_| ())
    }

    /// The update that played episodes teach.
    pub(crate) fn update(
        &self,
        agent: &mut Agent,
        rollouts: &Rollouts,
        step: u64,
    ) -> Result<Record> {
        let rewards: Vec<Vec<f64>> = rollouts.trajectories.iter().map(Trajectory::gains).collect();
        let returns: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
        let advantages =
            turn_advantages(&rollouts.trajectories, &rewards, &AdvantageConfig::default())?;
        let Self { seed, learning_rate: lr, rollout, update, .. } = self;
        let settings = StepSettings { seed: *seed, step, lr: *lr, rows: rollout.rows, update };
        update_policy(agent, rollouts, &returns, &Advantages::Turns(advantages), &settings)
    }

    /// Share of solved tasks over 64 fixed episodes.
    pub(crate) fn success(&self, agent: &Agent) -> f64 {
        let played = self.play(agent, &evaluation_episodes(&panel(), 0, 16)).unwrap();
        played.trajectories.iter().filter(|t| t.success).count() as f64
            / played.trajectories.len() as f64
    }
}

pub(crate) fn task(variation: u32) -> Task {
    Task { name: ToyEnvironment::TASK.into(), variation }
}

pub(crate) fn panel() -> TaskSet {
    TaskSet::new("toy", (0..4).map(task).collect()).unwrap()
}

pub(crate) fn environments(n: usize) -> Vec<Box<dyn Environment>> {
    (0..n).map(|_| Box::new(ToyEnvironment::new()) as Box<dyn Environment>).collect()
}

/// The four solutions: look, then open the box that was named.
pub(crate) fn demonstrations() -> Vec<Demonstration> {
    let turn =
        |action: &str, step| DemonstratedTurn { action: action.into(), step, imitated: true };
    let solve = |variation| {
        let mut env = ToyEnvironment::new();
        let start = env.reset(&task(variation)).unwrap();
        let seen = env.step("look").unwrap();
        let colour = seen.observation.split(' ').nth(5).unwrap().to_string();
        let action = format!("open {colour}");
        let end = env.step(&action).unwrap();
        assert!(end.success);
        Demonstration {
            task: task(variation),
            start,
            turns: vec![turn("look", seen), turn(&action, end)],
        }
    };
    (0..4).map(solve).collect()
}

/// A new run in `dir`: clones, trains, saves a checkpoint after cloning and after every step.
pub(crate) fn train(dir: &Path, config: &Config) -> Result<Agent> {
    begin(&RunFolder::create(dir, config.clone())?)
}

/// The run of a folder without a checkpoint, from its beginning.
pub(crate) fn begin(folder: &RunFolder<Config>) -> Result<Agent> {
    let Config { cloning, update, seed, .. } = &folder.config;
    let mut agent = folder.config.new_agent()?;
    let mut recorder = Recorder::resume(&folder.dir, Position::default())?;
    clone_demonstrations(&mut agent, &demonstrations(), cloning, update, *seed, &mut recorder)?;
    if update.policy.kl.is_some() {
        agent.learner.freeze_reference()?;
    }
    save(folder, &agent, &mut recorder, 0)?;
    run(folder, agent, recorder, 0)
}

/// The run in `dir`, continued from its last checkpoint up to `steps`.
pub(crate) fn resume(dir: &Path, steps: u64) -> Result<Agent> {
    resume_with(dir, Config::resumed(steps))
}

/// The same with another adjustment.
pub(crate) fn resume_with(dir: &Path, adjust: impl Fn(&mut Config) -> Result<()>) -> Result<Agent> {
    let folder = RunFolder::resume(dir, adjust)?;
    let checkpoint = folder.checkpoint.as_ref().unwrap();
    let agent = Agent::restore(&folder.config.agent(), checkpoint, None)?;
    let recorder = Recorder::resume(dir, checkpoint.state()?)?;
    run(&folder, agent, recorder, checkpoint.step())
}

fn run(
    folder: &RunFolder<Config>,
    mut agent: Agent,
    mut recorder: Recorder,
    from: u64,
) -> Result<Agent> {
    let config = &folder.config;
    for step in from..config.steps {
        let rollouts = config.play(&agent, &config.episodes(step))?;
        let mut record = config.update(&mut agent, &rollouts, step)?;
        record.set("time/now", std::process::id());
        recorder.record(&record)?;
        dump_rollouts(&mut recorder, step, &rollouts.trajectories, &[])?;
        save(folder, &agent, &mut recorder, step + 1)?;
    }
    Ok(agent)
}

fn save(
    folder: &RunFolder<Config>,
    agent: &Agent,
    recorder: &mut Recorder,
    step: u64,
) -> Result<()> {
    let mut checkpoint = CheckpointWriter::new(&folder.dir, step)?;
    agent.save(&mut checkpoint)?;
    folder.save(&mut checkpoint)?;
    checkpoint.finish(&recorder.sync()?)?;
    Ok(())
}

/// Whether two plays of an episode are the same: the same tokens, with log-probabilities and
/// entropies that differ by no more than the rounding of products of another shape, which a batch
/// of other size takes.
pub(crate) fn same_episode(a: &Trajectory, b: &Trajectory) -> bool {
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    let same = |a: &Turn, b: &Turn| {
        (&a.prompt_ids, &a.action_ids, &a.observation)
            == (&b.prompt_ids, &b.action_ids, &b.observation)
            && near(&a.log_probs, &b.log_probs)
            && near(&a.entropies, &b.entropies)
    };
    (&a.task, a.member, a.turns.len()) == (&b.task, b.member, b.turns.len())
        && a.turns.iter().zip(&b.turns).all(|(a, b)| same(a, b))
}

/// The files of the last checkpoint in `dir` that hold what was learned.
pub(crate) fn learned(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let checkpoint = Checkpoint::latest(dir).unwrap().checkpoint.unwrap();
    let weights = ["model.safetensors", "adapter_model.safetensors"];
    let weights = weights.into_iter().filter(|name| checkpoint.file(name).is_ok());
    let names = weights.chain(["optimizer.safetensors", "entropy.json", "tokenizer.json"]);
    names.map(|name| (name, std::fs::read(checkpoint.file(name).unwrap()).unwrap())).collect()
}

/// Requires two runs to have the same metrics (times left out), the same training episodes and the
/// same last checkpoint, bit for bit.
pub(crate) fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(first_difference(a, b).unwrap(), None);
    let [dump_a, dump_b] = [a, b].map(|dir| {
        let read = |path: std::path::PathBuf| {
            (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap())
        };
        episode_files(dir).unwrap().into_iter().map(read).collect::<Vec<_>>()
    });
    assert!(dump_a.len() > usize::from(a.join(EPISODES_FILE).is_file()), "no dump");
    assert!(dump_a == dump_b, "the episodes differ");
    for ((name, a), (_, b)) in learned(a).iter().zip(learned(b)) {
        assert!(*a == b, "{name} differs");
    }
}
