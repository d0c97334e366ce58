//! Histories that average past steps.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::entropy::stats::StepEntropy;
use crate::entropy::traits::{read_state, EntropyHistory, State};
use crate::settings::{Count, Decay};
use crate::{Error, Result};

/// The average of the recorded step means that serves as reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Averaging {
    /// Mean of all of them (paper v2, sec. 4.2: cumulative, on purpose not a window).
    Cumulative {},
    /// Mean of the last `steps`.
    Window {
        /// Length n ≥ 1.
        steps: Count,
    },
    /// h ← decay·h + (1 − decay)·new, started at the first one.
    Ema {
        /// In [0, 1).
        decay: Decay,
    },
    /// Mean of the first `steps`, fixed from then on; while warming up, the mean so far.
    Anchored {
        /// Warm-up n ≥ 1.
        steps: Count,
    },
}

/// The running average of one slot: what each [`Averaging`] must remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    /// Number of steps that reached this slot.
    count: u64,
    /// Sum of the values (cumulative, anchored) or the moving average (EMA).
    total: f64,
    /// The last values (window).
    recent: VecDeque<f64>,
}

impl Slot {
    fn push(&mut self, value: f64, averaging: Averaging) {
        match averaging {
            Averaging::Anchored { steps } if self.count >= steps.get() as u64 => return,
            Averaging::Cumulative {} | Averaging::Anchored { .. } => self.total += value,
            Averaging::Ema { .. } if self.count == 0 => self.total = value,
            Averaging::Ema { decay } => {
                let decay = decay.get();
                self.total = decay * self.total + (1.0 - decay) * value;
            }
            Averaging::Window { steps } => {
                self.recent.push_back(value);
                self.recent.drain(..self.recent.len().saturating_sub(steps.get()));
            }
        }
        self.count += 1;
    }

    fn mean(&self, averaging: Averaging) -> Option<f64> {
        let mean = match averaging {
            Averaging::Cumulative {} | Averaging::Anchored { .. } => self.total / self.count as f64,
            Averaging::Ema { .. } => self.total,
            Averaging::Window { .. } => self.recent.iter().sum::<f64>() / self.recent.len() as f64,
        };
        (self.count > 0).then_some(mean)
    }
}

/// The average of past steps: one number for all turns (the paper's H̄), or one per turn index.
///
/// Every training step counts once, whatever its number of tokens. Per turn index, the reference is
/// the average over the steps that reached this turn (for a window, the last n of *those*). A turn
/// that no step has reached has no reference.
#[derive(Clone, Debug, PartialEq)]
pub struct AverageHistory {
    averaging: Averaging,
    per_turn: bool,
    slots: Vec<Slot>,
}

impl AverageHistory {
    /// An empty history.
    pub fn new(averaging: Averaging, per_turn: bool) -> Self {
        Self { averaging, per_turn, slots: Vec::new() }
    }

    fn push(&mut self, slot: usize, value: Option<f64>) {
        if let Some(value) = value {
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, Slot::default());
            }
            self.slots[slot].push(value, self.averaging);
        }
    }
}

impl EntropyHistory for AverageHistory {
    fn reference(&self, turn: usize) -> Result<Option<f64>> {
        let slot = if self.per_turn { turn } else { 0 };
        Ok(self.slots.get(slot).and_then(|slot| slot.mean(self.averaging)))
    }

    fn record(&mut self, step: &StepEntropy) -> Result<()> {
        if self.per_turn {
            for turn in 0..step.turns() {
                self.push(turn, step.turn_mean(turn));
            }
        } else {
            self.push(0, step.mean());
        }
        Ok(())
    }
}

impl State for AverageHistory {
    fn state(&self) -> Value {
        json!({ "averaging": self.averaging, "per_turn": self.per_turn, "slots": self.slots })
    }

    fn load_state(&mut self, state: &Value) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Saved {
            averaging: Averaging,
            per_turn: bool,
            slots: Vec<Slot>,
        }
        let read: Saved = read_state(state)?;
        if (read.averaging, read.per_turn) != (self.averaging, self.per_turn) {
            let reason =
                format!("the history is {:?}, per turn: {}", self.averaging, self.per_turn);
            return Err(Error::setting("state", state, reason));
        }
        self.slots = read.slots;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(means: &[Option<f64>]) -> StepEntropy {
        let mut step = StepEntropy::new();
        for (turn, mean) in means.iter().enumerate() {
            if let Some(mean) = mean {
                step.add_turn(turn, &[*mean]).unwrap();
            }
        }
        step
    }

    fn run(averaging: Averaging, values: &[f64]) -> Vec<f64> {
        let mut history = AverageHistory::new(averaging, false);
        assert_eq!(history.reference(0).unwrap(), None);
        let record = |&value: &f64| {
            history.record(&step(&[Some(value)])).unwrap();
            history.reference(3).unwrap().unwrap()
        };
        values.iter().map(record).collect()
    }

    #[test]
    fn every_averaging_gives_its_textbook_sequence() {
        let values = [4.0, 2.0, 3.0, 7.0];
        let steps = Count::literal(2);
        let decay = Decay::literal(0.5);
        assert_eq!(run(Averaging::Cumulative {}, &values), [4.0, 3.0, 3.0, 4.0]);
        assert_eq!(run(Averaging::Window { steps }, &values), [4.0, 3.0, 2.5, 5.0]);
        assert_eq!(run(Averaging::Ema { decay }, &values), [4.0, 3.0, 3.0, 5.0]);
        assert_eq!(run(Averaging::Anchored { steps }, &values), [4.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn per_turn_slots_count_only_the_steps_that_reached_them() {
        let mut history = AverageHistory::new(Averaging::Cumulative {}, true);
        history.record(&step(&[Some(1.0), Some(5.0)])).unwrap();
        history.record(&step(&[Some(3.0), None, Some(9.0)])).unwrap();
        let references: Vec<_> = (0..4).map(|turn| history.reference(turn).unwrap()).collect();
        assert_eq!(references, [Some(2.0), Some(5.0), Some(9.0), None]);
    }

    #[test]
    fn a_restored_history_continues_as_the_original() {
        for averaging in [
            Averaging::Cumulative {},
            Averaging::Window { steps: Count::literal(2) },
            Averaging::Ema { decay: Decay::literal(0.9) },
        ] {
            let mut original = AverageHistory::new(averaging, true);
            for value in [0.3, 0.7, 0.2] {
                original.record(&step(&[Some(value)])).unwrap();
            }
            let text = original.state().to_string();
            let mut restored = AverageHistory::new(averaging, true);
            restored.load_state(&serde_json::from_str(&text).unwrap()).unwrap();
            original.record(&step(&[Some(0.1)])).unwrap();
            restored.record(&step(&[Some(0.1)])).unwrap();
            assert_eq!(restored, original);
            let anchored = Averaging::Anchored { steps: Count::literal(1) };
            let mut other = AverageHistory::new(anchored, true);
            assert!(matches!(other.load_state(&original.state()), Err(Error::Setting { .. })));
        }
    }
}
