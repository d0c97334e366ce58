//! The cascade alarm: policies that collapse early or blow up late announce it in the numbers of their steps.
//!
//! Early, exploration dies: the members of more and more groups do the same and score the same, so that groups teach
//! nothing, while actions stop being understood or entropy all but vanishes. Late, the entropy leaves its band upwards
//! and success falls with it. Both are what EPO calls the exploration–exploitation cascade failure (arXiv 2509.22576,
//! §3). A third way, which the mean entropy hides: late turns stop exploring while early ones go on, and success is lost
//! again. Here they are conditions on the means of a window of steps, so that one noisy step raises nothing.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::run::record::Record;
use crate::settings::{AtLeast, Decay, OpenUnit, Share};

/// What happens when an alarm is raised.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AlarmAction {
    /// The alarm is recorded and printed.
    #[default]
    Warn,
    /// Training ends after the step, with a checkpoint.
    Stop,
    /// The learning rate is multiplied by `lr_factor` from the next step on, once more with each alarm.
    LowerLr {
        /// The factor.
        #[serde(default = "half")]
        factor: OpenUnit,
    },
}

fn half() -> OpenUnit {
    OpenUnit::literal(0.5)
}

/// When an alarm is raised and what it does.
///
/// ```
/// use epo::train::{AlarmConfig, Alarms, Record};
/// let mut alarms = Alarms::new(AlarmConfig { window: 2, ..AlarmConfig::default() })?;
/// let mut step = |k: u64, valid: f64| {
///     let numbers = [("zero_variance_groups", 1.0), ("valid_actions", valid), ("entropy", 0.5)];
///     let mut record = numbers.into_iter().fold(Record::new("rl", k), |r, (key, x)| r.with(key, x));
///     alarms.observe(&mut record)
/// };
/// assert!(step(0, 0.9).is_empty());
/// assert!(step(1, 0.6)[0].to_string().starts_with("step 1: early collapse"));
/// # Ok::<(), epo::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmConfig {
    /// What an alarm does.
    pub action: AlarmAction,
    /// Steps that are looked at together, at least 2: the older ⌊n/2⌋ are compared with the others. An alarm of one
    /// kind is raised at most once in as many steps.
    pub window: AtLeast<2>,
    /// Early collapse needs at least this mean share of groups without variance, in (0, 1], …
    pub zero_variance: Share,
    /// … and either a valid-action rate that fell by at least this much between the window's halves, in (0, 1], …
    pub valid_drop: Share,
    /// … or a mean entropy of at most this share of the run's first window, in [0, 1).
    pub entropy_share: Decay,
    /// Late blow-up needs an entropy that rises and is above the band in the newer half of the window, and a success
    /// rate that fell by at least this much between the halves, in (0, 1].
    pub success_drop: Share,
    /// Collapse of late turns needs a mean entropy there of at most this share of the run's first window, in [0, 1), and a
    /// success rate that is at least `success_drop` below the run's best window.
    pub late_share: Decay,
}

impl Default for AlarmConfig {
    fn default() -> Self {
        Self {
            action: AlarmAction::Warn,
            window: AtLeast::literal(10),
            zero_variance: Share::literal(0.9),
            valid_drop: Share::literal(0.1),
            entropy_share: Decay::literal(0.1),
            success_drop: Share::literal(0.1),
            late_share: Decay::literal(0.5),
        }
    }
}

impl AlarmConfig {
    /// The alarms of one full window of steps, oldest first. Conditions whose numbers some step or the baseline lacks are
    /// not met.
    pub fn check(
        &self,
        window: &[StepNumbers],
        baseline: &AlarmBaseline,
    ) -> Vec<(AlarmKind, String)> {
        let found = [
            (AlarmKind::EarlyCollapse, self.early_collapse(window, baseline.entropy)),
            (AlarmKind::LateBlowUp, self.late_blow_up(window)),
            (AlarmKind::LateTurnCollapse, self.late_turn_collapse(window, baseline)),
        ];
        found.into_iter().filter_map(|(kind, message)| Some((kind, message?))).collect()
    }

