//! Where games are: the data folder, and sorted lists of the game files in it.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::env::alfworld::engine::fields::GAME_FILE;
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::task::{Split, TaskType};

/// The folder of ALFWorld's games in the data folder.
const VERSION: &str = "json_2.1.1";
/// Folders whose names have one of these hold games that ALFWorld leaves out.
const LEFT_OUT: [&str; 2] = ["movable", "Sliced"];
/// How deep below a split's folder games are looked for.
const MAX_DEPTH: usize = 8;
/// How a playable game's file says that it is one, white space left out.
const SOLVABLE: &[u8] = b"\"solvable\":true";
/// Where it says so: this many bytes before the end, after the long texts.
const TAIL: u64 = 4096;

/// A game in the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GameFile {
    /// The path from the folder of the splits, with `/` on every machine: `train/…/game.tw-pddl`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The kind of task.
    pub task_type: TaskType,
}

/// The data folder: `$ALFWORLD_DATA`, or `.cache/alfworld` in the home folder, as for ALFWorld itself.
///
/// # Errors
/// [`AlfworldError::NoDataFolder`] if there is neither.
pub fn data_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("ALFWORLD_DATA").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.map(|home| home.join(".cache/alfworld")).ok_or(AlfworldError::NoDataFolder)
}

/// The playable games of a split, of the given kinds (of every kind if none is given), sorted by name.
///
/// `folder` is the data folder, the `json_2.1.1` in it, or any folder with one folder per split. As for ALFWorld, a game
/// is playable if its file says that it is solvable and it is not among the movable and sliced ones.
///
/// # Errors
/// A folder that cannot be read, and one without such games.
pub fn game_files(folder: &Path, split: Split, types: &[TaskType]) -> Result<Vec<GameFile>> {
    let inside = folder.join(VERSION);
    let root = if inside.is_dir() { &inside } else { folder };
    let mut files = Vec::new();
    collect(&root.join(split.name()), split.name(), MAX_DEPTH, types, &mut files)?;
    files.sort_unstable();
    if !files.is_empty() {
        Ok(files)
    } else {
        let types: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
        let wanted = format!(
            "split {split}, {}",
            if types.is_empty() { "any type".into() } else { types.join(", ") }
        );
        Err(AlfworldError::NoGames { path: root.to_owned(), wanted })
    }
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
        let (path, name) = (entry.path(), format!("{name}/{part}"));
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

/// Whether a game's file says that it can be won.
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
