//! Alarms on training runs that collapse early or blow up late.
//!
//! Early, exploration dies: the episodes of more and more groups are the same, so groups have no
//! gradient, while actions stop being understood or entropy vanishes. Late, entropy rises above its
//! band and success falls with it. EPO calls both the exploration–exploitation cascade failure
//! (arXiv 2509.22576, §3). The mean entropy hides a third failure: the last third of the turns
//! stops exploring while early turns go on, and success falls again. Each alarm is a condition on
//! the means of a window of steps, so a single noisy step raises none.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::run::record::Record;
use crate::settings::{AtLeast, Decay, OpenUnit, Share};
use crate::train::watch::step_numbers::{halves, mean, AlarmBaseline, StepNumbers};

/// Action taken when an alarm is raised.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AlarmAction {
    /// The alarm is recorded and printed.
    #[default]
    Warn,
    /// Training ends after the step, with a run checkpoint.
    Stop,
    /// Each alarm multiplies the learning rate by a factor, from the next step on.
    LowerLr {
        /// The factor.
        #[serde(default = "half")]
        factor: OpenUnit,
    },
}

fn half() -> OpenUnit {
    OpenUnit::literal(0.5)
}

/// Settings of alarms: thresholds and action (`alarm` in a run's configuration).
///
/// ```
/// use epo::run::Record;
/// use epo::train::watch::{AlarmConfig, Alarms};
/// let mut alarms = Alarms::new(AlarmConfig { window: 2.try_into()?, ..AlarmConfig::default() });
/// let mut step = |k: u64, valid: f64| {
///     let mut record = Record::new("rl", k);
///     record.set("zero_variance_groups", 1.0);
///     record.set("valid_actions", valid);
///     record.set("entropy", 0.5);
///     alarms.observe(&mut record)
/// };
/// assert!(step(0, 0.9).is_empty());
/// assert!(step(1, 0.6)[0].to_string().starts_with("step 1: early collapse"));
/// # Ok::<(), epo::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmConfig {
    /// Action of every alarm.
    pub action: AlarmAction,
    /// Number of steps n in the window, at least 2; the older ⌊n/2⌋ are compared with the others.
    /// Each kind of alarm is raised at most once in n steps.
    pub window: AtLeast<2>,
    /// Early collapse: minimum mean share of groups without variance, in (0, 1]. In addition,
    /// `valid_drop` or `entropy_share` must be met.
    pub zero_variance: Share,
    /// Early collapse: minimum drop, in (0, 1], of the valid-action rate between the window's
    /// halves.
    pub valid_drop: Share,
    /// Early collapse: maximum mean entropy as a share of the run's first window, in [0, 1).
    pub entropy_share: Decay,
    /// Late blow-up: minimum drop of the success rate between the window's halves, in (0, 1], while
    /// entropy rises and is above the band in the newer half.
    pub success_drop: Share,
    /// Collapse of the last third of the turns: maximum mean entropy there as a share of the run's
    /// first window, in [0, 1), while success is at least `success_drop` below the run's best
    /// window.
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
    /// Checks one full window of steps, oldest first, and returns the kinds and messages of its
    /// alarms.
    ///
    /// A condition is not met if a step or the baseline lacks one of its numbers.
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
        let entropy = mean(window, |s| s.entropy)?;
        let start = start?;
        (entropy <= self.entropy_share.get() * start)
            .then(|| format!("{groups} and entropy is {entropy:.4} nats, {start:.4} at the start"))
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
                "entropy rose from {before:.4} to {after:.4} nats, above the band's upper end \
                 {high:.4}, and success fell from {solved_before:.3} to {solved_after:.3}"
            )
        })
    }

    fn late_turn_collapse(
        &self,
        window: &[StepNumbers],
        baseline: &AlarmBaseline,
    ) -> Option<String> {
        let entropy = mean(window, |s| s.entropy_late)?;
        let start = baseline.entropy_late?;
        let success = mean(window, |s| s.success)?;
        let best = baseline.success?;
        let fires =
            entropy <= self.late_share.get() * start && best - success >= self.success_drop.get();
        fires.then(|| {
            format!(
                "entropy in the last third of the turns is {entropy:.4} nats, {start:.4} at the \
                 start, and success is {success:.3}, {best:.3} at its best"
            )
        })
    }
}

/// Kind of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// Groups have no variance, and valid actions or entropy collapse.
    EarlyCollapse,
    /// Entropy is above its band and rises while success falls.
    LateBlowUp,
    /// Entropy collapses in the last third of the turns, and success falls again.
    LateTurnCollapse,
}

impl AlarmKind {
    /// The record's key for the alarm's message.
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
            Self::LateTurnCollapse => "collapse in the last third of the turns",
        }
    }
}

/// An alarm that was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Its kind.
    pub kind: AlarmKind,
    /// The training step it was raised in, from 0.
    pub step: u64,
    /// The numbers that raised it.
    pub message: String,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}: {}", self.step, self.kind.name(), self.message)
    }
}

/// State of the alarms between steps, part of a run checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmState {
    window: VecDeque<StepNumbers>,
    /// Mean entropy of the first full window.
    start_entropy: Option<f64>,
    /// Its mean entropy in the last third of the turns.
    start_entropy_late: Option<f64>,
    /// Mean success of the best window.
    best_success: Option<f64>,
    /// Raised kinds, each with the step until which it is not raised again.
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
    /// Updates the baseline with the window, which must be full, and returns it.
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

/// Observes the records of a run and raises alarms.
#[derive(Debug, Clone)]
pub struct Alarms {
    config: Option<AlarmConfig>,
    state: AlarmState,
}

impl Alarms {
    /// Creates the alarms of a new run.
    pub fn new(config: AlarmConfig) -> Self {
        Self::restore(Some(config), AlarmState::default())
    }

    /// Continues from a run checkpoint's state; raises the same alarms as an uninterrupted run, and
    /// none without `config`.
    pub fn restore(config: Option<AlarmConfig>, state: AlarmState) -> Self {
        Self { config, state }
    }

    /// The state to store in a run checkpoint.
    pub fn state(&self) -> &AlarmState {
        &self.state
    }

    /// Observes a finished training step before it is recorded and returns the alarms it raises.
    ///
    /// Each alarm's message is also set in the record under its [`AlarmKind::key`], for the report.
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

    /// Factor to multiply the learning rate by: 1 until `lower-lr` lowers it.
    pub fn lr_factor(&self) -> f64 {
        self.state.lr_factor
    }

    /// True if training should end: an alarm was raised and the action is `stop`.
    pub fn stops(&self) -> bool {
        self.state.stop
    }
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
