//! The turn loop: many episodes over a fixed set of environments, decoded in rounds.
//!
//! Every round decodes one action for each running episode as one batch, then lets all environments answer
//! in parallel; a finished episode's place is taken by the next one in line. Which episodes share a batch
//! depends only on the episodes themselves, never on timing, so a run repeats bit for bit.

use std::time::{Duration, Instant};

use crate::env::{Environment, Start, Step, Task};
use crate::policy::trie::TokenTrie;
use crate::rng::Stream;
use crate::rollout::action::Action;
use crate::rollout::config::{ActionSpace, PlayConfig};
use crate::rollout::prompt::Prompter;
use crate::rollout::trajectory::{End, Trajectory, Turn};
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
    /// Where its random draws come from.
    pub stream: Stream,
}

/// One place of a sampler and the tokens it is shown before it acts.
#[derive(Debug, Clone)]
pub struct Request {
    /// The place, below [`Sampler::slots`].
    pub slot: usize,
    /// A new episode begins here: forget the place's history.
    pub fresh: bool,
    /// Token ids to append to its history.
    pub prompt_ids: Vec<u32>,
    /// The episode's stream of draws.
    pub stream: Stream,
    /// The turn's index.
    pub turn: u64,
    /// The only actions that may be sampled; `None`: any.
    pub choices: Option<TokenTrie>,
}

/// One sampled action; no ids at all when the prompt did not fit into the context.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampled {
    /// Sampled ids, the stop token included.
    pub ids: Vec<u32>,
    /// Log-probability of each, nats.
    pub log_probs: Vec<f32>,
    /// Entropy behind each, nats.
    pub entropies: Vec<f32>,
    /// The ids that each was chosen from, where the request had choices; else empty.
    pub supports: Vec<Vec<u32>>,
    /// The stop token came before the limit.
    pub stopped: bool,
}

/// Something that samples actions for several episodes at once and remembers their histories.
pub trait Sampler {
    /// How many episodes it can hold at a time.
    fn slots(&self) -> usize;

    /// Samples one action for each request, in order.
    ///
    /// # Errors
    /// The policy failed.
    fn sample(&mut self, requests: &[Request], config: &PlayConfig) -> Result<Vec<Sampled>>;
}

/// Where the time of [`play`] went, and what it met.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlayStats {
    /// Sampled tokens.
    pub sampled_tokens: usize,
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Environment steps.
    pub env_steps: usize,
    /// Episodes lost because their environment could not be brought back.
    pub dropped: usize,
    /// Wall time in the policy, building its token tries included.
    pub policy_time: Duration,
    /// Wall time in the environments; tokenising what they answer is not theirs.
    pub env_time: Duration,
}

impl std::ops::AddAssign for PlayStats {
    fn add_assign(&mut self, other: Self) {
        self.sampled_tokens += other.sampled_tokens;
        self.prompt_tokens += other.prompt_tokens;
        self.env_steps += other.env_steps;
        self.dropped += other.dropped;
        self.policy_time += other.policy_time;
        self.env_time += other.env_time;
    }
}

/// The episodes played, in the order they were asked for, and the statistics.
#[derive(Debug, Clone, Default)]
pub struct Rollouts {
    /// The trajectories; a dropped episode is absent.
    pub trajectories: Vec<Trajectory>,
    /// Counters and times.
    pub stats: PlayStats,
}

/// A running episode.
struct Running {
    index: usize,
    start: Start,
    turns: Vec<Turn>,
    prompt_ids: Vec<u32>,
    /// The admissible actions, where the policy has to choose among them.
    admissible: Option<Vec<String>>,
    ended: Option<(End, bool)>,
}

