//! ALFWorld as an [`Environment`]: a task is a game, an action is a command.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::env::alfworld::engine::files::{list, no_games, GameFile};
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::left_out::LeftOut;
use crate::env::alfworld::engine::library::Library;
use crate::env::alfworld::engine::play::Play;
use crate::env::alfworld::error::AlfworldError;
use crate::env::alfworld::task::{Split, TaskType};
use crate::env::{Environment, Start, Step, Task};
use crate::{Error, Result};

/// A source of games for tasks.
pub trait Games: Send + Sync {
    /// Returns the game of a task.
    ///
    /// # Errors
    /// Returns an error if the task does not exist or its game cannot be loaded.
    fn game(&self, task: &Task) -> Result<Arc<Game>>;

    /// Lists tasks of one type in a split, sorted.
    ///
    /// Returns at most `most` tasks, spread evenly over all.
    ///
    /// # Errors
    /// Returns an error if the split has no games.
    fn tasks(&self, split: Split, kind: TaskType, most: usize) -> Result<Vec<Task>>;

    /// Describes the games that are not listed, with their number by reason; empty if all are.
    fn left_out(&self) -> String {
        String::new()
    }
}

/// Names the tasks of one type in a split: `valid_seen/pick_two_obj_and_place`.
pub(crate) fn family(split: Split, kind: TaskType) -> String {
    format!("{split}/{kind}")
}

/// Parses a name given by [`family`].
///
/// # Errors
/// Returns [`Error::Environment`] for any other name.
pub(crate) fn parse_family(task: &Task) -> Result<(Split, TaskType)> {
    let parts = task.name.split_once('/');
    let parsed = parts.and_then(|(split, kind)| Some((split.parse().ok()?, kind.parse().ok()?)));
    parsed.ok_or_else(|| refused("task", task, "must have the form SPLIT/TYPE:NUMBER"))
}

/// The number of games kept: enough for the groups of a training step and an evaluation.
const KEPT: usize = 64;

/// A cache of the games loaded last.
///
/// The episodes of a group play the same game, and a reset takes a thousandth of the time of a
/// load.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<(Task, Arc<Game>)>>);

impl Recent {
    /// Returns the cached game of a task, or loads it.
    pub(crate) fn get(
        &self,
        task: &Task,
        load: impl FnOnce() -> Result<Arc<Game>>,
    ) -> Result<Arc<Game>> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, game)) = kept().iter().find(|(known, _)| known == task) {
            return Ok(game.clone());
        }
        let game = load()?;
        let mut kept = kept();
        kept.truncate(KEPT - 1);
        kept.push_front((task.clone(), game.clone()));
        Ok(game)
    }
}

/// The games of ALFWorld's data folder.
///
/// Variation `n` of a task name is game `n` of its split and type in sorted order.
pub struct DataFolder {
    folder: PathBuf,
    library: Library,
    recent: Recent,
    files: BTreeMap<(Split, TaskType), Vec<GameFile>>,
    left_out: LeftOut,
}

impl DataFolder {
    /// Lists the games of all splits in the folder; splits may be missing.
    ///
    /// # Errors
    /// Returns an error if the folder of a split cannot be read, or if there are no games.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let mut files: BTreeMap<_, Vec<GameFile>> = BTreeMap::new();
        let mut left_out = LeftOut::default();
        std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))?;
        for split in Split::ALL {
            let listing = match list(&folder, split, &[]) {
                Err(AlfworldError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    continue;
                }
                listing => listing?,
            };
            left_out.merge(&listing.left_out);
            for file in listing.games {
                files.entry((split, file.task_type)).or_default().push(file);
            }
        }
        if files.is_empty() {
            return Err(no_games(&folder, "any split".to_owned(), &left_out).into());
        }
        let library = Library::new();
        Ok(Self { folder, library, recent: Recent::default(), files, left_out })
    }

    /// The names of all games, in the order of splits and task types.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.values().flatten().map(|file| file.name.as_str())
    }

    fn family(&self, split: Split, kind: TaskType) -> &[GameFile] {
        self.files.get(&(split, kind)).map_or(&[], Vec::as_slice)
    }
}

impl Games for DataFolder {
    fn game(&self, task: &Task) -> Result<Arc<Game>> {
        let (split, kind) = parse_family(task)?;
        let files = self.family(split, kind);
        let count = files.len();
        let reason = || format!("only {count} games of this split and type exist, counted from 0");
        let unknown = || refused("task", task, reason());
        let file = files.get(task.variation as usize).ok_or_else(unknown)?;
        self.recent.get(task, || Ok(self.library.load(&file.path)?))
    }

