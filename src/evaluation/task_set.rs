//! Which tasks are played: fixed panels for evaluation, a seeded schedule for training.

use crate::env::Task;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// A named, fixed list of tasks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TaskSet {
    /// What the panel is called in metrics and reports.
    pub name: String,
    /// Its tasks, sorted, each once.
    pub tasks: Vec<Task>,
}

impl TaskSet {
    /// A panel of `tasks`, sorted.
    ///
    /// # Errors
    /// No tasks, or one of them twice.
    pub fn new(name: impl Into<String>, mut tasks: Vec<Task>) -> Result<Self> {
        let name = name.into();
        tasks.sort();
        if tasks.is_empty() {
            return Err(Error::setting(
                format!("panel `{name}`"),
                "[]",
                "a panel needs at least one task",
            ));
        }
        if let Some(twice) = tasks.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::setting(
                format!("panel `{name}`"),
                &twice[0],
                "the task is listed twice",
            ));
        }
        Ok(Self { name, tasks })
    }

    /// `n` tasks spread evenly over the panel (all of them if it is smaller), as a panel of the same name.
    ///
    /// # Errors
    /// `n` is 0.
    pub fn thin(&self, n: usize) -> Result<Self> {
        let m = self.tasks.len();
        let tasks = if n >= m {
            self.tasks.clone()
        } else {
            (0..n).map(|i| self.tasks[i * m / n].clone()).collect()
        };
        Self::new(self.name.clone(), tasks)
    }
}

/// The tasks of each training step: the panel in a fresh seeded order each time it has been gone through.
#[derive(Debug, Clone)]
pub struct TaskSchedule {
    tasks: Vec<Task>,
    seed: u64,
    per_step: usize,
}

impl TaskSchedule {
    /// `per_step` tasks a step out of `panel`.
    ///
    /// # Errors
    /// `per_step` is 0.
    pub fn new(panel: &TaskSet, seed: u64, per_step: usize) -> Result<Self> {
        if per_step == 0 {
            return Err(Error::setting("rollout.tasks", 0, "must be at least 1"));
        }
        Ok(Self { tasks: panel.tasks.clone(), seed, per_step })
    }

    /// The tasks of step `step` (0-based); depends on nothing but the seed and the step.
    pub fn at(&self, step: u64) -> Vec<Task> {
        let n = self.tasks.len() as u64;
        let first = step * self.per_step as u64;
        (first..first + self.per_step as u64)
            .map(|i| {
                let order =
                    Stream::new(self.seed, Purpose::Tasks, i / n, 0, 0).permutation(0, n as usize);
                self.tasks[order[(i % n) as usize]].clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(n: u32) -> TaskSet {
        let tasks = (0..n).rev().map(|variation| Task { name: "t".into(), variation }).collect();
        TaskSet::new("p", tasks).unwrap()
    }

    #[test]
    fn an_epoch_plays_every_task_once() {
        let schedule = TaskSchedule::new(&panel(10), 1, 4).unwrap();
        let mut seen: Vec<u32> = (0..5).flat_map(|k| schedule.at(k)).map(|t| t.variation).collect();
        assert_ne!(seen[..10], seen[10..], "each epoch has its own order");
        seen[..10].sort_unstable();
        assert_eq!(seen[..10], (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn panels_are_sorted_and_reject_what_makes_no_panel() {
        assert_eq!(panel(3).tasks[0].variation, 0);
        assert_eq!(
            panel(10).thin(3).unwrap().tasks.iter().map(|t| t.variation).collect::<Vec<_>>(),
            [0, 3, 6]
        );
        assert!(TaskSet::new("p", vec![]).is_err());
        let twice = vec![Task { name: "t".into(), variation: 1 }; 2];
        assert!(TaskSet::new("p", twice).unwrap_err().to_string().contains("t:1"));
    }
}
