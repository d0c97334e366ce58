//! The data folder and its game files.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::env::alfworld::engine::fields::GAME_FILE;
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::task::{Split, TaskType};

/// The folder of the games in the data folder.
const VERSION: &str = "json_2.1.1";
/// ALFWorld skips folders whose name contains one of these.
const LEFT_OUT: [&str; 2] = ["movable", "Sliced"];
/// The largest depth below the folder of a split at which games are searched.
const MAX_DEPTH: usize = 8;
/// The text in the file of a solvable game, without white space.
const SOLVABLE: &[u8] = b"\"solvable\":true";
/// The number of bytes at the end of the file that are searched for [`SOLVABLE`].
const TAIL: u64 = 4096;

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
/// `json_2.1.1` in it, or any folder with one folder per split. As in ALFWorld, a game is playable
/// if its file says `"solvable": true` and no folder of its path is named `*movable*` or
/// `*Sliced*`.
///
/// # Errors
/// Returns [`AlfworldError::Io`] if a folder or file cannot be read, and
/// [`AlfworldError::NoGames`] if there is no such game.
pub fn game_files(folder: &Path, split: Split, types: &[TaskType]) -> Result<Vec<GameFile>> {
    let inside = folder.join(VERSION);
    let root = if inside.is_dir() { &inside } else { folder };
    let mut files = Vec::new();
    collect(&root.join(split.name()), split.name(), MAX_DEPTH, types, &mut files)?;
    files.sort_unstable();
    if !files.is_empty() {
        return Ok(files);
    }
    let names: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
    let types = if names.is_empty() { "any type".to_owned() } else { names.join(", ") };
    Err(AlfworldError::NoGames { path: root.to_owned(), wanted: format!("split {split}, {types}") })
}

fn collect(
    folder: &Path,
    name: &str,
    depth: usize,
    types: &[TaskType],
    files: &mut Vec<GameFile>,
) -> Result<()> {
    let io = |source| AlfworldError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let part = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let name = format!("{name}/{part}");
        if part == GAME_FILE {
            let task_type =
                TaskType::of_path(&name).filter(|kind| types.is_empty() || types.contains(kind));
            if let Some(task_type) = task_type {
                if is_solvable(&path)? {
                    files.push(GameFile { name, path, task_type });
                }
            }
        } else if depth > 0 && !LEFT_OUT.iter().any(|word| part.contains(word)) && path.is_dir() {
            collect(&path, &name, depth - 1, types, files)?;
        }
    }
    Ok(())
}

/// Tests if the file of a game says that it can be won.
fn is_solvable(path: &Path) -> Result<bool> {
    let io = |source| AlfworldError::Io { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).map_err(io)?;
    let mut tail = Vec::with_capacity(TAIL as usize);
    file.take(TAIL).read_to_end(&mut tail).map_err(io)?;
    tail.retain(|byte| !byte.is_ascii_whitespace());
    Ok(tail.windows(SOLVABLE.len()).any(|bytes| bytes == SOLVABLE))
}
