//! A run, or several side by side, as one self-contained HTML page: no script, no external file.

pub(crate) mod data;
pub(crate) mod episodes;
pub(crate) mod figures;
pub(crate) mod heat;
pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod style;
pub(crate) mod tables;

use std::path::{Path, PathBuf};

use crate::report::data::Run;

use crate::files::atomic_write;
use crate::{Error, Result};

/// Writes `report.html` into the first of the given run folders and returns its path: [`render_report`] as a file.
///
/// # Errors
/// As [`render_report`].
pub fn write_report<P: AsRef<Path>>(runs: &[P]) -> Result<PathBuf> {
    let page = render_report(runs)?;
    let path = runs[0].as_ref().join("report.html");
    atomic_write(&path, page)?;
    Ok(path)
}

/// One HTML page about the given run folders, on a light or a dark screen: summary, alarms, curves with intervals, paired
/// gains, task families, entropy by turn against its band, sample episodes as dialogues, settings.
///
/// It reads `metrics.jsonl` and, where they exist, `config.toml` and `episodes.jsonl`; keys a run does not have are
/// left out, keys it has beyond the known ones are drawn at the end. Runs given together share their plots.
///
/// # Errors
/// [`Error::Setting`] without runs, [`Error::File`] naming a line that is not JSON, [`Error::Io`].
pub fn render_report<P: AsRef<Path>>(runs: &[P]) -> Result<String> {
    if runs.is_empty() {
        return Err(Error::setting("runs", "none", "name at least one run folder"));
    }
    let runs: Vec<Run> = runs.iter().map(|dir| Run::read(dir.as_ref())).collect::<Result<_>>()?;
    Ok(page::render(&runs))
}

/// Text as HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