    fn tasks(&self, split: Split, kind: TaskType, most: usize) -> Result<Vec<Task>> {
        if !self.files.keys().any(|(known, _)| *known == split) {
            return Err(no_games(&self.folder, format!("split {split}"), &self.left_out).into());
        }
        let n = self.family(split, kind).len();
        let kept = most.min(n);
        let task = |i: usize| Task { name: family(split, kind), variation: (i * n / kept) as u32 };
        Ok((0..kept).map(task).collect())
    }

    fn left_out(&self) -> String {
        self.left_out.to_string()
    }
}

/// ALFWorld as an environment; score and reward are 1 once the task is solved and 0 before.
pub struct AlfWorld {
    games: Arc<dyn Games>,
    play: Option<Play>,
}

impl AlfWorld {
    /// Creates an environment without an episode in progress.
    pub fn new(games: Arc<dyn Games>) -> Self {
        Self { games, play: None }
    }
}

impl Environment for AlfWorld {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        let game = self.games.game(task)?;
        let goal = game.goal().to_owned();
        // The last paragraph is the goal; the one before it is the observation.
        let text = game.first_observation();
        let mut paragraphs = text.rsplit("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
        let observation = paragraphs.nth(1).unwrap_or(text).trim().to_owned();
        self.play = Some(Play::new(game));
        Ok(Start { goal, observation })
    }

    fn step(&mut self, action: &str) -> Result<Step> {
        let idle = || refused("action", action, "no episode in progress");
        let play = self.play.as_mut().ok_or_else(idle)?;
        let outcome = play.step(action)?;
        if outcome.done {
            self.play = None;
        }
        let score = f64::from(outcome.score);
        Ok(Step {
            observation: outcome.observation,
            reward: score,
            score,
            done: outcome.done,
            success: outcome.won,
            valid: outcome.valid,
        })
    }

    fn admissible(&mut self) -> Result<Vec<String>> {
        let play =
            self.play.as_ref().ok_or_else(|| refused("action", "", "no episode in progress"))?;
        Ok(play.admissible().map(String::from).collect())
    }

    fn waits(&self) -> bool {
        false
    }
}

fn refused(what: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::Environment {
        environment: "alfworld",
        what,
        value: value.to_string(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn games() -> DataFolder {
        DataFolder::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/alfworld")).unwrap()
    }

    fn first_task(games: &DataFolder) -> Task {
        let all = TaskType::ALL.map(|kind| games.tasks(Split::Train, kind, 1).unwrap());
        all.into_iter().flatten().next().unwrap()
    }

    #[test]
    fn a_walkthrough_solves_its_task_and_a_solved_task_is_over() {
        let games = games();
        let task = first_task(&games);
        let walkthrough = games.game(&task).unwrap().walkthrough().unwrap().to_vec();
        let mut env = AlfWorld::new(Arc::new(games));
        assert!(env.step("look").is_err(), "no episode is in progress");
        let start = env.reset(&task).unwrap();
        assert!(!start.goal.is_empty() && !start.observation.contains(&start.goal));
        let wrong = env.step("no such command").unwrap();
        assert!(!wrong.valid && !wrong.done && wrong.reward == 0.0);
        for (i, action) in walkthrough.iter().enumerate() {
            assert!(env.admissible().unwrap().contains(action));
            let step = env.step(action).unwrap();
            let last = i + 1 == walkthrough.len();
            assert_eq!(
                (step.valid, step.done, step.success, step.score),
                (true, last, last, f64::from(u8::from(last)))
            );
        }
        assert!(env.step("look").is_err(), "a finished episode stays finished");
    }

    #[test]
    fn unknown_tasks_and_empty_folders_are_errors() {
        let games = games();
        let first = first_task(&games);
        let absent = games.tasks(Split::ValidUnseen, TaskType::ALL[0], 1).unwrap_err().to_string();
        assert!(
            absent.contains("valid_unseen") && absent.contains("fixtures/alfworld"),
            "{absent}"
        );
        for task in
            [Task { variation: 99, ..first }, Task { name: "train/juggle".into(), variation: 0 }]
        {
            let error = games.game(&task).map(drop).unwrap_err().to_string();
            assert!(error.contains(&task.to_string()), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(DataFolder::open(empty.path()).is_err());
    }
}
