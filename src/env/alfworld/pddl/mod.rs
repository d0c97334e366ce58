//! PDDL domains and problems: parsing, and planning how to ground actions.

pub(crate) mod atom;
pub(crate) mod condition;
pub(crate) mod domain;
pub(crate) mod effect;
pub(crate) mod join;
pub(crate) mod objects;
pub(crate) mod predicates;
pub(crate) mod problem;
pub(crate) mod sexpr;
pub(crate) mod types;
