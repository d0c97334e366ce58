//! What a run holds in addition to its agent: its tasks, and the numbers of the current step.

use serde::{Deserialize, Serialize};

use crate::env::Demonstration;
use crate::evaluation::task_set::TaskSet;
use crate::objective::kl_reward::KlControl;
use crate::rollout::trajectory::Trajectory;
use crate::run::recorder::Position;
use crate::train::evaluate::Outcome;
use crate::train::watch::alarm::AlarmState;

/// The tasks and demonstrations of a new run.
#[derive(Debug)]
pub struct Setup {
    /// The tasks to learn on.
    pub train: TaskSet,
    /// The evaluation sets, in this order.
    pub evaluation: Vec<TaskSet>,
    /// Demonstrations to imitate; a small policy's tokenizer is trained on them too.
    pub demonstrations: Vec<Demonstration>,
}

/// State of a run checkpoint in addition to agent, critic and settings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) position: Position,
    pub(crate) train: TaskSet,
    pub(crate) evaluation: Vec<TaskSet>,
    pub(crate) before: Vec<Outcome>,
    pub(crate) alarms: AlarmState,
    /// β of the KL in the reward.
    pub(crate) kl: Option<KlControl>,
}

/// Numbers of the current step that come from playing and rewards.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) metrics: Vec<(&'static str, f64)>,
    /// Mean KL of the step in nats per token, and its number of episodes.
    pub(crate) kl: Option<(f64, usize)>,
    /// Episodes that dynamic sampling played and did not use.
    pub(crate) unused: Vec<Trajectory>,
}