    fn early_collapse(&self, window: &[StepNumbers], start: Option<f64>) -> Option<String> {
        let flat = mean(window, |s| s.zero_variance)?;
        if flat < self.zero_variance.get() {
            return None;
        }
        let n = window.len();
        let groups = format!("{:.1} % of the groups of {n} steps have no variance", 100.0 * flat);
        if let Some((before, after)) = halves(window, |s| s.valid_actions) {
            if before - after >= self.valid_drop.get() {
                return Some(format!(
                    "{groups} and valid actions fell from {before:.3} to {after:.3}"
                ));
            }
        }
        let (entropy, start) = (mean(window, |s| s.entropy)?, start?);
        let message =
            || format!("{groups} and entropy is {entropy:.4} nats, {start:.4} at the start");
        (entropy <= self.entropy_share.get() * start).then(message)
    }

    fn late_blow_up(&self, window: &[StepNumbers]) -> Option<String> {
        let (before, after) = halves(window, |s| s.entropy)?;
        let high = mean(&window[window.len() / 2..], |s| s.band_high)?;
        let (solved_before, solved_after) = halves(window, |s| s.success)?;
        let fires = after > before
            && after > high
            && solved_before - solved_after >= self.success_drop.get();
        fires.then(|| {
            format!(
                "entropy rose from {before:.4} to {after:.4} nats, above the band's end {high:.4}, and success fell \
                 from {solved_before:.3} to {solved_after:.3}"
            )
        })
    }

    fn late_turn_collapse(
        &self,
        window: &[StepNumbers],
        baseline: &AlarmBaseline,
    ) -> Option<String> {
        let (entropy, start) = (mean(window, |s| s.entropy_late)?, baseline.entropy_late?);
        let (success, best) = (mean(window, |s| s.success)?, baseline.success?);
        let fires =
            entropy <= self.late_share.get() * start && best - success >= self.success_drop.get();
        fires.then(|| {
            format!(
                "entropy of late turns is {entropy:.4} nats, {start:.4} at the start, and success is {success:.3}, \
                 {best:.3} at its best"
            )
        })
    }
}

/// What an alarm says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Groups without variance, and actions or entropy on the way to nothing.
    EarlyCollapse,
    /// Entropy above its band and rising while success falls.
    LateBlowUp,
    /// Entropy of late turns on the way to nothing, and success lost again.
    LateTurnCollapse,
}

impl AlarmKind {
    /// The key of a record that holds the alarm's message.
    pub fn key(self) -> &'static str {
        match self {
            Self::EarlyCollapse => "alarm/early_collapse",
            Self::LateBlowUp => "alarm/late_blow_up",
            Self::LateTurnCollapse => "alarm/late_turn_collapse",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::EarlyCollapse => "early collapse",
            Self::LateBlowUp => "late blow-up",
            Self::LateTurnCollapse => "collapse of late turns",
        }
    }
}

/// An alarm that was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// What it says.
    pub kind: AlarmKind,
    /// The training step it was raised in, from 0.
    pub step: u64,
    /// The numbers behind it.
    pub message: String,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}: {}", self.step, self.kind.name(), self.message)
    }
}

/// The numbers of a step that alarms look at; what is not finite counts as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepNumbers {
    /// Share of groups in which every return is the same.
    pub zero_variance: Option<f64>,
    /// Share of actions the environment understood.
    pub valid_actions: Option<f64>,
    /// Mean entropy of the rollouts, nats per token.
    pub entropy: Option<f64>,
    /// The same over the last third of the turn indices.
    #[serde(default)]
    pub entropy_late: Option<f64>,
    /// Upper end of the entropy band, nats.
    pub band_high: Option<f64>,
    /// Share of episodes solved.
    pub success: Option<f64>,
}

impl StepNumbers {
    /// The numbers of a record, under the keys that [`trajectory_metrics`](crate::train::watch::trajectory_metrics) and
    /// [`update_policy`](crate::train::update_policy) write.
    pub fn of(record: &Record) -> Self {
        let number = |key| record.number(key).filter(|x| x.is_finite());
        Self {
            zero_variance: number("zero_variance_groups"),
            valid_actions: number("valid_actions"),
            entropy: number("entropy"),
            entropy_late: number("entropy_late"),
            band_high: number("band_high"),
            success: number("success"),
        }
    }
}

/// What a window of steps is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AlarmBaseline {
    /// Mean entropy of the run's first window, nats per token.
    pub entropy: Option<f64>,
    /// The same over the last third of the turn indices.
    pub entropy_late: Option<f64>,
    /// Mean success of the best window so far.
    pub success: Option<f64>,
}

