//! What a game can be about, and which split has it.

use crate::env::alfworld::task::{Split, TaskType};
use crate::env::household::catalog::{
    furniture, has_word, Furniture, Kind, Room, FURNITURE, KINDS, LAMPS, ROOMS,
};

/// A room and how many of each furniture it has: the number's digits, each in the base of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Layout {
    pub(crate) room: usize,
    pub(crate) number: usize,
}

impl Layout {
    /// Every layout of every room.
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

    /// The furniture of each receptacle.
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

    /// The furniture that there is.
    fn furniture(self) -> Set {
        let receptacles = self.receptacles();
        set(|furniture| receptacles.iter().any(|place| place.name == furniture.name))
    }

    fn is_held_out(self) -> bool {
        self.number % 5 == 4
    }
}

/// A set of furniture: a bit for each of [`FURNITURE`].
type Set = u32;

fn set(test: impl Fn(&Furniture) -> bool) -> Set {
    FURNITURE.iter().enumerate().map(|(i, furniture)| Set::from(test(furniture)) << i).sum()
}

/// A task in a layout: bring a thing of a kind to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Scenario {
    pub(crate) task_type: TaskType,
    pub(crate) layout: Layout,
    /// The thing's number in [`KINDS`].
    kind: usize,
    /// The target's number in [`LAMPS`] or [`FURNITURE`].
    target: usize,
}

/// What a thing is to be brought to.
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

/// What a thing is to undergo first.
pub(crate) struct Treatment {
    /// What a player types.
    pub(crate) verb: &'static str,
    /// The trait of the furniture that does it.
    pub(crate) tool: &'static str,
    /// The trait of the things that can undergo it.
    pub(crate) thing: &'static str,
}

impl Scenario {
    /// Every task of a kind in one of `layouts` that can be done there and is not done before it begins.
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

    /// How many things are to be brought.
    pub(crate) fn count(&self) -> usize {
        if self.task_type == TaskType::PickTwoObjAndPlace {
            2
        } else {
            1
        }
    }

    pub(crate) fn treatment(&self) -> Option<Treatment> {
        let (verb, tool, thing) = match self.task_type {
            TaskType::PickCleanThenPlaceInRecep => ("clean", "washes", "washable"),
            TaskType::PickHeatThenPlaceInRecep => ("heat", "heats", "heatable"),
            TaskType::PickCoolThenPlaceInRecep => ("cool", "cools", "coolable"),
            _ => return None,
        };
        Some(Treatment { verb, tool, thing })
    }

    /// Whether a thing of `kind` may be in `place` at the start: what is to be brought somewhere is not there.
    pub(crate) fn may_start(&self, kind: &Kind, place: &Furniture) -> bool {
        kind.suits(place) && !(kind.name == self.kind().name && place.name == self.target().name())
    }

    /// Sets of furniture from each of which the layout must have some, if the task can be done at all.
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
            Some(treatment) if !has_word(kind.traits, treatment.thing) => return None,
            Some(treatment) => set(|place| has_word(place.traits, treatment.tool)),
            None => Set::MAX,
        };
        Some([target, tool, set(|place| self.may_start(kind, place))])
    }

    /// Whether only `valid_unseen` has games with this thing and this target.
    fn is_goal_held_out(&self) -> bool {
        self.kind().held_out || (self.kind + self.target) % 4 == 1
    }

    /// The split that this belongs to; none if only the layout or only the goal is held out.
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
