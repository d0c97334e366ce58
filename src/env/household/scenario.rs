//! Scenarios: a task in a layout, and its split.

use crate::env::alfworld::task::{Split, TaskType};
use crate::env::household::catalog::{
    furniture, has_word, Furniture, Kind, Room, FURNITURE, KINDS, LAMPS, ROOMS,
};

/// A room and the number of each of its furniture.
///
/// The counts are the digits of `number` in a mixed radix: one digit per kind of furniture, whose
/// base is the size of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Layout {
    pub(crate) room: usize,
    pub(crate) number: usize,
}

impl Layout {
    /// Iterates over all layouts of all rooms.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..ROOMS.len()).flat_map(|room| {
            let count =
                ROOMS[room].furniture.iter().map(|(_, least, most)| most - least + 1).product();
            (0..count).map(move |number| Self { room, number })
        })
    }

    pub(crate) fn room(self) -> &'static Room {
        &ROOMS[self.room]
    }

    /// Lists the furniture of each receptacle.
    pub(crate) fn receptacles(self) -> Vec<&'static Furniture> {
        let mut rest = self.number;
        let mut receptacles = Vec::new();
        for &(name, least, most) in self.room().furniture {
            let base = most - least + 1;
            receptacles
                .resize(receptacles.len() + least + rest % base, &FURNITURE[furniture(name)]);
            rest /= base;
        }
        receptacles
    }

    /// The set of furniture in the layout.
    fn furniture(self) -> Set {
        let receptacles = self.receptacles();
        set(|furniture| receptacles.iter().any(|place| place.name == furniture.name))
    }

    fn is_held_out(self) -> bool {
        self.number % 5 == 4
    }
}

/// A set of furniture: one bit per entry of [`FURNITURE`].
type Set = u32;

fn set(test: impl Fn(&Furniture) -> bool) -> Set {
    FURNITURE.iter().enumerate().map(|(i, furniture)| Set::from(test(furniture)) << i).sum()
}

/// A task in a layout: bring an object of a kind to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Scenario {
    pub(crate) task_type: TaskType,
    pub(crate) layout: Layout,
    /// The index of the object's kind in [`KINDS`].
    kind: usize,
    /// The index of the target in [`LAMPS`] or [`FURNITURE`].
    target: usize,
}

/// The target of a task.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Lamp(&'static Kind),
    Furniture(&'static Furniture),
}

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lamp(lamp) => lamp.name,
            Self::Furniture(furniture) => furniture.name,
        }
    }
}

/// The treatment of an object before it is brought to the target.
pub(crate) struct Treatment {
    /// The verb of the command.
    pub(crate) verb: &'static str,
    /// The trait of furniture that does it.
    pub(crate) tool: &'static str,
    /// The trait of objects that can have it.
    pub(crate) object: &'static str,
}

impl Scenario {
    /// Lists the solvable scenarios of a task type in `layouts` that are unsolved at the start.
    pub(crate) fn all(task_type: TaskType, layouts: &[Layout]) -> Vec<Self> {
        let layouts: Vec<(Layout, Set)> =
            layouts.iter().map(|&layout| (layout, layout.furniture())).collect();
        let targets =
            if task_type == TaskType::LookAtObjInLight { LAMPS.len() } else { FURNITURE.len() };
        let mut scenarios = Vec::new();
        for in_room in layouts.chunk_by(|(one, _), (other, _)| one.room == other.room) {
            let layout = in_room[0].0;
            for kind in (0..KINDS.len()).filter(|&kind| KINDS[kind].is_in(layout.room())) {
                for target in 0..targets {
                    let scenario = Self { task_type, layout, kind, target };
                    let Some(needs) = scenario.needs() else { continue };
                    let possible =
                        in_room.iter().filter(|(_, has)| needs.iter().all(|need| need & has != 0));
                    scenarios.extend(possible.map(|&(layout, _)| Self { layout, ..scenario }));
                }
            }
        }
        scenarios
    }

    pub(crate) fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    pub(crate) fn target(&self) -> Target {
        match self.task_type {
            TaskType::LookAtObjInLight => Target::Lamp(&LAMPS[self.target]),
            _ => Target::Furniture(&FURNITURE[self.target]),
        }
    }

    /// The number of objects to bring.
    pub(crate) fn count(&self) -> usize {
        if self.task_type == TaskType::PickTwoObjAndPlace {
            2
        } else {
            1
        }
    }

    pub(crate) fn treatment(&self) -> Option<Treatment> {
        let (verb, tool, object) = match self.task_type {
            TaskType::PickCleanThenPlaceInRecep => ("clean", "washes", "washable"),
            TaskType::PickHeatThenPlaceInRecep => ("heat", "heats", "heatable"),
            TaskType::PickCoolThenPlaceInRecep => ("cool", "cools", "coolable"),
            _ => return None,
        };
        Some(Treatment { verb, tool, object })
    }

    /// Tests if an object of `kind` may start in `place`.
    ///
    /// Objects of the kind that the task names never start at the target.
    pub(crate) fn may_start(&self, kind: &Kind, place: &Furniture) -> bool {
        kind.suits(place) && !(kind.name == self.kind().name && place.name == self.target().name())
    }

    /// Returns sets of furniture; a solvable layout has at least one member of each.
    ///
    /// Returns `None` if the task cannot be solved in any layout.
    fn needs(&self) -> Option<[Set; 3]> {
        let kind = self.kind();
        let target = match self.target() {
            Target::Lamp(lamp) if lamp.is_in(self.layout.room()) => set(|place| lamp.suits(place)),
            Target::Furniture(target) if kind.suits(target) => {
                set(|place| place.name == target.name)
            }
            _ => return None,
        };
        let tool = match self.treatment() {
            Some(treatment) if !has_word(kind.traits, treatment.object) => return None,
            Some(treatment) => set(|place| has_word(place.traits, treatment.tool)),
            None => Set::MAX,
        };
        Some([target, tool, set(|place| self.may_start(kind, place))])
    }

    /// Tests if only `valid_unseen` has games with this kind of object and target.
    fn is_goal_held_out(&self) -> bool {
        self.kind().held_out || (self.kind + self.target) % 4 == 1
    }

    /// The split of the scenario; `None` if only its layout or only its goal is held out.
    pub(crate) fn split(&self) -> Option<Split> {
        match (self.layout.is_held_out(), self.is_goal_held_out()) {
            (true, true) => Some(Split::ValidUnseen),
            (false, false) if (self.layout.number + self.kind + self.target).is_multiple_of(6) => {
                Some(Split::ValidSeen)
            }
            (false, false) => Some(Split::Train),
            _ => None,
        }
    }
}
