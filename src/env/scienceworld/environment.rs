//! The simulator as an [`Environment`].
//!
//! An episode survives its process: all calls and responses are recorded, so a new process can
//! replay them. The same record makes the cache of responses possible. As long as the cache knows
//! the response, nothing is called; from the first unknown call on, the simulator first catches up.

use std::sync::Arc;

use crate::env::environment::{Environment, Start, Step, Task};
use crate::env::scienceworld::calls::{execute, Call, Response, SOLVED};
use crate::env::scienceworld::client::Simulator;
use crate::env::scienceworld::config::ScienceWorldConfig;
use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::host::Host;
use crate::env::scienceworld::memory::{Memory, Place};
use crate::env::scienceworld::tasks;

type Outcome<T> = Result<T, SimulatorError>;

/// The word in the masked action, `reset task`, which would undo a failure.
const MASKED: &str = "reset";
/// The starts of the simulator's responses to an action that it cannot parse, and to anything but
/// one of the numbers after an `Ambiguous request`.
const NOT_UNDERSTOOD: [&str; 2] = ["No known action matches", "Unknown action."];
const MASKED_RESPONSE: &str = "The task cannot be reset.";
/// The processes that one call may lose before it gives up.
const OWN_ATTEMPTS: u32 = 3;
/// The same, including processes that other environments have lost.
const ALL_ATTEMPTS: u32 = 32;

/// The calls and responses of an episode; the simulator may have executed only the first of them.
#[derive(Debug)]
struct History {
    calls: Vec<(Call, Arc<Response>)>,
    /// The number of calls that the simulator has executed; the others came from the memory.
    executed: usize,
    /// The place in the memory that the calls lead to; `None` if the memory is full.
    place: Option<Place>,
}

impl Default for History {
    fn default() -> Self {
        Self { calls: Vec::new(), executed: 0, place: Some(Place::START) }
    }
}

#[derive(Debug)]
struct Episode {
    task: Task,
    score: i32,
    done: bool,
    /// The valid actions, if they were requested since the last action.
    valid: Option<Vec<String>>,
}

/// A ScienceWorld environment with a simulator of its own.
///
/// Differences from the raw simulator:
/// - A finished episode stays finished.
/// - `reset task` is not listed, and playing it changes nothing.
/// - Repeated requests for the admissible actions make one call.
/// - An episode whose process died or hung is replayed in a new one.
/// - Responses come from the memory of the pool as long as it knows them.
#[derive(Debug)]
pub struct ScienceWorld {
    host: Arc<Host>,
    config: Arc<ScienceWorldConfig>,
    memory: Arc<Memory>,
    generation: u64,
    simulator: Option<Simulator>,
    history: History,
    episode: Option<Episode>,
}

impl ScienceWorld {
    pub(crate) fn new(
        host: Arc<Host>,
        config: Arc<ScienceWorldConfig>,
        memory: Arc<Memory>,
    ) -> Self {
        Self {
            host,
            config,
            memory,
            generation: 0,
            simulator: None,
            history: History::default(),
            episode: None,
        }
    }

    /// Describes the surroundings; no side effects.
    ///
    /// # Errors
    /// No episode in progress, or a simulator that fails and cannot be restarted.
    pub fn look(&mut self) -> crate::Result<String> {
        self.running("(look)")?;
        Ok(self.request(&Call::Look)?.text)
    }

    /// Describes the inventory; no side effects.
    ///
    /// # Errors
    /// No episode in progress, or a simulator that fails and cannot be restarted.
    pub fn inventory(&mut self) -> crate::Result<String> {
        self.running("(inventory)")?;
        Ok(self.request(&Call::Inventory)?.text)
    }

    /// Returns the simulator's reference solution of `task`; drops the episode in progress.
    ///
    /// # Errors
    /// An unknown task or variation, no gold path, or a simulator that fails and cannot be
    /// restarted.
    pub fn gold_path(&mut self, task: &Task) -> crate::Result<Vec<String>> {
        self.forget();
        let path = self.request(&Call::GoldPath(task.clone()))?.list.unwrap_or_default();
        if path.is_empty() || path[0].starts_with("ERROR") {
            return Err(SimulatorError::NoGoldPath { task: task.to_string() }.into());
        }
        Ok(path)
    }

    /// Returns the moves that `path` takes to solve `task` if no limit ends the episode, or `None`
    /// if it does not solve it; drops the episode in progress.
    pub(crate) fn moves_needed(
        &mut self,
        task: &Task,
        path: &[String],
    ) -> crate::Result<Option<usize>> {
        self.forget();
        let end = self.request(&Call::Replay(task.clone(), path.to_vec()))?;
        Ok((end.score == SOLVED).then_some(end.moves as usize))
    }

    fn running(&self, action: &str) -> Outcome<&Episode> {
        self.episode.as_ref().ok_or_else(|| SimulatorError::NoEpisode { action: action.into() })
    }

    fn forget(&mut self) {
        self.history = History::default();
        self.episode = None;
    }

