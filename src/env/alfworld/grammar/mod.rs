//! The text grammar of a game: parsing, queries, compiled texts.

pub(crate) mod compile;
pub(crate) mod document;
pub(crate) mod query;
pub(crate) mod relations;
pub(crate) mod rules;
pub(crate) mod symbols;
pub(crate) mod text;
pub(crate) mod value;
