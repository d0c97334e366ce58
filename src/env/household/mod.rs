//! Household games made here, without a download: ALFWorld's file format, verbs and kinds of tasks, with a domain, a
//! grammar, rooms and things of our own.
//!
//! [`Generator::game`] makes the game of a split and a number, the same one each time; there are as many as there
//! are numbers. Games can be won from their start, and are not won at it. What the splits have in common and what
//! not is exact:
//!
//! | | train and valid_seen | train and valid_unseen |
//! |---|---|---|
//! | layouts (a room and how many of each furniture it has) | the same | none in common |
//! | goals (a kind of thing, and the furniture or lamp that it is to be brought to) | the same | none in common |
//! | a layout together with a goal | none in common | none in common |
//! | kinds of things that games are about | the same | some are in no training game, not even lying about |
//!
//! Every layout number that leaves 4 when divided by 5 is held out for `valid_unseen`, and so is about a quarter of
//! the goals with familiar things, and every goal with one of the held-out things.

pub(crate) mod catalog;
pub(crate) mod games;
pub(crate) mod generator;
pub(crate) mod scenario;
pub(crate) mod world;
pub(crate) mod write;

pub use games::Household;
pub use generator::{Generator, GeneratorConfig, HouseholdGame};