/// Plays `episodes` to their ends and calls `progress` with the number finished after each round.
///
/// # Errors
/// The sampler or the prompter failed, there is no environment, or no episode could be played at all. An
/// environment that fails costs only the episode it plays, counted in [`PlayStats::dropped`]; one that cannot
/// begin three episodes in a row gets no more.
pub fn play(
    sampler: &mut dyn Sampler,
    environments: &mut [Box<dyn Environment>],
    prompter: &Prompter,
    episodes: &[Episode],
    config: &PlayConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Rollouts> {
    let slots = environments.len().min(sampler.slots());
    if slots == 0 {
        return Err(Error::setting("environments", 0, "at least one environment is needed"));
    }
    let running = (0..slots).map(|_| None).collect();
    let mut table =
        Table { prompter, episodes, config, running, failed_starts: vec![0; slots], next: 0 };
    let mut finished: Vec<Option<Trajectory>> = vec![None; episodes.len()];
    let (mut stats, mut failure, mut ended) = (PlayStats::default(), None, 0);
    loop {
        table.seat(environments, &mut stats, &mut failure)?;
        if table.running.iter().all(Option::is_none) {
            break;
        }
        if config.actions == ActionSpace::Admissible {
            table.offer(environments, &mut stats, &mut failure);
        }
        let clock = Instant::now();
        let actions = table.act(sampler, &mut stats)?;
        stats.policy_time += clock.elapsed();
        table.answer(environments, actions, &mut stats, &mut failure)?;
        for (index, trajectory) in table.collect() {
            finished[index] = Some(trajectory);
            ended += 1;
        }
        progress(ended + stats.dropped);
    }
    stats.dropped += episodes.len() - table.next;
    let trajectories: Vec<Trajectory> = finished.into_iter().flatten().collect();
    match failure {
        Some(error) if trajectories.is_empty() => Err(error),
        _ => Ok(Rollouts { trajectories, stats }),
    }
}

/// An environment that cannot begin this many episodes in a row gets no more: it would take them all.
const MOST_FAILED_STARTS: usize = 3;

struct Table<'a> {
    prompter: &'a Prompter,
    episodes: &'a [Episode],
    config: &'a PlayConfig,
    running: Vec<Option<Running>>,
    failed_starts: Vec<usize>,
    next: usize,
}

