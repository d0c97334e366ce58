//! Solved episodes to imitate.

use std::collections::BTreeMap;

use crate::env::environment::{Environment, Start, Step, Task};
use crate::{Error, Result};

/// A solved episode to imitate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Demonstration {
    /// The task.
    pub task: Task,
    /// Goal and first observation.
    pub start: Start,
    /// The actions and their results, up to the end of the episode.
    pub turns: Vec<DemonstratedTurn>,
}

/// One turn of a [`Demonstration`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DemonstratedTurn {
    /// The action.
    pub action: String,
    /// Its result.
    pub step: Step,
    /// False for a deliberate mistake, which the agent sees but does not imitate.
    pub imitated: bool,
}

/// Demonstrations of some tasks: those that solve their task, and the tasks without one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demonstrations {
    /// The demonstrations, in the order of their tasks.
    pub solved: Vec<Demonstration>,
    /// The other tasks, in order.
    pub unsolved: Vec<Unsolved>,
}

/// A task whose reference solution does not solve it within the limits of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsolved {
    /// The task.
    pub task: Task,
    /// The smallest limit that is known to solve it, in the unit of that limit (turns, moves).
    pub needs: Option<usize>,
}

impl Demonstrations {
    /// Returns the number of tasks.
    pub fn tasks(&self) -> usize {
        self.solved.len() + self.unsolved.len()
    }

    /// Returns the smallest limit that is known to solve every unsolved task that some limit
    /// solves.
    pub fn needs(&self) -> Option<usize> {
        self.unsolved.iter().filter_map(|unsolved| unsolved.needs).max()
    }

    /// Counts the solved tasks, in all and by task family: `solved 9 of 12: boil 3 of 6, melt 6 of
    /// 6`.
    pub fn summary(&self) -> String {
        let mut families: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for demonstration in &self.solved {
            families.entry(&demonstration.task.name).or_default()[0] += 1;
        }
        for unsolved in &self.unsolved {
            families.entry(&unsolved.task.name).or_default()[1] += 1;
        }
        let by_family: Vec<String> = families
            .into_iter()
            .map(|(name, [solved, unsolved])| format!("{name} {solved} of {}", solved + unsolved))
            .collect();
        let solved = self.solved.len();
        format!("solved {solved} of {}: {}", self.tasks(), by_family.join(", "))
    }

    /// Returns the demonstrations for imitation; `setting` and its value are the limit that ended
    /// the unsolved ones.
    ///
    /// # Errors
    /// [`Error::Setting`] for `setting` if no task is solved.
    pub fn for_imitation(
        self,
        setting: &str,
        value: impl std::fmt::Display,
    ) -> Result<Vec<Demonstration>> {
        if !self.solved.is_empty() {
            return Ok(self.solved);
        }
        let advice = match self.needs() {
            Some(limit) => format!("set it to {limit}"),
            None => "no higher limit is known to solve one: choose other tasks".to_owned(),
        };
        let reason = format!("no demonstration solves its task ({}); {advice}", self.summary());
        Err(Error::setting(setting, value, reason))
    }
}

impl Demonstration {
    /// Returns true if the last action solves the task.
    pub fn solves(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.step.success)
    }

    /// Plays the same actions in `environment` and returns its observations and rewards.
    ///
    /// # Errors
    /// An error of `environment`.
    pub fn replay(&self, environment: &mut dyn Environment) -> Result<Self> {
        let start = environment.reset(&self.task)?;
        let turn = |turn: &DemonstratedTurn| {
            Ok(DemonstratedTurn { step: environment.step(&turn.action)?, ..turn.clone() })
        };
        let turns = self.turns.iter().map(turn).collect::<Result<_>>()?;
        Ok(Self { task: self.task.clone(), start, turns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> Task {
        Task { name: name.into(), variation: 0 }
    }

    fn shown(name: &str) -> Demonstration {
        let start = Start { goal: String::new(), observation: String::new() };
        Demonstration { task: task(name), start, turns: Vec::new() }
    }

    #[test]
    fn solved_tasks_are_counted_by_family() {
        let failed = |name, needs| Unsolved { task: task(name), needs };
        let found = Demonstrations {
            solved: vec![shown("melt"), shown("boil"), shown("melt")],
            unsolved: vec![failed("boil", Some(153)), failed("freeze", None)],
        };
        assert_eq!(found.summary(), "solved 3 of 5: boil 1 of 2, freeze 0 of 1, melt 2 of 2");
        assert_eq!((found.tasks(), found.needs()), (5, Some(153)));
        assert_eq!(found.for_imitation("limit", 100).unwrap().len(), 3);
    }

    #[test]
    fn no_solved_task_is_an_error_with_the_limit_that_solves_them() {
        let none = |needs| Demonstrations {
            solved: Vec::new(),
            unsolved: vec![Unsolved { task: task("boil"), needs }],
        };
        let error = |needs| none(needs).for_imitation("a.limit", 100).unwrap_err().to_string();
        let text = error(Some(153));
        assert!(text.starts_with("setting `a.limit` = 100: "), "{text}");
        assert!(text.contains("solved 0 of 1: boil 0 of 1") && text.ends_with("set it to 153"));
        assert!(error(None).contains("choose other tasks"));
        assert!(Demonstrations::default().for_imitation("a.limit", 100).is_err());
    }
}
