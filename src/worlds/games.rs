//! Where the games of a run come from.
//!
//! A run is resumed from another folder, and after its games have moved. So the path is kept
//! absolute, a resumed run may name another one, and the names of the games must be those of the
//! run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::env::alfworld::environment::{DataFolder, Games};
use crate::env::household::games::Household;
use crate::env::household::generator::GeneratorConfig;
use crate::{Error, Result};

/// Where games come from, by `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum GameSource {
    /// Household games made by this crate.
    Household(GeneratorConfig),
    /// ALFWorld's own games.
    Folder {
        /// The data folder that ALFWorld's download makes; kept as an absolute path.
        #[serde(serialize_with = "write_path", deserialize_with = "read_absolute")]
        path: PathBuf,
        /// The number of the games and a checksum of their names, which a new run records. A
        /// resumed run must find the same games.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        names: Option<String>,
    },
}

/// The setting that says where the games are.
const GAMES: &str = "environment.games.path";

fn write_path<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => Err(serde::ser::Error::custom(format!(
            "ALFWORLD_DATA or {GAMES}: {} is not UTF-8; name a link to it",
            path.display()
        ))),
    }
}

fn read_absolute<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    absolute(&path).map_err(serde::de::Error::custom)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::setting(GAMES, path.display(), e.to_string()))
}

/// The folder that the variable `ALFWORLD_DATA` names, if it is set.
fn named_folder() -> Option<PathBuf> {
    let data = std::env::var_os("ALFWORLD_DATA").filter(|folder| !folder.is_empty())?;
    let path = PathBuf::from(data);
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// Opens a data folder; `expected` are the games that it must hold.
fn open_folder(path: &Path, expected: Option<&str>) -> Result<DataFolder> {
    let failed = |reason: String| Error::setting(GAMES, path.display(), reason);
    let folder = DataFolder::open(path).map_err(|error| {
        failed(format!(
            "{error}; if the games are elsewhere, name their folder by ALFWORLD_DATA or --set \
             {GAMES}=FOLDER"
        ))
    })?;
    let found = names_of(&folder);
    match expected {
        Some(expected) if expected != found => Err(failed(format!(
            "holds other games than the run began with: {expected}, now {found}"
        ))),
        _ => Ok(folder),
    }
}

/// The number of games and the CRC-32 of their names, one per line.
fn names_of(folder: &DataFolder) -> String {
    let mut hasher = crc32fast::Hasher::new();
    let mut count = 0;
    for name in folder.names() {
        hasher.update(name.as_bytes());
        hasher.update(b"\n");
        count += 1;
    }
    format!("{count} games, CRC-32 {:08x}", hasher.finalize())
}

impl GameSource {
    /// ALFWorld's games in the folder that the variable `ALFWORLD_DATA` names, if it is set.
    pub(crate) fn named() -> Option<Self> {
        named_folder().map(|path| Self::Folder { path, names: None })
    }

    /// Opens the games.
    pub(crate) fn open(&self) -> Result<Arc<dyn Games>> {
        Ok(match self {
            Self::Folder { path, names } => Arc::new(open_folder(path, names.as_deref())?),
            Self::Household(config) => Arc::new(Household::new(config.clone())?),
        })
    }

    /// Makes the path of the games absolute and records which games are there.
    pub(crate) fn complete(&mut self) -> Result<()> {
        if let Self::Folder { path, names } = self {
            *path = absolute(path)?;
            *names = Some(names_of(&open_folder(path, names.as_deref())?));
        }
        Ok(())
    }

    /// Changes the folder of a resumed run to the one in `sets`, or to that of `ALFWORLD_DATA` if
    /// the run's folder does not hold its games any more.
    pub(crate) fn relocate(&mut self, sets: &[String]) -> Result<()> {
        let given: Vec<PathBuf> = sets.iter().map(|set| moved_to(set)).collect::<Result<_>>()?;
        let given = given.into_iter().next_back();
        match self {
            Self::Folder { path, names } => {
                let expected = names.as_deref();
                let is_lost = || open_folder(path, expected).is_err();
                let named = || named_folder().filter(|named| named != path && is_lost());
                if let Some(now) = given.or_else(named) {
                    open_folder(&now, expected)?;
                    *path = now;
                }
                Ok(())
            }
            Self::Household(_) => match given {
                None => Ok(()),
                Some(given) => {
                    let reason = "this run plays household games, which need no folder";
                    Err(Error::setting(GAMES, given.display(), reason))
                }
            },
        }
    }
}

/// The folder in `environment.games.path=FOLDER`.
fn moved_to(set: &str) -> Result<PathBuf> {
    match set.split_once('=') {
        Some((key, value)) if key.trim() == GAMES => {
            absolute(Path::new(value.trim().trim_matches(['"', '\''])))
        }
        _ => {
            let reason = format!("a resumed run keeps its settings, except {GAMES}");
            Err(Error::setting("--set", set, reason))
        }
    }
}

impl std::fmt::Display for GameSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Household(_) => f.write_str("household games made by this crate"),
            Self::Folder { path, .. } => write!(f, "ALFWorld's games in {}", path.display()),
        }
    }
}

impl Default for GameSource {
    fn default() -> Self {
        Self::Household(GeneratorConfig {
            receptacles: (4, 10),
            items: (8, 10),
            ..GeneratorConfig::default()
        })
    }
}
