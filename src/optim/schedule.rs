//! Learning-rate schedules.

use crate::settings::{Count, Positive, Unit};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The learning rate as a fraction of its base value, by training step, counted from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LrSchedule {
    /// Linear from 0 to 1 over `warmup_steps`, then 1.
    Constant {
        /// Steps of warm-up; 0 starts at 1.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Linear from `min_ratio` to 1 over `warmup_steps`, then a cosine down to `min_ratio`:
    /// max(r, (1−r)/2 · cos(2π·cycles·p) + (1+r)/2) with p the fraction of the steps after warm-up.
    ///
    /// The same as verl's `get_cosine_schedule_with_warmup`, which the EPO authors use.
    Cosine {
        /// Steps of warm-up.
        warmup_steps: u64,
        /// Steps of the whole run; afterwards the rate keeps its last value.
        total_steps: Count,
        /// r, the lowest fraction.
        #[serde(default = "zero")]
        min_ratio: Unit,
        /// Periods of the cosine; half a period falls once from 1 to r.
        #[serde(default = "half")]
        cycles: Positive,
    },
}

fn zero() -> Unit {
    Unit::literal(0.0)
}

fn half() -> Positive {
    Positive::literal(0.5)
}

impl Default for LrSchedule {
    fn default() -> Self {
        Self::Constant { warmup_steps: 0 }
    }
}

impl LrSchedule {
    /// Checks that the warm-up is no longer than the run; `key` is the schedule's own.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `key.warmup_steps`.
    pub fn check(&self, key: &str) -> Result<()> {
        match self {
            Self::Cosine { warmup_steps, total_steps, .. }
                if *warmup_steps > total_steps.get() as u64 =>
            {
                let reason = format!("must be at most {key}.total_steps = {total_steps}");
                Err(Error::setting(format!("{key}.warmup_steps"), warmup_steps, reason))
            }
            _ => Ok(()),
        }
    }

    /// The fraction of the base learning rate at `step`.
    pub fn factor(&self, step: u64) -> f64 {
        match *self {
            Self::Constant { warmup_steps } if step < warmup_steps => {
                step as f64 / warmup_steps as f64
            }
            Self::Constant { .. } => 1.0,
            Self::Cosine { warmup_steps, min_ratio, .. } if step < warmup_steps => {
                let min_ratio = min_ratio.get();
                min_ratio + (1.0 - min_ratio) * step as f64 / warmup_steps as f64
            }
            Self::Cosine { warmup_steps, total_steps, min_ratio, cycles } => {
                let total_steps = total_steps.get() as u64;
                let min_ratio = min_ratio.get();
                let cycles = cycles.get();
                let after = (total_steps - warmup_steps.min(total_steps)).max(1);
                let progress = ((step - warmup_steps) as f64 / after as f64).min(1.0);
                let wave = (std::f64::consts::TAU * cycles * progress).cos();
                (wave * (1.0 - min_ratio) / 2.0 + (1.0 + min_ratio) / 2.0).max(min_ratio)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(warmup_steps: u64, total_steps: usize, min_ratio: f64) -> LrSchedule {
        LrSchedule::Cosine {
            warmup_steps,
            total_steps: Count::literal(total_steps),
            min_ratio: Unit::literal(min_ratio),
            cycles: half(),
        }
    }

    #[test]
    fn cosine_with_warmup_passes_through_its_known_points() {
        let s = cosine(10, 110, 0.2);
        s.check("schedule").unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} against {b}");
        near(s.factor(0), 0.2);
        near(s.factor(5), 0.6);
        near(s.factor(10), 1.0);
        near(s.factor(35), 0.4 * std::f64::consts::FRAC_PI_4.cos() + 0.6);
        near(s.factor(60), 0.6);
        near(s.factor(110), 0.2);
        near(s.factor(1000), 0.2);
    }

    #[test]
    fn constant_warms_up_from_zero() {
        let s = LrSchedule::Constant { warmup_steps: 4 };
        let factors: Vec<f64> = (0..6).map(|i| s.factor(i)).collect();
        assert_eq!(factors, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(LrSchedule::default().factor(0), 1.0);
    }

    #[test]
    fn bad_settings_are_rejected() {
        let ok = r#"{"kind":"cosine","warmup_steps":1,"total_steps":10,"min_ratio":0.1}"#;
        let parsed: LrSchedule = serde_json::from_str(ok).unwrap();
        assert_eq!(parsed, cosine(1, 10, 0.1));
        let unknown = r#"{"kind":"constant","warmup":1}"#;
        assert!(serde_json::from_str::<LrSchedule>(unknown)
            .unwrap_err()
            .to_string()
            .contains("warmup"));
        for (total_steps, min_ratio, cycles) in [(0, 0.1, 0.5), (10, -0.1, 0.5), (10, 0.1, 0.0)] {
            let text = format!(
                "kind = \"cosine\"\nwarmup_steps = 0\ntotal_steps = {total_steps}\n\
                 min_ratio = {min_ratio}\ncycles = {cycles:?}\n"
            );
            let error = toml::from_str::<LrSchedule>(&text).unwrap_err().to_string();
            assert!(error.contains("must be"), "{text}: {error}");
        }
        let error = cosine(11, 10, 0.1).check("algorithm.critic.schedule").unwrap_err().to_string();
        let expected = "setting `algorithm.critic.schedule.warmup_steps` = 11: must be at most";
        assert!(error.starts_with(expected), "{error}");
    }
}
