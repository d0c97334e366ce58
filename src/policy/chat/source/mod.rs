//! A template's source, rewritten so that minijinja evaluates it as Python's jinja2 does.
//!
//! minijinja has Jinja's syntax, but its operators, attributes and string literals follow rules of
//! their own: `'%s' % x` is an error, `1 < 'a'` is not, and `"\/"` loses its backslash. Every
//! expression is therefore parsed with jinja2's grammar and written again with literals that
//! minijinja reads as Python would, and with filters of [`python`](super::python) instead of
//! operators. Text, comments, raw blocks and the marks of whitespace control stay as they are, and
//! so do line numbers. A construct that cannot be rendered as in Python is refused here, with its
//! line.

pub(crate) mod call;
pub(crate) mod cursor;
pub(crate) mod expression;
pub(crate) mod lexer;
pub(crate) mod literal;
pub(crate) mod piece;
pub(crate) mod rewrite;
pub(crate) mod scan;
pub(crate) mod statement;

pub(crate) use rewrite::{python_source, Name};
