//! The turn loop: many episodes over a fixed set of environments, in rounds.
//!
//! Each round decodes one action for every running episode as one batch and then steps all
//! environments. A finished episode's slot is taken by the next episode in line. The episodes that
//! share a batch depend only on the episodes themselves, never on timing, so a run is reproducible
//! bit for bit.

use std::time::{Duration, Instant};

use crate::env::{Environment, Start, Step, Task};
use crate::rng::Stream;
use crate::rollout::action::Action;
use crate::rollout::config::{ActionSpace, PlayConfig};
use crate::rollout::prompt::Prompter;
use crate::rollout::sampler::{Request, Sampled, Sampler};
use crate::rollout::trajectory::{End, Trajectory, Turn};
use crate::threads::on_threads;
use crate::{Error, Result};

/// An episode to play.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The task.
    pub task: Task,
    /// Index of its group (members of a group play the same task).
    pub group: u32,
    /// Index inside the group.
    pub member: u32,
    /// Source of its random draws.
    pub stream: Stream,
}

/// Counters and times of [`play`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PlayStats {
    /// Sampled tokens.
    pub sampled_tokens: usize,
    /// Prompt tokens that were computed: once for a group that starts with the same prompt, and
    /// only the new ones of a later turn.
    pub read_tokens: usize,
    /// Environment steps.
    pub env_steps: usize,
    /// Episodes lost because their environment failed.
    pub dropped: usize,
    /// Wall time in the policy, including the construction of its token tries.
    pub policy_time: Duration,
    /// Wall time in the environments, without the tokenisation of observations.
    pub env_time: Duration,
}

impl std::ops::AddAssign for PlayStats {
    fn add_assign(&mut self, other: Self) {
        self.sampled_tokens += other.sampled_tokens;
        self.read_tokens += other.read_tokens;
        self.env_steps += other.env_steps;
        self.dropped += other.dropped;
        self.policy_time += other.policy_time;
        self.env_time += other.env_time;
    }
}

/// The played episodes, in the order they were requested, and the statistics.
#[derive(Debug, Clone, Default)]
pub struct Rollouts {
    /// The trajectories; a dropped episode is absent.
    pub trajectories: Vec<Trajectory>,
    /// Counters and times.
    pub stats: PlayStats,
}

/// Plays `episodes` to their ends and calls `progress` with the number finished after each round.
///
/// # Errors
/// The sampler or the prompter failed, there is no environment, or no episode could be played at
/// all. An environment that fails costs only the episode it plays, counted in
/// [`PlayStats::dropped`]; one that fails to start three episodes in a row is not used again.
pub fn play(
    sampler: &mut dyn Sampler,
    environments: &mut [Box<dyn Environment>],
    prompter: &Prompter,
    episodes: &[Episode],
    config: &PlayConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Rollouts> {
    let count = environments.len().min(sampler.slots());
    if count == 0 {
        return Err(Error::setting("environments", 0, "must be at least 1"));
    }
    let mut slots = Slots::new(&mut environments[..count], prompter, episodes, config);
    let mut finished: Vec<Option<Trajectory>> = vec![None; episodes.len()];
    let mut ended = 0;
    loop {
        slots.reset()?;
        if slots.running.iter().all(Option::is_none) {
            break;
        }
        if config.actions == ActionSpace::Admissible {
            slots.admissible();
        }
        let actions = slots.sample(sampler)?;
        slots.step(actions)?;
        for (index, trajectory) in slots.take_finished() {
            finished[index] = Some(trajectory);
            ended += 1;
        }
        progress(ended + slots.stats.dropped);
    }
    slots.stats.dropped += episodes.len() - slots.next;
    let trajectories: Vec<Trajectory> = finished.into_iter().flatten().collect();
    match slots.failure {
        Some(error) if trajectories.is_empty() => Err(error),
        _ => Ok(Rollouts { trajectories, stats: slots.stats }),
    }
}

/// Failed starts in a row after which an environment is not used again: a broken one would
/// otherwise drop all remaining episodes.
const MAX_FAILED_STARTS: usize = 3;

/// The environments, each with the episode it plays.
struct Slots<'a> {
    environments: &'a mut [Box<dyn Environment>],
    prompter: &'a Prompter,
    episodes: &'a [Episode],
    config: &'a PlayConfig,
    running: Vec<Option<Running>>,
    failed_starts: Vec<usize>,
    /// Index of the next episode to start.
    next: usize,
    stats: PlayStats,
    /// The first error of an environment.
    failure: Option<Error>,
}

