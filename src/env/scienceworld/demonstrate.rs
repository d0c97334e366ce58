//! Demonstrations for imitation, made from the simulator's gold paths.
//!
//! Gold paths use knowledge that an agent does not have: they act on objects that no observation
//! has mentioned, and by internal names. They also make no mistakes, so an agent that imitates them
//! never sees how to recover from one. Some need more moves than an episode has, and a few do not
//! solve their task at all: those do not become demonstrations.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::env::demonstration::{DemonstratedTurn, Demonstration, Demonstrations, Unsolved};
use crate::env::environment::{Environment, Task};
use crate::env::scienceworld::calls::SOLVED;
use crate::env::scienceworld::environment::ScienceWorld;
use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::pool::ScienceWorldPool;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// Settings of the changes that turn gold paths into demonstrations.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemonstrationConfig {
    /// Looks around before the first `focus on` in a newly entered room, so that the observations
    /// mention the object.
    pub look_before_focus: bool,
    /// Uses the names in the observations. Gold paths use internal ones, which cannot be learned:
    /// `focus on egg parrot` for the object that is shown as `a parrot egg`.
    pub plain_names: bool,
    /// Omits opening doors that are open (under the `openDoors` simplification, one action per
    /// room).
    pub skip_open_doors: bool,
    /// The probability of a mistake before an action, in [0, 1]. A mistake is an action of another
    /// gold path, which the simulator usually refuses. The agent sees it but imitates only the
    /// actions after it.
    pub mistakes: f64,
}

impl Default for DemonstrationConfig {
    fn default() -> Self {
        Self { look_before_focus: true, plain_names: true, skip_open_doors: true, mistakes: 0.3 }
    }
}

impl DemonstrationConfig {
    /// Unchanged gold paths.
    pub const GOLD: Self = Self {
        look_before_focus: false,
        plain_names: false,
        skip_open_doors: false,
        mistakes: 0.0,
    };

    /// Checks the range of `mistakes`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.mistakes) {
            Ok(())
        } else {
            let field = "environment.demonstrations.mistakes";
            Err(Error::setting(field, self.mistakes, "must be in [0, 1]"))
        }
    }
}

/// The simulator's response to opening an open door.
const ALREADY_OPEN: &str = "The door is already open.";

/// An action to play; false marks a mistake.
type Planned<'a> = (&'a str, bool);

