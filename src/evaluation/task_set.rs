//! Fixed task sets for evaluation and a seeded task schedule for training.

use crate::env::Task;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// A named, fixed list of tasks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TaskSet {
    /// The name in metrics and reports (the value of `panel` in the files of a run).
    pub name: String,
    /// The tasks, sorted and without duplicates.
    pub tasks: Vec<Task>,
}

impl TaskSet {
    /// Creates a set of `tasks`, sorted.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty list or a duplicate task.
    pub fn new(name: impl Into<String>, mut tasks: Vec<Task>) -> Result<Self> {
        let name = name.into();
        tasks.sort();
        let refuse =
            |value: String, reason| Error::setting(format!("task set {name}"), value, reason);
        if tasks.is_empty() {
            return Err(refuse("[]".to_owned(), "needs at least one task"));
        }
        if let Some(twice) = tasks.windows(2).find(|w| w[0] == w[1]) {
            return Err(refuse(twice[0].to_string(), "the task is listed twice"));
        }
        Ok(Self { name, tasks })
    }

    /// Returns a set of the same name with `n` tasks spread evenly over this one, or with all tasks
    /// if there are fewer.
    ///
    /// # Errors
    /// [`Error::Setting`] if `n` is 0.
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

/// The tasks of each training step: epochs over a task set, each in its own seeded order.
#[derive(Debug, Clone)]
pub struct TaskSchedule {
    tasks: Vec<Task>,
    seed: u64,
    per_step: usize,
}

impl TaskSchedule {
    /// Schedules `per_step` tasks of `task_set` per training step.
    ///
    /// # Errors
    /// [`Error::Setting`] if `per_step` is 0.
    pub fn new(task_set: &TaskSet, seed: u64, per_step: usize) -> Result<Self> {
        if per_step == 0 {
            return Err(Error::setting("rollout.tasks", 0, "must be at least 1"));
        }
        Ok(Self { tasks: task_set.tasks.clone(), seed, per_step })
    }

    /// The tasks of step `step`, counted from 0; they depend on the seed and the step only.
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

    fn tasks(n: u32) -> TaskSet {
        let tasks = (0..n).rev().map(|variation| Task { name: "t".into(), variation }).collect();
        TaskSet::new("p", tasks).unwrap()
    }

    #[test]
    fn an_epoch_plays_every_task_once() {
        let schedule = TaskSchedule::new(&tasks(10), 1, 4).unwrap();
        let mut seen: Vec<u32> = (0..5).flat_map(|k| schedule.at(k)).map(|t| t.variation).collect();
        assert_ne!(seen[..10], seen[10..], "each epoch has its own order");
        seen[..10].sort_unstable();
        assert_eq!(seen[..10], (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn task_sets_are_sorted_and_refuse_no_tasks_and_duplicates() {
        assert_eq!(tasks(3).tasks[0].variation, 0);
        assert_eq!(
            tasks(10).thin(3).unwrap().tasks.iter().map(|t| t.variation).collect::<Vec<_>>(),
            [0, 3, 6]
        );
        assert!(TaskSet::new("p", vec![]).is_err());
        let twice = vec![Task { name: "t".into(), variation: 1 }; 2];
        assert!(TaskSet::new("p", twice).unwrap_err().to_string().contains("t:1"));
    }
}