impl Table<'_> {
    fn is_free(&self, slot: usize) -> bool {
        self.running[slot].is_none() && self.failed_starts[slot] < MOST_FAILED_STARTS
    }

    /// Gives every free place the next episode in line.
    fn seat(
        &mut self,
        environments: &mut [Box<dyn Environment>],
        stats: &mut PlayStats,
        failure: &mut Option<Error>,
    ) -> Result<()> {
        loop {
            let free = (0..self.running.len()).filter(|&slot| self.is_free(slot));
            let seated: Vec<(usize, usize)> = free.zip(self.next..self.episodes.len()).collect();
            if seated.is_empty() {
                return Ok(());
            }
            self.next += seated.len();
            let episodes = self.episodes;
            let reset = |env: &mut dyn Environment, index: usize| env.reset(&episodes[index].task);
            let starts = in_parallel(environments, &seated, &mut stats.env_time, reset);
            for ((slot, index), start) in seated.into_iter().zip(starts) {
                match start {
                    Ok(start) => {
                        self.failed_starts[slot] = 0;
                        let prompt_ids = self.prompter.start(&start)?;
                        self.running[slot] = Some(Running {
                            index,
                            start,
                            turns: vec![],
                            prompt_ids,
                            admissible: None,
                            ended: None,
                        });
                    }
                    Err(error) => {
                        self.failed_starts[slot] += 1;
                        drop_episode(stats, failure, error);
                    }
                }
            }
        }
    }

    /// Asks every running episode's environment which actions may be chosen.
    fn offer(
        &mut self,
        environments: &mut [Box<dyn Environment>],
        stats: &mut PlayStats,
        failure: &mut Option<Error>,
    ) {
        let running = self.running.iter().enumerate().filter(|(_, r)| r.is_some());
        let slots: Vec<(usize, usize)> = running.map(|(slot, _)| (slot, slot)).collect();
        let offers =
            in_parallel(environments, &slots, &mut stats.env_time, |env, _| env.admissible());
        for ((slot, _), offer) in slots.into_iter().zip(offers) {
            match (offer, self.running[slot].as_mut()) {
                (Ok(actions), Some(running)) => running.admissible = Some(actions),
                (Err(error), _) => {
                    self.running[slot] = None;
                    drop_episode(stats, failure, error);
                }
                (Ok(_), None) => {}
            }
        }
    }

    /// Samples an action for every running episode.
    fn act(
        &self,
        sampler: &mut dyn Sampler,
        stats: &mut PlayStats,
    ) -> Result<Vec<(usize, Sampled)>> {
        let running =
            self.running.iter().enumerate().filter_map(|(slot, r)| Some((slot, r.as_ref()?)));
        let request = |(slot, r): (usize, &Running)| -> Result<Request> {
            Ok(Request {
                slot,
                fresh: r.turns.is_empty(),
                prompt_ids: r.prompt_ids.clone(),
                stream: self.episodes[r.index].stream,
                turn: r.turns.len() as u64,
                choices: r
                    .admissible
                    .as_ref()
                    .map(|actions| self.prompter.choices(actions))
                    .transpose()?,
            })
        };
        let requests: Vec<Request> = running.map(request).collect::<Result<_>>()?;
        let sampled = sampler.sample(&requests, self.config)?;
        for (request, action) in requests.iter().zip(&sampled) {
            stats.prompt_tokens += request.prompt_ids.len();
            stats.sampled_tokens += action.ids.len();
        }
        Ok(requests.iter().map(|r| r.slot).zip(sampled).collect())
    }

    /// Plays the sampled actions, all environments at once.
    fn answer(
        &mut self,
        environments: &mut [Box<dyn Environment>],
        actions: Vec<(usize, Sampled)>,
        stats: &mut PlayStats,
        failure: &mut Option<Error>,
    ) -> Result<()> {
        let mut written = Vec::with_capacity(actions.len());
        let mut moves = Vec::new();
        for (i, (slot, sampled)) in actions.iter().enumerate() {
            written.push(self.prompter.action(&sampled.ids)?);
            if !sampled.ids.is_empty() {
                moves.push((*slot, i));
            }
        }
        let step = |env: &mut dyn Environment, i: usize| env.step(&written[i].text);
        let mut steps = in_parallel(environments, &moves, &mut stats.env_time, step).into_iter();
        stats.env_steps += moves.len();
        for ((slot, sampled), action) in actions.into_iter().zip(written) {
            let Some(running) = self.running[slot].as_mut() else { continue };
            if sampled.ids.is_empty() {
                running.ended = Some((End::ContextFull, false));
                continue;
            }
            match steps.next() {
                Some(Ok(step)) => {
                    running.record(sampled, action, step, self.prompter, self.config)?
                }
                Some(Err(error)) => {
                    self.running[slot] = None;
                    drop_episode(stats, failure, error);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Takes the finished episodes out.
    fn collect(&mut self) -> Vec<(usize, Trajectory)> {
        let mut out = Vec::new();
        for place in &mut self.running {
            if let Some(r) = place.take_if(|r| r.ended.is_some()) {
                let (end, success) = r.ended.unwrap_or((End::Done, false));
                let Episode { task, group, member, .. } = self.episodes[r.index].clone();
                let trajectory = Trajectory {
                    task,
                    group,
                    member,
                    start: r.start,
                    turns: r.turns,
                    success,
                    end,
                };
                out.push((r.index, trajectory));
            }
        }
        out
    }
}

impl Running {
    fn record(
        &mut self,
        sampled: Sampled,
        action: Action,
        step: Step,
        prompter: &Prompter,
        config: &PlayConfig,
    ) -> Result<()> {
        let answer = prompter.answer(&sampled.ids, &step.observation)?;
        let prompt_ids = std::mem::replace(&mut self.prompt_ids, answer);
        self.turns.push(Turn {
            prompt_ids,
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

fn drop_episode(stats: &mut PlayStats, failure: &mut Option<Error>, error: Error) {
    stats.dropped += 1;
    failure.get_or_insert(error);
}

/// Calls `f(environment of slot, item)` for each (slot, item), one thread each for environments that wait,
/// results in order; adds the wall time to `time`.
fn in_parallel<T: Send>(
    environments: &mut [Box<dyn Environment>],
    work: &[(usize, usize)],
    time: &mut Duration,
    f: impl Fn(&mut dyn Environment, usize) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let clock = Instant::now();
    let results = if environments.iter().all(|env| !env.waits()) {
        work.iter().map(|&(slot, item)| f(environments[slot].as_mut(), item)).collect()
    } else {
        let mut places: Vec<Option<&mut Box<dyn Environment>>> =
            environments.iter_mut().map(Some).collect();
        std::thread::scope(|scope| {
            let f = &f;
            let handles: Vec<_> = (work.iter())
                .map(|&(slot, item)| {
                    let place = places[slot].take();
                    place.map(|env| scope.spawn(move || f(env.as_mut(), item)))
                })
                .collect();
            handles.into_iter().map(join).collect()
        })
    };
    *time += clock.elapsed();
    results
}

fn join<T>(handle: Option<std::thread::ScopedJoinHandle<'_, Result<T>>>) -> Result<T> {
    let failed = |reason: &str| Error::Environment {
        environment: "any",
        what: "thread",
        value: String::new(),
        reason: reason.to_string(),
    };
    match handle.map(|h| h.join()) {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(failed("the environment panicked")),
        None => Err(failed("two episodes were seated in one place")),
    }
}