    /// Makes a call that later responses depend on; its response comes from the memory if known.
    fn perform(&mut self, call: Call) -> Outcome<Arc<Response>> {
        let known = self.history.place.and_then(|place| self.memory.recall(place, &call));
        let response = match known {
            Some((place, response)) => {
                self.history.place = Some(place);
                response
            }
            None => {
                let response = Arc::new(self.request(&call)?);
                self.history.executed += 1;
                self.history.place =
                    self.history.place.and_then(|place| self.memory.keep(place, &call, &response));
                response
            }
        };
        self.history.calls.push((call, response.clone()));
        Ok(response)
    }

    /// Calls the simulator; if its process is lost, calls it again in a new one.
    fn request(&mut self, call: &Call) -> Outcome<Response> {
        let mut own = 0;
        let mut all = 0;
        loop {
            let lost = match self.attempt(call) {
                Err(error) if error.is_process_lost() => error,
                outcome => return outcome,
            };
            self.simulator = None;
            let output = self.host.output(self.generation);
            own += u32::from(self.host.replace(self.generation)?);
            all += 1;
            if own >= OWN_ATTEMPTS || all >= ALL_ATTEMPTS {
                let task =
                    self.episode.take().map_or_else(|| call.name().into(), |e| e.task.to_string());
                return Err(SimulatorError::GaveUp {
                    task,
                    attempts: all,
                    last: Box::new(lost),
                    output,
                });
            }
        }
    }

    fn attempt(&mut self, call: &Call) -> Outcome<Response> {
        let mut simulator = self.connected()?;
        self.catch_up(&mut simulator)?;
        let outcome = execute(&mut simulator, &self.config, call);
        self.simulator = Some(simulator);
        outcome
    }

    /// Takes the simulator out of `self`, or creates a new one.
    fn connected(&mut self) -> Outcome<Simulator> {
        loop {
            if let Some(simulator) = self.simulator.take() {
                return Ok(simulator);
            }
            self.generation = self.host.ensure_started()?;
            self.simulator = self.host.connect(self.generation)?;
            self.history.executed = 0;
        }
    }

    /// Executes the recorded calls that the simulator has not executed; the responses must be the
    /// recorded ones.
    fn catch_up(&mut self, simulator: &mut Simulator) -> Outcome<()> {
        let history = &mut self.history;
        while let Some((call, expected)) = history.calls.get(history.executed) {
            let response = execute(simulator, &self.config, call)?;
            if response != **expected {
                return Err(SimulatorError::Diverged {
                    task: self.episode.as_ref().map(|e| e.task.to_string()).unwrap_or_default(),
                    step: history.executed,
                    action: call.name().to_owned(),
                    expected: expected.text.clone(),
                    got: response.text,
                });
            }
            history.executed += 1;
        }
        Ok(())
    }
}

/// The simulator's parser ignores articles: `reset the task` is `reset task`. No other action has
/// this word.
fn is_masked(action: &str) -> bool {
    action.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case(MASKED))
}

fn unmasked(list: &[String]) -> Vec<String> {
    list.iter().filter(|action| !is_masked(action)).cloned().collect()
}

impl Environment for ScienceWorld {
    fn reset(&mut self, task: &Task) -> crate::Result<Start> {
        self.forget();
        tasks::check_task(task)?;
        tasks::check_simplification(&task.name, &self.config.simplification)?;
        let response = self.perform(Call::Start(task.clone()))?;
        let Response { text, score, done, goal, list, .. } = &*response;
        let valid = list.as_deref().map(unmasked);
        self.episode = Some(Episode { task: task.clone(), score: *score, done: *done, valid });
        let goal = goal.strip_prefix("Task Description:").unwrap_or(goal).trim().to_owned();
        Ok(Start { goal, observation: text.clone() })
    }

    fn step(&mut self, action: &str) -> crate::Result<Step> {
        let episode = self.running(action)?;
        let before = episode.score;
        if episode.done {
            let task = episode.task.to_string();
            return Err(SimulatorError::Finished { action: action.to_owned(), task }.into());
        }
        if is_masked(action) {
            return Ok(step(&self.config, MASKED_RESPONSE.into(), before, before, false));
        }
        let response = self.perform(Call::Act(action.to_owned()))?;
        let Response { text, score, done, list, .. } = &*response;
        if let Some(episode) = &mut self.episode {
            episode.valid = list.as_deref().map(unmasked);
            episode.score = *score;
            episode.done = *done;
        }
        Ok(step(&self.config, text.clone(), before, *score, *done))
    }

    fn admissible(&mut self) -> crate::Result<Vec<String>> {
        if let Some(valid) = &self.running("(admissible actions)")?.valid {
            return Ok(valid.clone());
        }
        let valid = unmasked(self.perform(Call::ValidActions)?.list.as_deref().unwrap_or_default());
        if let Some(episode) = &mut self.episode {
            episode.valid = Some(valid.clone());
        }
        Ok(valid)
    }

    fn restarts(&self) -> u64 {
        self.host.restarts()
    }
}

fn step(
    config: &ScienceWorldConfig,
    observation: String,
    before: i32,
    score: i32,
    done: bool,
) -> Step {
    let success = config.success.holds(score, done);
    let understood = !NOT_UNDERSTOOD.iter().any(|start| observation.starts_with(start));
    let valid = observation != MASKED_RESPONSE && understood;
    Step {
        observation,
        reward: f64::from(score - before),
        score: f64::from(score),
        done,
        success,
        valid,
    }
}
