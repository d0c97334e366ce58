//! Demonstrations: the simulator's gold paths, made fit to be learned from.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::env::scienceworld::environment::ScienceWorld;
use crate::env::scienceworld::pool::ScienceWorldPool;
use crate::env::{DemonstratedTurn, Demonstration, Environment, Task};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// How gold paths become demonstrations.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemonstrationConfig {
    /// Look around before the first `focus on` of a room just entered. Gold paths know what is where; whoever
    /// is to learn from them has to see it.
    pub look_before_focus: bool,
    /// Call things by the names that the agent reads. Gold paths use the simulator's own (`focus on egg parrot`
    /// where the agent sees a parrot egg), which nobody can learn from the observations.
    pub plain_names: bool,
    /// Leave out opening what is open: under the `openDoors` simplification one action a room.
    pub skip_open_doors: bool,
    /// Probability of a mistake before an action, in [0, 1]: an action of another gold path, which the
    /// simulator mostly refuses. It is shown and not to be imitated; what follows shows how to go on.
    pub mistakes: f64,
}

impl Default for DemonstrationConfig {
    fn default() -> Self {
        Self { look_before_focus: true, plain_names: true, skip_open_doors: true, mistakes: 0.3 }
    }
}

impl DemonstrationConfig {
    /// The gold paths as they are.
    pub const GOLD: Self = Self {
        look_before_focus: false,
        plain_names: false,
        skip_open_doors: false,
        mistakes: 0.0,
    };

    /// Refuses a probability that is none.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `environment.demonstrations.mistakes`.
    pub fn validate(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.mistakes) {
            Ok(())
        } else {
            Err(Error::setting(
                "environment.demonstrations.mistakes",
                self.mistakes,
                "must be in [0, 1]",
            ))
        }
    }
}

/// The simulator's answer to opening an open door.
const ALREADY_OPEN: &str = "The door is already open.";

/// An action to play, and whether it is the gold path's.
type Planned<'a> = (&'a str, bool);

impl ScienceWorldPool {
    /// The gold path of each task played as `config` says, all environments in parallel; in the order of
    /// `tasks`. `progress` gets the number played, from time to time.
    ///
    /// # Errors
    /// The first task, in order, that has no gold path or does not exist; a setting out of range; no environment
    /// left in the pool.
    pub fn demonstrations(
        &mut self,
        tasks: &[Task],
        config: &DemonstrationConfig,
        seed: u64,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Demonstration>> {
        config.validate()?;
        let half = |done: usize| done / 2; // a task is two jobs: finding its path, playing it
        let find = |env: &mut ScienceWorld, i: usize| {
            let gold = env.gold_path(&tasks[i])?;
            let gold = if config.look_before_focus { look_before_focus(gold) } else { gold };
            env.adapted(&tasks[i], gold, config)
        };
        let paths = self.in_parallel(tasks.len(), &find, &mut |done| progress(half(done)))?;
        let play = |env: &mut ScienceWorld, i: usize| {
            let plan = with_mistakes(&paths, i, config.mistakes, seed);
            env.demonstrate(&tasks[i], &plan)
        };
        self.in_parallel(tasks.len(), &play, &mut |done| progress(half(tasks.len() + done)))
    }

    /// `f(environment, i)` for each i below `count`, in order, or the error of the first i that has one.
    fn in_parallel<T: Send>(
        &mut self,
        count: usize,
        f: &(dyn Fn(&mut ScienceWorld, usize) -> Result<T> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<T>> {
        if self.environments().is_empty() {
            return Err(Error::setting("environments", 0, "all were taken out of the pool"));
        }
        let next = AtomicUsize::new(0);
        let (sender, results) = std::sync::mpsc::channel();
        let mut done = Vec::with_capacity(count);
        std::thread::scope(|scope| {
            for environment in self.environments() {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    // The receiver outlives the threads: it is emptied below.
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
    /// Plays `plan` from a fresh start of `task`. A mistake that the simulator accepts may spoil the path, which
    /// is then played without mistakes.
    fn demonstrate(&mut self, task: &Task, plan: &[Planned]) -> Result<Demonstration> {
        let played = self.play(task, plan)?;
        if !solves(&played) && plan.iter().any(|(_, gold)| !gold) {
            let gold: Vec<Planned> = plan.iter().copied().filter(|(_, gold)| *gold).collect();
            return self.play(task, &gold);
        }
        Ok(played)
    }

    /// `path` with plain names and without open doors, as `config` says, if it still solves the task.
    fn adapted(
        &mut self,
        task: &Task,
        path: Vec<String>,
        config: &DemonstrationConfig,
    ) -> Result<Vec<String>> {
        if !config.plain_names && !config.skip_open_doors {
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

fn solves(played: &Demonstration) -> bool {
    played.turns.last().is_some_and(|turn| turn.step.success)
}

/// `action` as its answer puts it: `You focus on the X.`, `You move the X to the Y.`
fn plain_action(action: &str, answer: &str) -> String {
    let answer = answer.trim_end().trim_end_matches('.');
    if let Some(thing) = answer.strip_prefix("You focus on the ") {
        return format!("focus on {thing}");
    }
    match answer.strip_prefix("You move the ").and_then(|moved| moved.rsplit_once(" to the ")) {
        Some((thing, "inventory")) => format!("pick up {thing}"),
        Some((thing, place)) => format!("move {thing} to {place}"),
        None => action.to_owned(),
    }
}

/// `path` with a look around before the first `focus on` of each room entered.
fn look_before_focus(path: Vec<String>) -> Vec<String> {
    let mut looked = true; // an episode begins with a look around
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

/// Path `i` with actions of other paths before some of its own. Moves are left out: many a room has the door.
fn with_mistakes(paths: &[Vec<String>], i: usize, probability: f64, seed: u64) -> Vec<Planned<'_>> {
    let stream = Stream::new(seed, Purpose::Demonstrations, i as u64, 0, 0);
    let pick = |turn: u64, token: u64, n: usize| {
        ((stream.uniform(turn, token) * n as f64) as usize).min(n - 1)
    };
    let mut plan = Vec::with_capacity(paths[i].len());
    for (j, action) in paths[i].iter().enumerate() {
        if stream.uniform(j as u64, 0) < probability {
            let other = &paths[pick(j as u64, 1, paths.len())];
            let mistake = &other[pick(j as u64, 2, other.len())];
            if !mistake.starts_with("go to") && !paths[i].contains(mistake) {
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
    fn one_look_for_each_room_entered() {
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
    fn actions_take_the_names_of_their_answers() {
        for (action, answer, plain) in [
            ("focus on egg parrot", "You focus on the parrot egg.", "focus on parrot egg"),
            (
                "pick up butterfly",
                "You move the butterfly egg to the inventory.",
                "pick up butterfly egg",
            ),
            ("move x in y to red box", "You move the x to the red box.", "move x to red box"),
            ("go to kitchen", "You move to the kitchen.", "go to kitchen"),
        ] {
            assert_eq!(plain_action(action, answer), plain);
        }
    }

    #[test]
    fn mistakes_come_from_other_paths_and_leave_the_own_one_whole() {
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
