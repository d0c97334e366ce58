//! The initial state of a household, and a walkthrough that wins from there.

use rand_chacha::rand_core::RngCore;
use rand_chacha::ChaCha8Rng;

use crate::env::alfworld::task::Split;
use crate::env::household::catalog::{has_word, Furniture, Kind, KINDS, LAMPS};
use crate::env::household::scenario::{Scenario, Target};

/// A household at the start of a game.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) receptacles: Vec<Labelled<Furniture>>,
    pub(crate) items: Vec<Labelled<Kind>>,
    /// The receptacle of each item.
    pub(crate) places: Vec<usize>,
}

/// An object or receptacle with its name in the problem and the name that players see.
pub(crate) struct Labelled<T: 'static> {
    pub(crate) what: &'static T,
    pub(crate) id: String,
    pub(crate) name: String,
}

impl World {
    /// Draws a household for `scenario` with `count` items, or with more if the task needs more.
    pub(crate) fn draw(
        scenario: Scenario,
        split: Split,
        count: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let receptacles = scenario.layout.receptacles();
        let mut kinds: Vec<&'static Kind> = vec![scenario.kind(); scenario.count()];
        if let Target::Lamp(lamp) = scenario.target() {
            kinds.push(lamp);
        }
        let others = others(&scenario, split);
        while kinds.len() < count && !others.is_empty() {
            kinds.push(others[below(rng, others.len())]);
        }
        shuffle(&mut kinds, rng);
        let place = |kind: &&Kind| {
            let suits = |&i: &usize| scenario.may_start(kind, receptacles[i]);
            let places: Vec<usize> = (0..receptacles.len()).filter(suits).collect();
            places[below(rng, places.len())]
        };
        let places = kinds.iter().map(place).collect();
        Self {
            scenario,
            receptacles: label(receptacles, |f| f.name),
            items: label(kinds, |k| k.name),
            places,
        }
    }

    /// Lists actions that win: they bring each object of the task to the target.
    pub(crate) fn walkthrough(&self) -> Vec<String> {
        let kind = self.scenario.kind().name;
        let items = (0..self.items.len()).filter(|&i| self.items[i].what.name == kind);
        let mut tour = Tour { world: self, open: Vec::new(), actions: Vec::new() };
        for item in items.take(self.scenario.count()) {
            self.bring(item, &mut tour);
        }
        tour.actions
    }

    fn bring(&self, item: usize, tour: &mut Tour) {
        let place = self.places[item];
        let item = &self.items[item].name;
        tour.visit(place, true);
        tour.actions.push(format!("take {item} from {}", self.receptacles[place].name));
        if let Some(treatment) = self.scenario.treatment() {
            let appliance = self.receptacle(|place| has_word(place.traits, treatment.tool));
            tour.visit(appliance, false);
            tour.actions.push(format!(
                "{} {item} with {}",
                treatment.verb, self.receptacles[appliance].name
            ));
        }
        match self.scenario.target() {
            Target::Lamp(lamp) => {
                let lamp = self
                    .items
                    .iter()
                    .position(|item| item.what.name == lamp.name)
                    .unwrap_or_default();
                tour.visit(self.places[lamp], false);
                tour.actions.push(format!("use {}", self.items[lamp].name));
            }
            Target::Furniture(target) => {
                let target = self.receptacle(|place| place.name == target.name);
                tour.visit(target, true);
                tour.actions.push(format!("move {item} to {}", self.receptacles[target].name));
            }
        }
    }

    /// Finds the first receptacle that fits; every scenario has one.
    fn receptacle(&self, wanted: impl Fn(&Furniture) -> bool) -> usize {
        self.receptacles.iter().position(|place| wanted(place.what)).unwrap_or_default()
    }
}

/// A list of actions under construction.
struct Tour<'w> {
    world: &'w World,
    open: Vec<usize>,
    actions: Vec<String>,
}

impl Tour<'_> {
    /// Goes to a receptacle unless the player is there, and opens it if `open` is set.
    fn visit(&mut self, receptacle: usize, open: bool) {
        let Labelled { what, name, .. } = &self.world.receptacles[receptacle];
        let go = format!("go to {name}");
        let here = self.actions.iter().rfind(|action| action.starts_with("go to ")) == Some(&go);
        if !here {
            self.actions.push(go);
        }
        if open && has_word(what.traits, "hinged") && !self.open.contains(&receptacle) {
            self.open.push(receptacle);
            self.actions.push(format!("open {name}"));
        }
    }
}

/// Lists the kinds of objects that may occur in addition to those of the task.
fn others(scenario: &Scenario, split: Split) -> Vec<&'static Kind> {
    let room = scenario.layout.room();
    let receptacles = scenario.layout.receptacles();
    let possible = |kind: &&Kind| {
        let known = !kind.held_out || split == Split::ValidUnseen;
        known && kind.is_in(room) && receptacles.iter().any(|place| scenario.may_start(kind, place))
    };
    KINDS.iter().chain(&LAMPS).filter(possible).collect()
}

/// Numbers the items of each name from 1.
fn label<T>(items: Vec<&'static T>, name: impl Fn(&'static T) -> &'static str) -> Vec<Labelled<T>> {
    let count = |items: &[&'static T], of| items.iter().filter(|item| name(item) == of).count();
    let labelled = |(i, &what): (usize, &&'static T)| {
        let kind = name(what);
        let number = 1 + count(&items[..i], kind);
        // The engine gives the number 1 to the last name in order.
        let id = format!("{kind}_bar_{:02}", count(&items, kind) - number);
        Labelled { what, id, name: format!("{kind} {number}") }
    };
    items.iter().enumerate().map(labelled).collect()
}

/// Draws a number below `n`.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}
