//! Generated household games in ALFWorld's file format, for training without a download.
//!
//! They have ALFWorld's verbs and six task types, with a domain, grammar, rooms and objects written
//! for this crate. [`Generator::game`] maps a split and a number to a game, always the same one, so
//! there are as many games as numbers. Every game can be won and is not won at its start. The
//! splits differ exactly as follows:
//!
//! | | train and valid_seen | train and valid_unseen |
//! |---|---|---|
//! | layouts (a room and the number of each of its furniture) | the same | disjoint |
//! | goals (a kind of object and its target furniture or lamp) | the same | disjoint |
//! | pairs of layout and goal | disjoint | disjoint |
//! | kinds of objects that tasks name | the same | some never occur in training games |
//!
//! Held out for `valid_unseen` are every layout whose number leaves 4 when divided by 5, about a
//! quarter of the goals with familiar objects, and every goal with one of the held-out objects.

pub(crate) mod catalog;
pub(crate) mod games;
pub(crate) mod generator;
pub(crate) mod scenario;
pub(crate) mod world;
pub(crate) mod write;

pub use games::Household;
pub use generator::{Generator, GeneratorConfig, HouseholdGame};
