//! Python's values, operators, methods and jinja2's filters and tests, on minijinja's values.
//!
//! The filters whose names start with `__` are the operators of rewritten templates (see
//! [`source`](super::source)). An error of Python is an error here, with words of its own; what
//! Python computes and this module does not (integers of more than 127 bits, complex numbers,
//! bytes) is an error too.

pub(crate) mod args;
pub(crate) mod braces;
pub(crate) mod cases;
pub(crate) mod compare;
pub(crate) mod dicts;
pub(crate) mod filters;
pub(crate) mod floats;
pub(crate) mod globals;
pub(crate) mod items;
pub(crate) mod methods;
pub(crate) mod numbers;
pub(crate) mod operators;
pub(crate) mod percent;
pub(crate) mod search;
pub(crate) mod sequences;
pub(crate) mod strings;
pub(crate) mod tests;
pub(crate) mod text;
pub(crate) mod translate;
pub(crate) mod types;
pub(crate) mod unicode;
