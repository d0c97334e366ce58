//! A run in progress: everything that a training loop does around a step.
//!
//! Opening and resuming, playing, recording, evaluating and saving are the same in every loop and
//! stand here. Credit and update are what a user changes, and stand in the caller's loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::console::note;
use crate::entropy::control::EntropyControl;
use crate::env::Environment;
use crate::evaluation::task_set::{TaskSchedule, TaskSet};
#[cfg(feature = "report")]
use crate::report::write_report;
use crate::rollout::engine::{Episode, Rollouts};
use crate::rollout::prompt::demonstration_texts;
use crate::run::checkpoint::{prune_checkpoints, Checkpoint, CheckpointWriter};
use crate::run::episodes::dump_rollouts;
use crate::run::folder::{best_checkpoint, RunFolder};
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::{Position, Recorder};
use crate::train::config::run::TrainConfig;
use crate::train::credit::overlong::overlong_rewards;
use crate::train::credit::reward::Rewards;
use crate::train::credit::sampling::sample_informative;
use crate::train::evaluate::{evaluate_all, Outcome};
use crate::train::learn::agent::Agent;
use crate::train::learn::cloning::clone_demonstrations;
use crate::train::learn::critic::Critic;
use crate::train::learn::kl_reward::kl_rewards;
use crate::train::run_state::{Notes, Setup, State};
use crate::train::step::{group_episodes, round_episodes, step_line, summary, Throughput};
use crate::train::watch::alarm::{AlarmState, Alarms};
use crate::train::watch::diagnostics::length_metrics;
use crate::{Error, Result};

/// Checkpoints that stay in a run's folder.
const KEPT: usize = 3;

/// A run in progress.
///
/// A training loop iterates over [`Trainer::next_step`]: it plays, computes advantages, updates the
/// agent, and passes the record back.
pub struct Trainer<E> {
    /// Policy, tokenizer and entropy control.
    pub agent: Agent,
    /// The critic, if the algorithm has one.
    pub critic: Option<Critic>,
    folder: RunFolder<TrainConfig<E>>,
    recorder: Recorder,
    environments: Vec<Box<dyn Environment>>,
    state: State,
    notes: Notes,
    throughput: Throughput,
    alarms: Alarms,
    progress: Progress,
    step: u64,
    /// The step of the last checkpoint.
    saved: u64,
    stop: Option<&'static AtomicBool>,
}

impl<E: Serialize + DeserializeOwned> Trainer<E> {
    /// Opens the run of `folder`: resumes it from its checkpoint, or begins it (tokenizer,
    /// imitation, the evaluation before training, critic, first checkpoint).
    ///
    /// # Errors
    /// Contradicting settings, a `setup` for a resumed run or none for a new one, a checkpoint
    /// that cannot be restored, and errors of playing, imitation and writing.
    pub fn open(
        folder: RunFolder<TrainConfig<E>>,
        environments: Vec<Box<dyn Environment>>,
        setup: Option<Setup>,
    ) -> Result<Self> {
        Self::open_with(folder, environments, setup, None)
    }

    /// [`Trainer::open`] with an entropy control of the program's own: its regulariser, its
    /// history and its β. The settings say so with `entropy.method.kind = "custom"`; a resumed run
    /// gives the control its state back.
    ///
    /// # Errors
    /// See [`Trainer::open`]; settings of another method.
    pub fn open_with(
        folder: RunFolder<TrainConfig<E>>,
        environments: Vec<Box<dyn Environment>>,
        setup: Option<Setup>,
        entropy: Option<EntropyControl>,
    ) -> Result<Self> {
        folder.config.check()?;
        for error in &folder.skipped {
            note(format_args!("passed over: {error}"));
        }
        match (folder.checkpoint.clone(), setup) {
            (Some(checkpoint), None) => Self::continued(folder, environments, &checkpoint, entropy),
            (None, Some(setup)) => Self::begun(folder, environments, setup, entropy),
            (Some(_), Some(_)) => Err(Error::setting("setup", "given", "this run has begun")),
            (None, None) => Err(Error::setting("setup", "missing", "a new run needs one")),
        }
    }

