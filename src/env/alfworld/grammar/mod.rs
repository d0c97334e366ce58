//! The text grammar of a game: parsing, and compiling it against a domain.

pub(crate) mod chars;
pub(crate) mod compile;
pub(crate) mod document;
pub(crate) mod query;
pub(crate) mod rules;
pub(crate) mod symbols;
pub(crate) mod value;

#[cfg(test)]
mod parser_tests;
