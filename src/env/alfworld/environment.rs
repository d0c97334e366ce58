//! Games as an environment: a task names one, an action is one command.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::env::alfworld::engine::files::{game_files, GameFile};
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::library::Library;
use crate::env::alfworld::engine::play::Play;
use crate::env::alfworld::error::AlfworldError;
use crate::env::alfworld::task::{Split, TaskType};
use crate::env::{Environment, Start, Step, Task};
use crate::{Error, Result};

/// Where the games of tasks come from.
pub trait Games: Send + Sync {
    /// The game of a task.
    ///
    /// # Errors
    /// A task that does not exist, or a game that cannot be loaded.
    fn game(&self, task: &Task) -> Result<Arc<Game>>;

    /// The tasks of one type in a split, sorted; where there are more than `most`, some of them, spread evenly.
    ///
    /// # Errors
    /// A split without any games.
    fn tasks(&self, split: Split, kind: TaskType, most: usize) -> Result<Vec<Task>>;
}

/// The name of the tasks of one type in a split: `valid_seen/pick_two_obj_and_place`.
pub(crate) fn family(split: Split, kind: TaskType) -> String {
    format!("{split}/{kind}")
}

/// The split and the type that [`family`] named.
///
/// # Errors
/// [`Error::Environment`] for any other name.
pub(crate) fn parse_family(task: &Task) -> Result<(Split, TaskType)> {
    let parts = task.name.split_once('/');
    let parsed = parts.and_then(|(split, kind)| Some((split.parse().ok()?, kind.parse().ok()?)));
    parsed.ok_or_else(|| refused("task", task, "a task is called SPLIT/TYPE:NUMBER"))
}

/// How many games are kept: those of a step's groups, with room for an evaluation between.
const KEPT: usize = 64;

/// The games loaded last. The episodes of a group play the same one, and a reset costs a thousandth of a load.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<(Task, Arc<Game>)>>);

impl Recent {
    /// The task's game, by `load` where it is not among them.
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

/// The games of ALFWorld's data folder; variation n of a family is its game n in sorted order.
pub struct DataFolder {
    folder: PathBuf,
    library: Library,
    recent: Recent,
    files: BTreeMap<(Split, TaskType), Vec<GameFile>>,
}

impl DataFolder {
    /// Lists the games of all splits that the folder has.
    ///
    /// # Errors
    /// A folder that cannot be read, or one without games.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let mut files: BTreeMap<_, Vec<GameFile>> = BTreeMap::new();
        let mut failure = None;
        for split in Split::ALL {
            match game_files(&folder, split, &[]) {
                Ok(found) => {
                    for file in found {
                        files.entry((split, file.task_type)).or_default().push(file);
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match (files.is_empty(), failure) {
            (true, Some(error)) => Err(error.into()),
            _ => Ok(Self { folder, library: Library::new(), recent: Recent::default(), files }),
        }
    }

    fn family(&self, split: Split, kind: TaskType) -> &[GameFile] {
        self.files.get(&(split, kind)).map_or(&[], Vec::as_slice)
    }
}

impl Games for DataFolder {
    fn game(&self, task: &Task) -> Result<Arc<Game>> {
        let (split, kind) = parse_family(task)?;
        let files = self.family(split, kind);
        let unknown = || refused("task", task, format!("there are {} such games", files.len()));
        let file = files.get(task.variation as usize).ok_or_else(unknown)?;
        self.recent.get(task, || Ok(self.library.load(&file.path)?))
    }

    fn tasks(&self, split: Split, kind: TaskType, most: usize) -> Result<Vec<Task>> {
        if !self.files.keys().any(|(known, _)| *known == split) {
            let (path, wanted) = (self.folder.clone(), format!("split {split}"));
            return Err(AlfworldError::NoGames { path, wanted }.into());
        }
        let n = self.family(split, kind).len();
        let kept = most.min(n);
        let task = |i: usize| Task { name: family(split, kind), variation: (i * n / kept) as u32 };
        Ok((0..kept).map(task).collect())
    }
}

/// A game in play. Score and reward are 1 for the solved task and 0 before.
pub struct AlfWorld {
    games: Arc<dyn Games>,
    play: Option<Play>,
}

impl AlfWorld {
    /// An environment without an episode in progress.
    pub fn new(games: Arc<dyn Games>) -> Self {
        Self { games, play: None }
    }
}

impl Environment for AlfWorld {
    fn reset(&mut self, task: &Task) -> Result<Start> {
        let game = self.games.game(task)?;
        let goal = game.goal().to_owned();
        // The task is told as the goal; the paragraph before it is what is seen.
        let told = game.first_observation();
        let mut paragraphs = told.rsplit("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
        let observation = paragraphs.nth(1).unwrap_or(told).trim().to_owned();
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