/// A running episode.
struct Running {
    index: usize,
    start: Start,
    turns: Vec<Turn>,
    prompt_ids: Vec<u32>,
    /// The admissible actions, if the policy has to choose among them.
    admissible: Option<Vec<String>>,
    /// The reason for the end, and whether the task was solved.
    ended: Option<(End, bool)>,
}

impl<'a> Slots<'a> {
    /// One free slot per environment.
    fn new(
        environments: &'a mut [Box<dyn Environment>],
        prompter: &'a Prompter,
        episodes: &'a [Episode],
        config: &'a PlayConfig,
    ) -> Self {
        let count = environments.len();
        Self {
            environments,
            prompter,
            episodes,
            config,
            running: (0..count).map(|_| None).collect(),
            failed_starts: vec![0; count],
            next: 0,
            stats: PlayStats::default(),
            failure: None,
        }
    }

    /// Starts the next episodes in line in all free slots.
    fn reset(&mut self) -> Result<()> {
        loop {
            let free = (0..self.running.len()).filter(|&slot| self.is_free(slot));
            let starting: Vec<(usize, usize)> = free.zip(self.next..self.episodes.len()).collect();
            if starting.is_empty() {
                return Ok(());
            }
            self.next += starting.len();
            let episodes = self.episodes;
            let starts = self.call(&starting, |env, index| env.reset(&episodes[index].task));
            for ((slot, index), start) in starting.into_iter().zip(starts) {
                match start {
                    Ok(start) => {
                        self.failed_starts[slot] = 0;
                        self.running[slot] = Some(Running::new(index, start, self.prompter)?);
                    }
                    Err(error) => {
                        self.failed_starts[slot] += 1;
                        self.drop_episode(slot, error);
                    }
                }
            }
        }
    }

    fn is_free(&self, slot: usize) -> bool {
        self.running[slot].is_none() && self.failed_starts[slot] < MAX_FAILED_STARTS
    }

    /// Asks the environment of every running episode for its admissible actions.
    fn admissible(&mut self) {
        let running = self.running.iter().enumerate().filter(|(_, r)| r.is_some());
        let slots: Vec<(usize, usize)> = running.map(|(slot, _)| (slot, slot)).collect();
        let lists = self.call(&slots, |env, _| env.admissible());
        for ((slot, _), list) in slots.into_iter().zip(lists) {
            match (list, self.running[slot].as_mut()) {
                (Ok(actions), Some(running)) => running.admissible = Some(actions),
                (Err(error), _) => self.drop_episode(slot, error),
                (Ok(_), None) => {}
            }
        }
    }

    /// Samples an action for every running episode; returns each with its slot.
    fn sample(&mut self, sampler: &mut dyn Sampler) -> Result<Vec<(usize, Sampled)>> {
        let clock = Instant::now();
        let mut requests = Vec::new();
        for (slot, running) in self.running.iter().enumerate() {
            if let Some(running) = running {
                let stream = self.episodes[running.index].stream;
                requests.push(running.request(slot, stream, self.prompter)?);
            }
        }
        let sampled = sampler.sample(&requests, self.config)?;
        for action in &sampled {
            self.stats.read_tokens += action.read;
            self.stats.sampled_tokens += action.ids.len();
        }
        self.stats.policy_time += clock.elapsed();
        Ok(requests.iter().map(|r| r.slot).zip(sampled).collect())
    }

    /// Steps the environments with the sampled actions.
    fn step(&mut self, sampled: Vec<(usize, Sampled)>) -> Result<()> {
        let mut actions = Vec::with_capacity(sampled.len());
        let mut moves = Vec::new();
        for (i, (slot, sampled)) in sampled.iter().enumerate() {
            actions.push(self.prompter.action(&sampled.ids)?);
            if !sampled.ids.is_empty() {
                moves.push((*slot, i));
            }
        }
        let mut steps = self.call(&moves, |env, i| env.step(&actions[i].text)).into_iter();
        self.stats.env_steps += moves.len();
        for ((slot, sampled), action) in sampled.into_iter().zip(actions) {
            let Some(running) = self.running[slot].as_mut() else { continue };
            if sampled.ids.is_empty() {
                running.ended = Some((End::ContextFull, false));
                continue;
            }
            match steps.next() {
                Some(Ok(step)) => {
                    running.record(sampled, action, step, self.prompter, self.config)?
                }
                Some(Err(error)) => self.drop_episode(slot, error),
                None => {}
            }
        }
        Ok(())
    }

