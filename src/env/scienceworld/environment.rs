//! The simulator as an [`Environment`]: masked, latched, and replayed when its process is lost.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::client::{is_done, Simulator};
use super::config::{CallPattern, ScienceWorldConfig};
use super::error::SimulatorError;
use super::host::Host;
use super::tasks;
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

/// One thing asked of the simulator.
#[derive(Debug, Clone)]
enum Op {
    Start(Task),
    Act(String),
    Ask,
    Look,
    Inventory,
    Gold(Task),
}

impl Op {
    /// Whether the simulator's later answers depend on it.
    fn is_replayed(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Act(_) | Self::Ask)
    }

    fn name(&self) -> &str {
        match self {
            Self::Start(_) => "(start)",
            Self::Act(action) => action,
            Self::Ask => "(valid actions)",
            Self::Look => "(look)",
            Self::Inventory => "(inventory)",
            Self::Gold(_) => "(gold path)",
        }
    }
}

/// What the simulator answered; what was not asked for is empty.
#[derive(Debug, Default, Hash)]
struct Answer {
    text: String,
    score: i32,
    done: bool,
    moves: u32,
    goal: String,
    list: Option<Vec<String>>,
}

impl Answer {
    fn digest(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// An operation as it was answered the first time.
#[derive(Debug)]
struct Played {
    op: Op,
    text: String,
    digest: u64,
}

impl Played {
    fn new(op: Op, answer: &Answer) -> Self {
        Self { op, text: answer.text.clone(), digest: answer.digest() }
    }
}

#[derive(Debug)]
struct Episode {
    task: Task,
    played: Vec<Played>,
    score: i32,
    done: bool,
    /// The valid actions, once asked for, until the next action.
    valid: Option<Vec<String>>,
}

/// One ScienceWorld episode at a time, in a simulator of its own.
///
/// Differences to the raw simulator: a finished episode stays finished; `reset task` is neither listed nor
/// passed on (it is answered with an unchanged score); asking twice for the admissible actions asks the
/// simulator once; an episode whose process died or hung is replayed in a new one.
#[derive(Debug)]
pub struct ScienceWorld {
    host: Arc<Host>,
    config: Arc<ScienceWorldConfig>,
    generation: u64,
    simulator: Option<Simulator>,
    episode: Option<Episode>,
}

impl ScienceWorld {
    pub(super) fn new(host: Arc<Host>, config: Arc<ScienceWorldConfig>) -> Self {
        Self { host, config, generation: 0, simulator: None, episode: None }
    }

    /// What is seen around; costs nothing and changes nothing.
    ///
    /// # Errors
    /// As [`Environment::admissible`].
    pub fn look(&mut self) -> crate::Result<String> {
        self.running("(look)")?;
        Ok(self.perform(Op::Look)?.text)
    }

    /// What is carried; costs nothing and changes nothing.
    ///
    /// # Errors
    /// As [`Environment::admissible`].
    pub fn inventory(&mut self) -> crate::Result<String> {
        self.running("(inventory)")?;
        Ok(self.perform(Op::Inventory)?.text)
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
        self.episode = None;
        let path = self.perform(Op::Gold(task.clone()))?.list.unwrap_or_default();
        if path.is_empty() || path[0].starts_with("ERROR") {
            return Err(SimulatorError::NoGoldPath { task: task.to_string() }.into());
        }
        Ok(path)
    }

    fn running(&self, action: &str) -> Outcome<&Episode> {
        self.episode.as_ref().ok_or_else(|| SimulatorError::NoEpisode { action: action.into() })
    }

    /// Carries out `op`, in a new process and after a replay where the old one is lost.
    fn perform(&mut self, op: Op) -> Outcome<Answer> {
        let (mut own, mut all) = (0, 0);
        loop {
            let lost = match self.attempt(&op) {
                Ok(answer) => {
                    self.record(op, &answer);
                    return Ok(answer);
                }
                Err(error) if error.is_process_lost() => error,
                Err(error) => return Err(error),
            };
            self.simulator = None;
            let output = self.host.output(self.generation);
            own += u32::from(self.host.replace(self.generation)?);
            all += 1;
            if own >= OWN_ATTEMPTS || all >= ALL_ATTEMPTS {
                let task = self.episode.take().map_or_else(|| op.name().into(), |e| e.task.to_string());
                return Err(SimulatorError::GaveUp { task, attempts: all, last: Box::new(lost), output });
            }
        }
    }

    fn record(&mut self, op: Op, answer: &Answer) {
        match &mut self.episode {
            Some(episode) if op.is_replayed() => episode.played.push(Played::new(op, answer)),
            _ => {}
        }
    }

    fn attempt(&mut self, op: &Op) -> Outcome<Answer> {
        while self.simulator.is_none() {
            self.generation = self.host.ensure_started()?;
            if let Some(mut simulator) = self.host.connect(self.generation)? {
                self.replay(&mut simulator)?;
                self.simulator = Some(simulator);
            }
        }
        match &mut self.simulator {
            Some(simulator) => execute(simulator, &self.config, op),
            None => Err(SimulatorError::NoEpisode { action: op.name().into() }),
        }
    }

    /// Brings a new simulator to where the lost one was.
    fn replay(&self, simulator: &mut Simulator) -> Outcome<()> {
        let Some(episode) = &self.episode else { return Ok(()) };
        for (step, played) in episode.played.iter().enumerate() {
            let answer = execute(simulator, &self.config, &played.op)?;
            if answer.digest() != played.digest {
                return Err(SimulatorError::Diverged {
                    task: episode.task.to_string(),
                    step,
                    action: played.op.name().to_owned(),
                    expected: played.text.clone(),
                    got: answer.text,
                });
            }
        }
        Ok(())
    }
}

/// Asks the simulator, in the configured pattern of calls.
fn execute(simulator: &mut Simulator, config: &ScienceWorldConfig, op: &Op) -> Outcome<Answer> {
    let official = config.call_pattern == CallPattern::Official;
    let text = |text| Answer { text, ..Answer::default() };
    let list = |list| Answer { list: Some(list), ..Answer::default() };
    match op {
        Op::Start(task) => {
            simulator.load(task, &config.simplification, false)?;
            if official {
                simulator.reset()?;
            }
            let mut answer = act(simulator, config, "look around")?;
            answer.goal = simulator.task_description()?;
            Ok(answer)
        }
        Op::Act(action) => act(simulator, config, action),
        Op::Ask => simulator.valid_actions().map(list),
        Op::Look => simulator.look().map(text),
        Op::Inventory => simulator.inventory().map(text),
        Op::Gold(task) => {
            simulator.load(task, &config.simplification, true)?;
            simulator.gold_path().map(list)
        }
    }
}

fn act(simulator: &mut Simulator, config: &ScienceWorldConfig, action: &str) -> Outcome<Answer> {
    let text = simulator.step(action)?;
    let score = simulator.score()?;
    let completed = simulator.completed()?;
    let moves = simulator.moves()?;
    let mut list = None;
    if config.call_pattern == CallPattern::Official {
        simulator.look()?;
        simulator.inventory()?;
        simulator.task_description()?;
        list = Some(simulator.valid_actions()?);
    }
    let done = is_done(completed, moves, config.step_limit, score);
    Ok(Answer { text, score, done, moves, goal: String::new(), list })
}

/// The simulator's parser drops articles, so `reset the task` is `reset task`; no other action has the word.
fn is_masked(action: &str) -> bool {
    action.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case(MASKED))
}

fn unmasked(list: Vec<String>) -> Vec<String> {
    list.into_iter().filter(|action| !is_masked(action)).collect()
}

impl Environment for ScienceWorld {
    fn reset(&mut self, task: &Task) -> crate::Result<Start> {
        self.episode = None;
        tasks::check_task(task)?;
        tasks::check_simplification(&task.name, &self.config.simplification)?;
        let answer = self.perform(Op::Start(task.clone()))?;
        let played = vec![Played::new(Op::Start(task.clone()), &answer)];
        let Answer { text, score, done, goal, list, .. } = answer;
        let valid = list.map(unmasked);
        self.episode = Some(Episode { task: task.clone(), played, score, done, valid });
        let goal = goal.strip_prefix("Task Description:").unwrap_or(&goal).trim().to_owned();
        Ok(Start { goal, observation: text })
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
        let Answer { text, score, done, list, .. } = self.perform(Op::Act(action.to_owned()))?;
        if let Some(episode) = &mut self.episode {
            episode.valid = list.map(unmasked);
            episode.score = score;
            episode.done = done;
        }
        Ok(step(&self.config, text, before, score, done))
    }

    fn admissible(&mut self) -> crate::Result<Vec<String>> {
        if let Some(valid) = &self.running("(admissible actions)")?.valid {
            return Ok(valid.clone());
        }
        let valid = unmasked(self.perform(Op::Ask)?.list.unwrap_or_default());
        if let Some(episode) = &mut self.episode {
            episode.valid = Some(valid.clone());
        }
        Ok(valid)
    }

    fn restarts(&self) -> u64 {
        self.host.restarts()
    }
}

fn step(config: &ScienceWorldConfig, observation: String, before: i32, score: i32, done: bool) -> Step {
    let success = config.success.holds(score, done);
    let valid = observation != MASKED_ANSWER && !observation.starts_with(NOT_UNDERSTOOD);
    Step { observation, reward: f64::from(score - before), score: f64::from(score), done, success, valid }
}
