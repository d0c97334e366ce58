//! The calls of an episode, in the configured pattern, and the responses to them.

use crate::env::environment::Task;
use crate::env::scienceworld::client::{is_done, Simulator};
use crate::env::scienceworld::config::{CallPattern, ScienceWorldConfig};
use crate::env::scienceworld::error::SimulatorError;

/// The score of a solved task, in points.
pub(crate) const SOLVED: i32 = 100;

/// A call of an episode.
///
/// Later responses depend on the first three, which change the state of the simulator. `Look` and
/// `Inventory` have no side effects; `GoldPath` and `Replay` end the episode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Start(Task),
    Act(String),
    ValidActions,
    Look,
    Inventory,
    GoldPath(Task),
    /// A whole path, up to a score of 100, whatever the limit on moves.
    Replay(Task, Vec<String>),
}

impl Call {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Start(_) => "(start)",
            Self::Act(action) => action,
            Self::ValidActions => "(valid actions)",
            Self::Look => "(look)",
            Self::Inventory => "(inventory)",
            Self::GoldPath(_) => "(gold path)",
            Self::Replay(..) => "(replay)",
        }
    }
}

/// The simulator's response to a call; fields that the call does not fill are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) text: String,
    pub(crate) score: i32,
    pub(crate) done: bool,
    pub(crate) moves: u32,
    pub(crate) goal: String,
    pub(crate) list: Option<Vec<String>>,
}

impl Response {
    /// The bytes of all texts.
    pub(crate) fn size(&self) -> usize {
        let list = self.list.iter().flatten().map(|action| action.len() + size_of::<String>());
        self.text.len() + self.goal.len() + list.sum::<usize>()
    }
}

/// Makes a call.
pub(crate) fn execute(
    simulator: &mut Simulator,
    config: &ScienceWorldConfig,
    call: &Call,
) -> Result<Response, SimulatorError> {
    let official = config.call_pattern == CallPattern::Official;
    let text = |text| Response { text, ..Response::default() };
    let list = |list| Response { list: Some(list), ..Response::default() };
    match call {
        Call::Start(task) => {
            simulator.load(task, &config.simplification, false)?;
            if official {
                simulator.reset()?;
            }
            let mut response = act(simulator, config, "look around")?;
            response.goal = simulator.task_description()?;
            Ok(response)
        }
        Call::Act(action) => act(simulator, config, action),
        Call::ValidActions => simulator.valid_actions().map(list),
        Call::Look => simulator.look().map(text),
        Call::Inventory => simulator.inventory().map(text),
        Call::GoldPath(task) => {
            simulator.load(task, &config.simplification, true)?;
            simulator.gold_path().map(list)
        }
        Call::Replay(task, path) => {
            let mut last = execute(simulator, config, &Call::Start(task.clone()))?;
            for action in path {
                last = act(simulator, config, action)?;
                if last.score == SOLVED {
                    break;
                }
            }
            Ok(last)
        }
    }
}

fn act(
    simulator: &mut Simulator,
    config: &ScienceWorldConfig,
    action: &str,
) -> Result<Response, SimulatorError> {
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
    Ok(Response { text, score, done, moves, goal: String::new(), list })
}
