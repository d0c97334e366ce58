//! PDDL domains and problems: lexer, types, conditions, objects.

pub(crate) mod condition;
pub(crate) mod domain;
pub(crate) mod objects;
pub(crate) mod problem;
pub(crate) mod sexpr;
pub(crate) mod types;

#[cfg(test)]
mod parser_tests;
