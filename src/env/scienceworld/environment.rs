//! The simulator as an [`Environment`]: masked, latched, and replayed when its process is lost.

use std::sync::Arc;

use crate::env::scienceworld::calls::{execute, Answer, Op};
use crate::env::scienceworld::client::Simulator;
use crate::env::scienceworld::config::ScienceWorldConfig;
use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::host::Host;
use crate::env::scienceworld::memory::{Memory, Place};
use crate::env::scienceworld::tasks;
use crate::env::{Environment, Start, Step, Task};

type Outcome<T> = Result<T, SimulatorError>;

/// The word of the one action that is masked, `reset task`: it would wipe out a failure.
const MASKED: &str = "reset";
/// How the simulator's answer to an action that it cannot parse begins.
const NOT_UNDERSTOOD: &str = "No known action matches";
const MASKED_ANSWER: &str = "The task cannot be reset.";
/// Processes that one call may use up before it gives up.
const OWN_ATTEMPTS: u32 = 3;
/// The same, those lost by other environments of the process included.
const ALL_ATTEMPTS: u32 = 32;

/// The calls of an episode and their answers, of which the simulator may have seen only the first.
#[derive(Debug)]
struct History {
    calls: Vec<(Op, Arc<Answer>)>,
    /// How many of them the simulator has carried out; the others were remembered.
    carried_out: usize,
    /// Where they lead in the pool's memory; `None` once that is full.
    place: Option<Place>,
}

impl Default for History {
    fn default() -> Self {
        Self { calls: Vec::new(), carried_out: 0, place: Some(Place::START) }
    }
}

#[derive(Debug)]
struct Episode {
    task: Task,
    score: i32,
    done: bool,
    /// The valid actions, once asked for, until the next action.
    valid: Option<Vec<String>>,
}