/// What alarms remember between steps: part of a checkpoint's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmState {
    window: VecDeque<StepNumbers>,
    /// Mean entropy of the first full window.
    start_entropy: Option<f64>,
    /// Its mean entropy in late turns.
    #[serde(default)]
    start_entropy_late: Option<f64>,
    /// Mean success of the best window.
    #[serde(default)]
    best_success: Option<f64>,
    /// By kind, the step until which it is not raised again.
    quiet: Vec<(AlarmKind, u64)>,
    lr_factor: f64,
    stop: bool,
}

impl Default for AlarmState {
    fn default() -> Self {
        Self {
            window: VecDeque::new(),
            start_entropy: None,
            start_entropy_late: None,
            best_success: None,
            quiet: Vec::new(),
            lr_factor: 1.0,
            stop: false,
        }
    }
}

impl AlarmState {
    /// Takes note of the window, which is full; what it is compared with.
    fn baseline(&mut self) -> AlarmBaseline {
        let steps = self.window.make_contiguous();
        self.start_entropy = self.start_entropy.or_else(|| mean(steps, |s| s.entropy));
        self.start_entropy_late =
            self.start_entropy_late.or_else(|| mean(steps, |s| s.entropy_late));
        let success = mean(steps, |s| s.success);
        self.best_success = self.best_success.into_iter().chain(success).reduce(f64::max);
        AlarmBaseline {
            entropy: self.start_entropy,
            entropy_late: self.start_entropy_late,
            success: self.best_success,
        }
    }
}

/// Watches the records of a run.
#[derive(Debug, Clone)]
pub struct Alarms {
    config: Option<AlarmConfig>,
    state: AlarmState,
}

impl Alarms {
    /// Alarms that have seen nothing.
    pub fn new(config: AlarmConfig) -> Self {
        Self::restore(Some(config), AlarmState::default())
    }

    /// Alarms that go on from a checkpoint's state, to the same alarms as without the interruption;
    /// none without `config`.
    pub fn restore(config: Option<AlarmConfig>, state: AlarmState) -> Self {
        Self { config, state }
    }

    /// What goes into a checkpoint.
    pub fn state(&self) -> &AlarmState {
        &self.state
    }

    /// Looks at a finished training step before it is recorded: returns the alarms it raises, and sets each one's
    /// message in the record under its [`AlarmKind::key`], where the report finds it.
    pub fn observe(&mut self, record: &mut Record) -> Vec<Alarm> {
        let Some(config) = self.config else { return Vec::new() };
        let window = config.window.get();
        let step = record.step();
        let state = &mut self.state;
        state.window.push_back(StepNumbers::of(record));
        while state.window.len() > window {
            state.window.pop_front();
        }
        if state.window.len() < window {
            return Vec::new();
        }
        let baseline = state.baseline();
        let mut found = config.check(state.window.make_contiguous(), &baseline);
        state.quiet.retain(|(_, until)| step < *until);
        found.retain(|(kind, _)| state.quiet.iter().all(|(quiet, _)| quiet != kind));
        for (kind, message) in &found {
            state.quiet.push((*kind, step + window as u64));
            record.set(kind.key(), message.as_str());
        }
        if !found.is_empty() {
            match config.action {
                AlarmAction::Warn => (),
                AlarmAction::Stop => state.stop = true,
                AlarmAction::LowerLr { factor } => state.lr_factor *= factor.get(),
            }
        }
        found.into_iter().map(|(kind, message)| Alarm { kind, step, message }).collect()
    }

    /// What the learning rate is to be multiplied by: 1 until `lower-lr` has lowered it.
    pub fn lr_factor(&self) -> f64 {
        self.state.lr_factor
    }

    /// Whether training is to end: an alarm was raised and the action is `stop`.
    pub fn stops(&self) -> bool {
        self.state.stop
    }
}

/// The mean over all steps, where all have the number.
fn mean(steps: &[StepNumbers], number: impl Fn(&StepNumbers) -> Option<f64>) -> Option<f64> {
    let sum: Option<f64> = steps.iter().map(number).sum();
    sum.filter(|_| !steps.is_empty()).map(|sum| sum / steps.len() as f64)
}

/// The means over the older ⌊n/2⌋ steps and over the others.
fn halves(
    steps: &[StepNumbers],
    number: impl Fn(&StepNumbers) -> Option<f64> + Copy,
) -> Option<(f64, f64)> {
    let (older, newer) = steps.split_at(steps.len() / 2);
    Some((mean(older, number)?, mean(newer, number)?))
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