    fn continued(
        folder: RunFolder<TrainConfig<E>>,
        environments: Vec<Box<dyn Environment>>,
        checkpoint: &Checkpoint,
        entropy: Option<EntropyControl>,
    ) -> Result<Self> {
        let agent = Agent::restore(&folder.config.agent(), checkpoint, entropy)?;
        let critic = folder.config.algorithm.critic();
        let critic =
            critic.map(|config| Critic::restore(config, &agent.learner, checkpoint)).transpose()?;
        let mut run = Self::assemble(folder, environments, agent, checkpoint.state()?)?;
        run.critic = critic;
        run.step = checkpoint.step();
        run.saved = run.step;
        run.progress =
            Progress::new("step", run.config().steps as usize).starting_at(run.step as usize);
        Ok(run)
    }

    fn begun(
        folder: RunFolder<TrainConfig<E>>,
        environments: Vec<Box<dyn Environment>>,
        setup: Setup,
        entropy: Option<EntropyControl>,
    ) -> Result<Self> {
        let Setup { train, evaluation, demonstrations } = setup;
        let texts = demonstrations.iter().flat_map(demonstration_texts);
        let agent = Agent::new(&folder.config.agent(), texts, folder.config.seed, entropy)?;
        let state = State {
            position: Position::default(),
            train,
            evaluation,
            before: Vec::new(),
            alarms: AlarmState::default(),
            kl: folder.config.kl_reward.map(|kl| kl.control),
        };
        let mut run = Self::assemble(folder, environments, agent, state)?;
        let TrainConfig { cloning, update, seed, algorithm, kl_reward, .. } = &run.folder.config;
        if let Some(cloning) = cloning {
            let recorder = &mut run.recorder;
            clone_demonstrations(
                &mut run.agent,
                &demonstrations,
                cloning,
                update,
                *seed,
                recorder,
            )?;
        }
        if kl_reward.is_some() || update.policy.kl.is_some() {
            run.agent.learner.freeze_reference()?;
        }
        if let Some(critic) = algorithm.critic() {
            run.critic = Some(Critic::new(critic, &run.agent.learner, *seed)?);
        }
        run.state.before = run.evaluate()?;
        run.save()?;
        run.progress = Progress::new("step", run.config().steps as usize);
        Ok(run)
    }

    fn assemble(
        folder: RunFolder<TrainConfig<E>>,
        environments: Vec<Box<dyn Environment>>,
        agent: Agent,
        state: State,
    ) -> Result<Self> {
        if environments.is_empty() {
            return Err(Error::setting("environments", 0, "must be at least 1"));
        }
        let mut recorder = Recorder::resume(&folder.dir, state.position)?;
        if let Some(dump) = folder.config.dump {
            let bytes = (dump.megabytes.get() as u64).saturating_mul(1_000_000);
            recorder = recorder.keeping_rollouts(bytes);
        }
        let alarms = Alarms::restore(folder.config.alarm, state.alarms.clone());
        Ok(Self {
            agent,
            critic: None,
            folder,
            recorder,
            environments,
            state,
            notes: Notes::default(),
            throughput: Throughput::default(),
            alarms,
            progress: Progress::new("step", 0),
            step: 0,
            saved: 0,
            stop: None,
        })
    }

