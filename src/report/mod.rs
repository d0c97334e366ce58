//! Reports of one or more runs: a self-contained HTML page and an SVG picture of its main curves.

pub(crate) mod data;
pub(crate) mod episodes;
pub(crate) mod figures;
pub(crate) mod heat;
pub(crate) mod page;
pub(crate) mod picture;
pub(crate) mod plot;
pub(crate) mod style;
pub(crate) mod tables;
pub(crate) mod text;

pub use page::{render_report, write_report};
pub use picture::render_svg;

#[cfg(test)]
mod tests;
