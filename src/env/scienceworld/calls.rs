//! What an episode asks of the simulator, in the configured pattern of calls.

use crate::env::scienceworld::client::{is_done, Simulator};
use crate::env::scienceworld::config::{CallPattern, ScienceWorldConfig};
use crate::env::scienceworld::error::SimulatorError;
use crate::env::Task;

/// One thing asked of the simulator. Its later answers depend on the first three.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Start(Task),
    Act(String),
    Ask,
    Look,
    Inventory,
    Gold(Task),
}

impl Op {
    pub(crate) fn name(&self) -> &str {
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) score: i32,
    pub(crate) done: bool,
    pub(crate) moves: u32,
    pub(crate) goal: String,
    pub(crate) list: Option<Vec<String>>,
}

impl Answer {
    /// Bytes of its texts.
    pub(crate) fn size(&self) -> usize {
        let list = self.list.iter().flatten().map(|action| action.len() + size_of::<String>());
        self.text.len() + self.goal.len() + list.sum::<usize>()
    }
}

/// Asks it.
pub(crate) fn execute(
    simulator: &mut Simulator,
    config: &ScienceWorldConfig,
    op: &Op,
) -> Result<Answer, SimulatorError> {
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

fn act(
    simulator: &mut Simulator,
    config: &ScienceWorldConfig,
    action: &str,
) -> Result<Answer, SimulatorError> {
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
