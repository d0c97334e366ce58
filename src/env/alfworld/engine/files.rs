//! The data folder and its game files.

use std::path::{Path, PathBuf};

use crate::env::alfworld::engine::fields::GAME_FILE;
use crate::env::alfworld::engine::left_out::{LeftOut, Reason};
use crate::env::alfworld::engine::solvable::{value_of, Solvable};
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::task::{Split, TaskType};

/// The folder of the games in the data folder.
const VERSION: &str = "json_2.1.1";
/// The start of the names of all versions of that folder.
const VERSIONS: &str = "json_2.1.";
/// ALFWorld skips folders whose name contains one of these.
const SKIPPED: [&str; 2] = ["movable", "Sliced"];
/// The folder that zip archives made on macOS leave next to the files.
const ZIP_LEFTOVER: &str = "__MACOSX";
/// The largest depth below the folder of a split at which games are searched.
const MAX_DEPTH: usize = 8;
/// The file next to a game that ALFWorld reads the task type from.
const TRAJECTORY_FILE: &str = "traj_data.json";

/// A game in the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GameFile {
    /// The path relative to the folder of the splits, with `/` as separator:
    /// `train/…/game.tw-pddl`.
    pub name: String,
    /// The path of the file.
    pub path: PathBuf,
    /// The type of the task.
    pub task_type: TaskType,
}

/// The games of a split, and what was left out.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The playable games, sorted by name.
    pub(crate) games: Vec<GameFile>,
    pub(crate) left_out: LeftOut,
}

/// Returns ALFWorld's data folder: `$ALFWORLD_DATA`, or `.cache/alfworld` in the home folder.
///
/// # Errors
/// Returns [`AlfworldError::NoDataFolder`] if neither is known.
pub fn data_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("ALFWORLD_DATA").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.map(|home| home.join(".cache/alfworld")).ok_or(AlfworldError::NoDataFolder)
}

/// Lists the playable games of a split, sorted by name.
///
/// `types` selects task types; an empty list selects all. `folder` is the data folder, the
/// `json_2.1.1` (or another `json_2.1.*`) in it, or any folder with one folder per split. As in
/// ALFWorld, a game is playable if its file says `"solvable": true` and no folder of its path is
/// named `*movable*` or `*Sliced*`. The task type is in the path or in the `traj_data.json` next to
/// the game.
///
/// # Errors
/// Returns [`AlfworldError::Io`] if the folder of the split cannot be read, and
/// [`AlfworldError::NoGames`], with the reasons, if there is no such game.
pub fn game_files(folder: &Path, split: Split, types: &[TaskType]) -> Result<Vec<GameFile>> {
    let Listing { games, left_out } = list(folder, split, types)?;
    if !games.is_empty() {
        return Ok(games);
    }
    let names: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
    let types = if names.is_empty() { "any type".to_owned() } else { names.join(", ") };
    Err(no_games(folder, format!("split {split}, {types}"), &left_out))
}

/// Lists the playable games of a split and counts the others by reason.
///
/// # Errors
/// Returns [`AlfworldError::Io`] if the folder of the split cannot be read.
pub(crate) fn list(folder: &Path, split: Split, types: &[TaskType]) -> Result<Listing> {
    let mut search = Search { types, listing: Listing::default() };
    let path = splits_folder(folder).join(split.name());
    let entries = std::fs::read_dir(&path).map_err(|source| AlfworldError::Io { path, source })?;
    search.folder(entries, split.name(), MAX_DEPTH);
    search.listing.games.sort_unstable();
    Ok(search.listing)
}

/// The error of a folder without playable games, with what was left out and where games are.
pub(crate) fn no_games(folder: &Path, wanted: String, left_out: &LeftOut) -> AlfworldError {
    let path = splits_folder(folder);
    let mut advice = left_out.to_string();
    if let Some(place) = better_place(folder).filter(|_| !has_splits(&path)) {
        advice = format!("the folders of the splits are in {}: name that folder", place.display());
    }
    AlfworldError::NoGames { path, wanted, advice }
}

/// Returns the folder with one folder per split.
fn splits_folder(folder: &Path) -> PathBuf {
    let usual = folder.join(VERSION);
    if usual.is_dir() {
        usual
    } else if has_splits(folder) {
        folder.to_owned()
    } else {
        latest_version(folder).unwrap_or_else(|| folder.to_owned())
    }
}

fn has_splits(folder: &Path) -> bool {
    Split::ALL.iter().any(|split| folder.join(split.name()).is_dir())
}

