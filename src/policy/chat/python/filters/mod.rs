//! jinja2's filters.

pub(crate) mod choice;
pub(crate) mod html;
pub(crate) mod lists;
pub(crate) mod numeric;
pub(crate) mod registry;
pub(crate) mod texts;
pub(crate) mod wrap;

pub(crate) use registry::{call, knows};