impl ScienceWorldPool {
    /// Plays the gold path of each task, changed by `config`, in all environments in parallel.
    ///
    /// A demonstration reaches a score of 100, whatever the rule of success. The other tasks are
    /// listed with the number of moves that their gold path needs. The demonstrations are in the
    /// order of `tasks` and do not depend on the number of environments. `progress` receives the
    /// number of tasks done.
    ///
    /// # Errors
    /// The first task that does not exist; a setting out of range; a pool without environments.
    pub fn demonstrations(
        &mut self,
        tasks: &[Task],
        config: &DemonstrationConfig,
        seed: u64,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Demonstrations> {
        config.validate()?;
        let half = |done: usize| done / 2; // a task is two jobs: find the path, play it
        let find = |env: &mut ScienceWorld, i: usize| {
            let gold = known_path(env.gold_path(&tasks[i]))?;
            let gold = if config.look_before_focus { look_before_focus(gold) } else { gold };
            env.adapted(&tasks[i], gold, config)
        };
        let paths = self.in_parallel(tasks.len(), &find, &mut |done| progress(half(done)))?;
        let play = |env: &mut ScienceWorld, i: usize| {
            let plan = with_mistakes(&paths, i, config.mistakes, seed);
            env.demonstrate(&tasks[i], &plan)
        };
        let played =
            self.in_parallel(tasks.len(), &play, &mut |done| progress(half(tasks.len() + done)))?;
        let (solved, unsolved): (Vec<_>, Vec<_>) =
            played.into_iter().enumerate().partition(|(_, demonstration)| solves(demonstration));
        let unsolved: Vec<usize> = unsolved.into_iter().map(|(i, _)| i).collect();
        let measure = |env: &mut ScienceWorld, j: usize| {
            let i = unsolved[j];
            let needs = env.moves_needed(&tasks[i], &paths[i])?;
            Ok(Unsolved { task: tasks[i].clone(), needs })
        };
        Ok(Demonstrations {
            solved: solved.into_iter().map(|(_, demonstration)| demonstration).collect(),
            unsolved: self.in_parallel(unsolved.len(), &measure, &mut |_| ())?,
        })
    }

    /// Returns `f(environment, i)` for each i below `count`, or the error of the lowest i.
    fn in_parallel<T: Send>(
        &mut self,
        count: usize,
        f: &(dyn Fn(&mut ScienceWorld, usize) -> Result<T> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<T>> {
        if self.environments().is_empty() {
            let reason = "all environments have been taken out of the pool";
            return Err(Error::setting("environments", 0, reason));
        }
        let next = AtomicUsize::new(0);
        let (sender, results) = std::sync::mpsc::channel();
        let mut done = Vec::with_capacity(count);
        std::thread::scope(|scope| {
            for environment in self.environments() {
                let next = &next;
                let sender = sender.clone();
                scope.spawn(move || loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    // Cannot fail: the receiver below outlives the threads.
                    let _ = sender.send((i, f(environment, i)));
                });
            }
            drop(sender);
            for item in results {
                done.push(item);
                progress(done.len());
            }
        });
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

impl ScienceWorld {
    /// Plays `plan` in a new episode of `task`. If an accepted mistake spoils the solution, plays
    /// the plan again without mistakes.
    fn demonstrate(&mut self, task: &Task, plan: &[Planned]) -> Result<Demonstration> {
        let played = self.play(task, plan)?;
        if !solves(&played) && plan.iter().any(|(_, gold)| !gold) {
            let gold: Vec<Planned> = plan.iter().copied().filter(|(_, gold)| *gold).collect();
            return self.play(task, &gold);
        }
        Ok(played)
    }

    /// Renames objects and omits open doors as set in `config`; returns `path` if the result does
    /// not solve the task.
    fn adapted(
        &mut self,
        task: &Task,
        path: Vec<String>,
        config: &DemonstrationConfig,
    ) -> Result<Vec<String>> {
        if path.is_empty() || (!config.plain_names && !config.skip_open_doors) {
            return Ok(path);
        }
        let mut turns = self.play(task, &as_planned(&path))?.turns;
        turns.retain(|turn| {
            !(config.skip_open_doors && turn.step.observation.trim_end() == ALREADY_OPEN)
        });
        let named = |turn: DemonstratedTurn| {
            if config.plain_names {
                plain_action(&turn.action, &turn.step.observation)
            } else {
                turn.action
            }
        };
        let adapted: Vec<String> = turns.into_iter().map(named).collect();
        let solved = adapted == path || solves(&self.play(task, &as_planned(&adapted))?);
        Ok(if solved { adapted } else { path })
    }

    fn play(&mut self, task: &Task, plan: &[Planned]) -> Result<Demonstration> {
        let start = self.reset(task)?;
        let mut turns = Vec::with_capacity(plan.len());
        for &(action, imitated) in plan {
            let step = self.step(action)?;
            let done = step.done;
            turns.push(DemonstratedTurn { action: action.to_owned(), step, imitated });
            if done {
                break;
            }
        }
        Ok(Demonstration { task: task.clone(), start, turns })
    }
}

fn as_planned(path: &[String]) -> Vec<Planned<'_>> {
    path.iter().map(|action| (action.as_str(), true)).collect()
}

/// Returns true if the score is 100; a rule of success may be content with less.
fn solves(played: &Demonstration) -> bool {
    played.turns.last().is_some_and(|turn| turn.step.score == f64::from(SOLVED))
}

/// Returns a gold path, empty if the simulator has none.
fn known_path(path: Result<Vec<String>>) -> Result<Vec<String>> {
    match path {
        Err(Error::World(error)) if is_missing(&*error) => Ok(Vec::new()),
        path => path,
    }
}

fn is_missing(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(SimulatorError::NoGoldPath { .. }))
}

/// Renames the objects of `action` to the names in the response: `You focus on the X.`,
/// `You move the X to the Y.`
fn plain_action(action: &str, response: &str) -> String {
    let response = response.trim_end().trim_end_matches('.');
    if let Some(thing) = response.strip_prefix("You focus on the ") {
        return format!("focus on {thing}");
    }
    match response.strip_prefix("You move the ").and_then(|moved| moved.rsplit_once(" to the ")) {
        Some((thing, "inventory")) => format!("pick up {thing}"),
        Some((thing, place)) => format!("move {thing} to {place}"),
        None => action.to_owned(),
    }
}

/// Inserts a look around before the first `focus on` of each room entered.
fn look_before_focus(path: Vec<String>) -> Vec<String> {
    let mut looked = true; // an episode starts with a look around
    let mut shown = Vec::with_capacity(path.len() + 1);
    for action in path {
        if action.starts_with("focus on") && !looked {
            shown.push("look around".to_owned());
        }
        looked = !action.starts_with("go to");
        shown.push(action);
    }
    shown
}

/// Inserts actions of other paths into path `i`, except moves, which would often succeed.
fn with_mistakes(paths: &[Vec<String>], i: usize, probability: f64, seed: u64) -> Vec<Planned<'_>> {
    let stream = Stream::new(seed, Purpose::Demonstrations, i as u64, 0, 0);
    let pick = |turn: u64, token: u64, n: usize| {
        ((stream.uniform(turn, token) * n as f64) as usize).min(n.saturating_sub(1))
    };
    let mut plan = Vec::with_capacity(paths[i].len());
    for (j, action) in paths[i].iter().enumerate() {
        if stream.uniform(j as u64, 0) < probability {
            let other = &paths[pick(j as u64, 1, paths.len())];
            let mistake = other.get(pick(j as u64, 2, other.len()));
            let fits =
                |mistake: &&String| !mistake.starts_with("go to") && !paths[i].contains(*mistake);
            if let Some(mistake) = mistake.filter(fits) {
                plan.push((mistake.as_str(), false));
            }
        }
        plan.push((action.as_str(), true));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(path: &[&str]) -> Vec<String> {
        path.iter().map(|action| (*action).to_owned()).collect()
    }

    #[test]
    fn each_room_entered_is_looked_at_once() {
        let path = [
            "focus on a",
            "go to x",
            "focus on b",
            "focus on c",
            "go to y",
            "look around",
            "focus on d",
        ];
        let shown = look_before_focus(owned(&path));
        let looks: Vec<_> = (0..shown.len()).filter(|&i| shown[i] == "look around").collect();
        assert_eq!((shown.len(), looks), (8, vec![2, 6]));
    }

    #[test]
    fn actions_use_the_names_in_the_responses() {
        for (action, response, plain) in [
            ("focus on egg parrot", "You focus on the parrot egg.", "focus on parrot egg"),
            (
                "pick up butterfly",
                "You move the butterfly egg to the inventory.",
                "pick up butterfly egg",
            ),
            ("move x in y to red box", "You move the x to the red box.", "move x to red box"),
            ("go to kitchen", "You move to the kitchen.", "go to kitchen"),
        ] {
            assert_eq!(plain_action(action, response), plain);
        }
    }

    #[test]
    fn mistakes_come_from_other_paths_and_keep_every_action_of_the_path() {
        let paths =
            [owned(&["go to a", "focus on b"]), owned(&["go to c", "focus on d", "pick up e"])];
        let plan = with_mistakes(&paths, 0, 1.0, 3);
        let gold: Vec<_> =
            plan.iter().filter(|(_, gold)| *gold).map(|(action, _)| *action).collect();
        assert_eq!(gold, paths[0]);
        let mistakes = |seed| {
            let plan = with_mistakes(&paths, 0, 1.0, seed);
            plan.into_iter().filter(|(_, gold)| !gold).map(|(action, _)| action).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..20).flat_map(mistakes).collect();
        assert!(all.contains(&"focus on d") && all.contains(&"pick up e"));
        assert!(all.iter().all(|action| ["focus on d", "pick up e"].contains(action)));
        assert!(with_mistakes(&paths, 0, 0.0, 3).iter().all(|(_, gold)| *gold));
    }
}
