//! Task types and data splits.

use crate::env::alfworld::error::{AlfworldError, Result};

/// A task type of ALFWorld.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    /// Put an object somewhere.
    PickAndPlaceSimple,
    /// Look at an object under a lamp.
    LookAtObjInLight,
    /// Clean an object and put it somewhere.
    PickCleanThenPlaceInRecep,
    /// Heat an object and put it somewhere.
    PickHeatThenPlaceInRecep,
    /// Cool an object and put it somewhere.
    PickCoolThenPlaceInRecep,
    /// Put two objects somewhere.
    PickTwoObjAndPlace,
}

impl TaskType {
    /// All types, in the order of the official numbers 1 to 6.
    pub const ALL: [Self; 6] = [
        Self::PickAndPlaceSimple,
        Self::LookAtObjInLight,
        Self::PickCleanThenPlaceInRecep,
        Self::PickHeatThenPlaceInRecep,
        Self::PickCoolThenPlaceInRecep,
        Self::PickTwoObjAndPlace,
    ];

    /// The official name, such as `pick_and_place_simple`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PickAndPlaceSimple => "pick_and_place_simple",
            Self::LookAtObjInLight => "look_at_obj_in_light",
            Self::PickCleanThenPlaceInRecep => "pick_clean_then_place_in_recep",
            Self::PickHeatThenPlaceInRecep => "pick_heat_then_place_in_recep",
            Self::PickCoolThenPlaceInRecep => "pick_cool_then_place_in_recep",
            Self::PickTwoObjAndPlace => "pick_two_obj_and_place",
        }
    }

    /// Finds the type named by a folder of `path`: `pick_and_place_simple-Mug-None-Shelf-1/…`.
    pub fn of_path(path: &str) -> Option<Self> {
        let folders = path.split(['/', '\\']).rev();
        let kind = |folder: &str| {
            let name = folder.split_once('-').map_or(folder, |(name, _)| name);
            Self::ALL.into_iter().find(|kind| kind.name() == name)
        };
        folders.into_iter().find_map(kind)
    }
}

impl std::str::FromStr for TaskType {
    type Err = AlfworldError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| AlfworldError::UnknownTaskType {
            name: name.to_owned(),
            valid: Self::ALL.map(Self::name).join(", "),
        })
    }
}

impl std::fmt::Display for TaskType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A data split of ALFWorld.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training games.
    Train,
    /// Held-out tasks in the rooms of the training games.
    ValidSeen,
    /// Held-out tasks in rooms that no training game has.
    ValidUnseen,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::ValidSeen, Self::ValidUnseen];

    /// The name of the folder of the split.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::ValidSeen => "valid_seen",
            Self::ValidUnseen => "valid_unseen",
        }
    }
}

impl std::str::FromStr for Split {
    type Err = AlfworldError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|split| split.name() == name);
        known.ok_or_else(|| AlfworldError::UnknownSplit {
            name: name.to_owned(),
            valid: Self::ALL.map(Self::name).join(", "),
        })
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