    /// Ends the run after the step in which `stop` is set ([`crate::run::stop_on_ctrl_c`]).
    #[must_use]
    pub fn stopping_at(self, stop: &'static AtomicBool) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// The run's settings.
    pub fn config(&self) -> &TrainConfig<E> {
        &self.folder.config
    }

    /// The agent and its critic.
    ///
    /// # Errors
    /// A run without a critic.
    pub fn actor_critic(&mut self) -> Result<(&mut Agent, &mut Critic)> {
        let missing = || Error::setting("critic", "missing", "this run has no critic");
        Ok((&mut self.agent, self.critic.as_mut().ok_or_else(missing)?))
    }

    /// The next training step, counted from 0; `None` at the end or if the run is to stop.
    pub fn next_step(&self) -> Option<u64> {
        (self.step < self.config().steps && !self.stopping() && !self.alarms.stops())
            .then_some(self.step)
    }

    fn stopping(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Plays the episodes of `step`; with dynamic sampling, until enough groups are informative
    /// ([`sample_informative`]).
    ///
    /// # Errors
    /// As [`Agent::play`].
    pub fn play(&mut self, step: u64) -> Result<Rollouts> {
        let Self { agent, environments, progress, state, notes, folder, .. } = self;
        let TrainConfig { seed, rollout, reward, dynamic_sampling, .. } = &folder.config;
        let schedule = TaskSchedule::new(&state.train, *seed, rollout.tasks.get())?;
        let limits = rollout.play(rollout.temperature.get());
        let mut play = |episodes: &[Episode]| {
            agent.play(environments, episodes, &limits, &mut |done| {
                progress.set(step as usize, &format!("playing {done}/{}", episodes.len()));
            })
        };
        let Some(sampling) = *dynamic_sampling else {
            return play(&group_episodes(&schedule, *seed, step, rollout.group.get()));
        };
        let sampled = sample_informative(sampling, rollout.tasks.get(), reward, &mut |round| {
            play(&round_episodes(&schedule, *seed, step, round, sampling, rollout.group.get()))
        })?;
        notes.metrics.extend(sampled.metrics());
        notes.unused = sampled.unused;
        Ok(sampled.rollouts)
    }

    /// The rewards of `step`: the environment's, and the penalties for length and KL that the
    /// settings ask for. [`Trainer::record`] reports them and updates an adaptive KL weight.
    ///
    /// # Errors
    /// As [`kl_rewards`].
    pub fn rewards(&mut self, step: u64, rollouts: &Rollouts) -> Result<Rewards> {
        let Self { agent, state, notes, alarms, folder, .. } = self;
        let (config, played) = (&folder.config, &rollouts.trajectories);
        let mut rewards = Rewards::new(played, &config.reward);
        if let Some(overlong) = &config.overlong {
            let pay = overlong_rewards(played, overlong)?;
            let total: f64 = pay.iter().flatten().sum();
            notes.metrics.push(("overlong/reward", total / played.len().max(1) as f64));
            rewards.add_token_rewards(played, &pay)?;
        }
        if let (Some(kl_reward), Some(control)) = (config.kl_reward, state.kl) {
            let settings = config.settings(step, alarms.lr_factor());
            let (pay, kl) =
                kl_rewards(&agent.learner, played, kl_reward.estimator, control.coef(), &settings)?;
            notes.metrics.extend([("kl_reward/kl", kl), ("kl_reward/coef", control.coef())]);
            notes.kl = Some((kl, played.len()));
            rewards.add_token_rewards(played, &pay)?;
        }
        Ok(rewards)
    }

    /// The factor by which alarms have lowered the policy's learning rate so far.
    pub fn lr_factor(&self) -> f64 {
        self.alarms.lr_factor()
    }

    /// Records the step that began at `began` with its rates and the statistics of its episodes,
    /// raises alarms, and prints a progress line.
    ///
    /// # Errors
    /// A record that cannot be written.
    pub fn record(
        &mut self,
        mut record: Record,
        rollouts: &Rollouts,
        began: Instant,
    ) -> Result<()> {
        let TrainConfig { rollout, dump, .. } = &self.folder.config;
        let notes = std::mem::take(&mut self.notes);
        for &(key, value) in &notes.metrics {
            record.set(key, value);
        }
        if let (Some((kl, samples)), Some(control)) = (notes.kl, &mut self.state.kl) {
            control.update(kl, samples)?;
        }
        length_metrics(&mut record, &rollouts.trajectories, rollout.actions.max_tokens());
        self.throughput.add(&mut record, &rollouts.stats, began);
        for alarm in self.alarms.observe(&mut record) {
            self.progress.line(&alarm.to_string());
        }
        if dump.is_some() {
            dump_rollouts(&mut self.recorder, self.step, &rollouts.trajectories, &notes.unused)?;
        }
        self.recorder.record(&record)?;
        self.step += 1;
        self.progress.advance_to(self.step as usize);
        self.progress.line(&step_line(
            &record,
            self.step,
            self.folder.config.steps,
            &self.progress,
        ));
        Ok(())
    }

    /// Evaluates the policy and saves the run if they are due; call it after [`Trainer::record`].
    ///
    /// # Errors
    /// See [`Trainer::evaluate`] and [`Trainer::save`].
    pub fn evaluate_and_save(&mut self) -> Result<()> {
        let TrainConfig { evaluation, checkpoint_every, steps, .. } = &self.folder.config;
        let every = evaluation.every;
        let saves = checkpoint_every.get() as u64;
        let last = self.step == *steps;
        if every > 0 && self.step.is_multiple_of(every) && !last {
            self.evaluate()?;
        }
        if self.step.is_multiple_of(saves) || last || self.stopping() || self.alarms.stops() {
            self.save()
        } else {
            Ok(())
        }
    }

    /// Evaluates the policy; one outcome per evaluation set.
    ///
    /// # Errors
    /// As [`evaluate_all`].
    pub fn evaluate(&mut self) -> Result<Vec<Outcome>> {
        let Self { agent, environments, state, recorder, folder, step, .. } = self;
        let TrainConfig { seed, evaluation, rollout, .. } = &folder.config;
        let panels: Vec<&TaskSet> = state.evaluation.iter().collect();
        evaluate_all(agent, environments, &panels, (evaluation, rollout), (*seed, *step), recorder)
    }

    /// Writes a run checkpoint and removes old ones, except the one with the highest success on
    /// the first evaluation set.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&mut self) -> Result<()> {
        let mut checkpoint = CheckpointWriter::new(&self.folder.dir, self.step)?;
        self.agent.save(&mut checkpoint)?;
        if let Some(critic) = &self.critic {
            critic.save(&mut checkpoint)?;
        }
        self.folder.save(&mut checkpoint)?;
        self.state.position = self.recorder.sync()?;
        self.state.alarms = self.alarms.state().clone();
        checkpoint.finish(&self.state)?;
        self.saved = self.step;
        let best = match self.state.evaluation.first() {
            Some(panel) => best_checkpoint(&self.folder.dir, &panel.name, "success")?,
            None => None,
        };
        prune_checkpoints(&self.folder.dir, KEPT, best).map(drop)
    }

    /// Ends the run: last evaluation, exported model, report. Returns the outcomes before and after
    /// training, one per evaluation set.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`]; a file that cannot be written.
    pub fn finish(&mut self) -> Result<[Vec<Outcome>; 2]> {
        let dir = self.folder.dir.clone();
        if self.saved < self.step {
            self.save()?; // stopped after the decision that this step needs no checkpoint
        }
        if self.alarms.stops() {
            let step = self.step;
            note(format_args!(
                "an alarm has ended the run after step {step} (alarm.action = \"stop\")"
            ));
        } else if self.step < self.config().steps {
            let step = self.step;
            let dir = dir.display();
            note(format_args!("stopped after step {step}; continue with --resume {dir}"));
        }
        let after = self.evaluate()?;
        self.agent.export(&dir, self.step)?;
        #[cfg(feature = "report")]
        note(format_args!("look at {}", write_report(&[&dir])?.display()));
        note(format_args!("tensorboard --logdir {}", dir.display()));
        Ok([self.state.before.clone(), after])
    }

    /// The run's summary ([`summary`]) with the outcomes of one evaluation set.
    pub fn summary(&self, began: Instant, before: &Outcome, after: &Outcome) -> serde_json::Value {
        summary(self.step, began, [before, after], &self.throughput, &self.folder.dir)
    }
}