    /// Removes the finished episodes from their slots; returns each with its index.
    fn take_finished(&mut self) -> Vec<(usize, Trajectory)> {
        let mut finished = Vec::new();
        for place in &mut self.running {
            let Some(running) = place.take_if(|running| running.ended.is_some()) else { continue };
            let (end, success) = running.ended.unwrap_or((End::Done, false));
            let Episode { task, group, member, .. } = self.episodes[running.index].clone();
            let Running { index, start, turns, .. } = running;
            let trajectory = Trajectory { task, group, member, start, turns, success, end };
            finished.push((index, trajectory));
        }
        finished
    }

    fn drop_episode(&mut self, slot: usize, error: Error) {
        self.running[slot] = None;
        self.stats.dropped += 1;
        self.failure.get_or_insert(error);
    }

    /// [`call_environments`], with its wall time added to the statistics.
    fn call<T: Send>(
        &mut self,
        calls: &[(usize, usize)],
        f: impl Fn(&mut dyn Environment, usize) -> Result<T> + Sync,
    ) -> Vec<Result<T>> {
        let clock = Instant::now();
        let results = call_environments(self.environments, calls, f);
        self.stats.env_time += clock.elapsed();
        results
    }
}

impl Running {
    fn new(index: usize, start: Start, prompter: &Prompter) -> Result<Self> {
        let prompt_ids = prompter.start(&start)?;
        Ok(Self { index, start, turns: vec![], prompt_ids, admissible: None, ended: None })
    }

    fn request(&self, slot: usize, stream: Stream, prompter: &Prompter) -> Result<Request> {
        let choices = self.admissible.as_ref().map(|actions| prompter.choices(actions));
        Ok(Request {
            slot,
            fresh: self.turns.is_empty(),
            prompt_ids: self.prompt_ids.clone(),
            stream,
            turn: self.turns.len() as u64,
            choices: choices.transpose()?,
        })
    }

    fn record(
        &mut self,
        sampled: Sampled,
        action: Action,
        step: Step,
        prompter: &Prompter,
        config: &PlayConfig,
    ) -> Result<()> {
        let next_prompt = prompter.after_action(&sampled.ids, &step.observation)?;
        self.turns.push(Turn {
            prompt_ids: std::mem::replace(&mut self.prompt_ids, next_prompt),
            valid: sampled.stopped && action.well_formed && step.valid,
            action_ids: sampled.ids,
            log_probs: sampled.log_probs,
            entropies: sampled.entropies,
            supports: sampled.supports,
            action: action.text,
            observation: step.observation,
            reward: step.reward,
            score: step.score,
        });
        if step.done {
            self.ended = Some((End::Done, step.success));
        } else if self.turns.len() == config.max_turns {
            self.ended = Some((End::TurnLimit, step.success));
        }
        Ok(())
    }
}

/// Calls `f(environment of the slot, item)` for each (slot, item), slots ascending; returns the
/// results in order.
///
/// If any environment waits for another process, all calls run at the same time on threads of their
/// own; otherwise they run one after another on this thread.
fn call_environments<T: Send>(
    environments: &mut [Box<dyn Environment>],
    calls: &[(usize, usize)],
    f: impl Fn(&mut dyn Environment, usize) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    if environments.iter().all(|env| !env.waits()) {
        return calls.iter().map(|&(slot, item)| f(environments[slot].as_mut(), item)).collect();
    }
    let mut rest = calls.iter().peekable();
    let mut jobs = Vec::with_capacity(calls.len());
    for (slot, env) in environments.iter_mut().enumerate() {
        if let Some((_, item)) = rest.next_if(|(of, _)| *of == slot) {
            jobs.push((env, *item));
        }
    }
    let threads = jobs.len();
    let results = on_threads(jobs, threads, |(env, item)| f(env.as_mut(), item));
    let panicked = || Error::Environment {
        environment: "any",
        what: "thread",
        value: String::new(),
        reason: "the environment panicked".into(),
    };
    results.into_iter().map(|result| result.unwrap_or_else(|_| Err(panicked()))).collect()
}