/// One ScienceWorld episode at a time, in a simulator of its own.
///
/// Differences to the raw simulator: a finished episode stays finished; `reset task` is neither listed nor
/// passed on (it is answered with an unchanged score); asking twice for the admissible actions asks the
/// simulator once; an episode whose process died or hung is replayed in a new one; what the pool's memory knows the
/// simulator is not asked, until it does not know, and then the simulator carries out all that it was spared.
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
        let (simulator, history, episode) = (None, History::default(), None);
        Self { host, config, memory, generation: 0, simulator, history, episode }
    }

    /// What is seen around; costs nothing and changes nothing.
    ///
    /// # Errors
    /// As [`Environment::admissible`].
    pub fn look(&mut self) -> crate::Result<String> {
        self.running("(look)")?;
        Ok(self.ask(&Op::Look)?.text)
    }

    /// What is carried; costs nothing and changes nothing.
    ///
    /// # Errors
    /// As [`Environment::admissible`].
    pub fn inventory(&mut self) -> crate::Result<String> {
        self.running("(inventory)")?;
        Ok(self.ask(&Op::Inventory)?.text)
    }

    /// The task of the episode in progress or just finished.
    pub fn task(&self) -> Option<&Task> {
        self.episode.as_ref().map(|episode| &episode.task)
    }

    /// The simulator's own solution of `task`; drops the episode in progress.
    ///
    /// # Errors
    /// An unknown task or variation, no gold path, or a simulator that cannot be brought back.
    pub fn gold_path(&mut self, task: &Task) -> crate::Result<Vec<String>> {
        self.forget();
        let path = self.ask(&Op::Gold(task.clone()))?.list.unwrap_or_default();
        if path.is_empty() || path[0].starts_with("ERROR") {
            return Err(SimulatorError::NoGoldPath { task: task.to_string() }.into());
        }
        Ok(path)
    }

    fn running(&self, action: &str) -> Outcome<&Episode> {
        self.episode.as_ref().ok_or_else(|| SimulatorError::NoEpisode { action: action.into() })
    }

    fn forget(&mut self) {
        (self.history, self.episode) = (History::default(), None);
    }

    /// The answer to a call that later answers depend on, from memory or from the simulator.
    fn perform(&mut self, op: Op) -> Outcome<Arc<Answer>> {
        let known = self.history.place.and_then(|place| self.memory.recall(place, &op));
        let answer = match known {
            Some((place, answer)) => {
                self.history.place = Some(place);
                answer
            }
            None => {
                let answer = Arc::new(self.ask(&op)?);
                self.history.carried_out += 1;
                self.history.place =
                    self.history.place.and_then(|place| self.memory.keep(place, &op, &answer));
                answer
            }
        };
        self.history.calls.push((op, answer.clone()));
        Ok(answer)
    }

    /// Asks the simulator, in a new process where the old one is lost.
    fn ask(&mut self, op: &Op) -> Outcome<Answer> {
        let (mut own, mut all) = (0, 0);
        loop {
            let lost = match self.attempt(op) {
                Err(error) if error.is_process_lost() => error,
                outcome => return outcome,
            };
            self.simulator = None;
            let output = self.host.output(self.generation);
            own += u32::from(self.host.replace(self.generation)?);
            all += 1;
            if own >= OWN_ATTEMPTS || all >= ALL_ATTEMPTS {
                let task =
                    self.episode.take().map_or_else(|| op.name().into(), |e| e.task.to_string());
                return Err(SimulatorError::GaveUp {
                    task,
                    attempts: all,
                    last: Box::new(lost),
                    output,
                });
            }
        }
    }

    fn attempt(&mut self, op: &Op) -> Outcome<Answer> {
        let mut simulator = self.connected()?;
        self.catch_up(&mut simulator)?;
        let outcome = execute(&mut simulator, &self.config, op);
        self.simulator = Some(simulator);
        outcome
    }

    /// Takes the simulator out, or a new one.
    fn connected(&mut self) -> Outcome<Simulator> {
        loop {
            if let Some(simulator) = self.simulator.take() {
                return Ok(simulator);
            }
            self.generation = self.host.ensure_started()?;
            self.simulator = self.host.connect(self.generation)?;
            self.history.carried_out = 0;
        }
    }

    /// Has the simulator carry out the calls that it has not seen; each answer has to be what it was.
    fn catch_up(&mut self, simulator: &mut Simulator) -> Outcome<()> {
        let history = &mut self.history;
        while let Some((op, expected)) = history.calls.get(history.carried_out) {
            let answer = execute(simulator, &self.config, op)?;
            if answer != **expected {
                return Err(SimulatorError::Diverged {
                    task: self.episode.as_ref().map(|e| e.task.to_string()).unwrap_or_default(),
                    step: history.carried_out,
                    action: op.name().to_owned(),
                    expected: expected.text.clone(),
                    got: answer.text,
                });
            }
            history.carried_out += 1;
        }
        Ok(())
    }
}

/// The simulator's parser drops articles, so `reset the task` is `reset task`; no other action has the word.
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
        let answer = self.perform(Op::Start(task.clone()))?;
        let Answer { text, score, done, goal, list, .. } = &*answer;
        let valid = list.as_deref().map(unmasked);
        self.episode = Some(Episode { task: task.clone(), score: *score, done: *done, valid });
        let goal = goal.strip_prefix("Task Description:").unwrap_or(goal).trim().to_owned();
        Ok(Start { goal, observation: text.clone() })
    }

    fn step(&mut self, action: &str) -> crate::Result<Step> {
        let episode = self.running(action)?;
        let before = episode.score;
        if episode.done {
            let (action, task) = (action.to_owned(), episode.task.to_string());
            return Err(SimulatorError::Finished { action, task }.into());
        }
        if is_masked(action) {
            return Ok(step(&self.config, MASKED_ANSWER.into(), before, before, false));
        }
        let answer = self.perform(Op::Act(action.to_owned()))?;
        let Answer { text, score, done, list, .. } = &*answer;
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
        let valid = unmasked(self.perform(Op::Ask)?.list.as_deref().unwrap_or_default());
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
    let valid = observation != MASKED_ANSWER && !observation.starts_with(NOT_UNDERSTOOD);
    Step {
        observation,
        reward: f64::from(score - before),
        score: f64::from(score),
        done,
        success,
        valid,
    }
}