/// Returns the last `json_2.1.*` with splits in a folder.
fn latest_version(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let versions =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(VERSIONS));
    versions.map(|entry| entry.path()).filter(|path| has_splits(path)).max()
}

/// Returns the data folder that a folder is inside of, or that is inside it.
fn better_place(folder: &Path) -> Option<PathBuf> {
    let full = std::path::absolute(folder).ok()?;
    let above = full.ancestors().skip(1).take(MAX_DEPTH).find(|path| has_splits(path));
    let holds_games = |path: &PathBuf| has_splits(&splits_folder(path));
    let below = || std::fs::read_dir(&full).ok()?.flatten().map(|e| e.path()).find(holds_games);
    above.map(Path::to_owned).or_else(below)
}

struct Search<'a> {
    types: &'a [TaskType],
    listing: Listing,
}

impl Search<'_> {
    fn folder(&mut self, entries: std::fs::ReadDir, name: &str, depth: usize) {
        for entry in entries {
            match entry {
                Ok(entry) => self.entry(&entry, name, depth),
                Err(_) => self.leave_out(Reason::Unreadable, name),
            }
        }
    }

    fn entry(&mut self, entry: &std::fs::DirEntry, above: &str, depth: usize) {
        let part = entry.file_name().to_string_lossy().into_owned();
        let name = format!("{above}/{part}");
        let path = entry.path();
        if part == GAME_FILE {
            self.game(name, path);
        } else if depth > 0 && path.is_dir() {
            if SKIPPED.iter().any(|word| part.contains(word)) {
                self.leave_out(Reason::Skipped, &name);
            } else if part == ZIP_LEFTOVER {
                self.leave_out(Reason::ZipLeftover, &name);
            } else if is_loop(entry) {
                self.leave_out(Reason::Loop, &name);
            } else {
                match std::fs::read_dir(&path) {
                    Ok(entries) => self.folder(entries, &name, depth - 1),
                    Err(_) => self.leave_out(Reason::Unreadable, &name),
                }
            }
        }
    }

    fn game(&mut self, name: String, path: PathBuf) {
        let Some(task_type) = TaskType::of_path(&name).or_else(|| type_beside(&path)) else {
            return self.leave_out(Reason::NoType, &name);
        };
        if !self.types.is_empty() && !self.types.contains(&task_type) {
            return;
        }
        match Reason::of(Solvable::of_file(&path)) {
            None => self.listing.games.push(GameFile { name, path, task_type }),
            Some(reason) => self.leave_out(reason, &name),
        }
    }

    fn leave_out(&mut self, reason: Reason, name: &str) {
        self.listing.left_out.add(reason, name);
    }
}

/// Returns true for a link to a folder that contains the link.
fn is_loop(entry: &std::fs::DirEntry) -> bool {
    if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
        return false;
    }
    let path = entry.path();
    let above = path.parent().and_then(|parent| parent.canonicalize().ok());
    let target = path.canonicalize().ok();
    above.zip(target).is_some_and(|(above, target)| above.starts_with(target))
}

/// Reads the task type in the `traj_data.json` next to a game.
fn type_beside(game: &Path) -> Option<TaskType> {
    type_in(&std::fs::read(game.with_file_name(TRAJECTORY_FILE)).ok()?)
}

/// Reads the task type in the text of a `traj_data.json`.
fn type_in(text: &[u8]) -> Option<TaskType> {
    value_of(text, "task_type").ok()??.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    /// Texts that come close to a `traj_data.json`.
    const PARTS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        " ",
        "\"task_type\"",
        "task_type",
        "null",
        "-1.5",
        "\"pick_and_place_simple\"",
        "pick_two_obj_and_place",
        "\"plan\": {}",
        "é",
        "\u{0}",
    ];

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_task_type_is_found_in_an_object_that_has_it_and_nowhere_else(
            kind in select(&TaskType::ALL[..]),
            parts in proptest::collection::vec(select(PARTS), 0..6),
            at in any::<Index>(),
        ) {
            let whole = format!("{{\"plan\": [1], \"task_type\": \"{}\"}}", kind.name());
            prop_assert_eq!(type_in(whole.as_bytes()), Some(kind));
            let mut changed = whole.clone();
            changed.insert_str(at.index(whole.len() + 1), &parts.concat());
            for text in [changed, parts.concat()] {
                let known: Option<TaskType> = serde_json::from_str::<serde_json::Value>(&text)
                    .ok()
                    .and_then(|value| value.get("task_type")?.as_str()?.parse().ok());
                if let Some(found) = type_in(text.as_bytes()) {
                    prop_assert_eq!(Some(found), known, "{}", text);
                }
            }
        }
    }
}
