//! The HTML page of a report.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::files::atomic_write;
use crate::report::data::Run;
use crate::report::plot::Plot;
use crate::report::style::style_sheet;
use crate::report::text::escape;
use crate::report::{episodes, figures, tables};
use crate::Result;

/// Writes [`render_report`] as `report.html` into the first of the run folders; returns its path.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) without runs;
/// [`Error::File`](crate::Error::File) for a line that is not the expected JSON;
/// [`Error::Io`](crate::Error::Io).
pub fn write_report<P: AsRef<Path>>(runs: &[P]) -> Result<PathBuf> {
    let page = render_report(runs)?;
    let path = runs[0].as_ref().join("report.html");
    atomic_write(&path, page)?;
    Ok(path)
}

/// Renders one or more run folders as one HTML page for light and dark screens.
///
/// The page shows a summary, alarms, curves with intervals, paired gains, task families, entropy by
/// turn against its band, sample episodes as dialogues, and the settings. It needs `metrics.jsonl`
/// and uses `config.toml` and `episodes.jsonl` if they exist. Keys that a run does not have are
/// left out; other recorded keys are drawn at the end. Runs given together share their plots.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) without runs;
/// [`Error::File`](crate::Error::File) for a line that is not the expected JSON;
/// [`Error::Io`](crate::Error::Io).
pub fn render_report<P: AsRef<Path>>(runs: &[P]) -> Result<String> {
    Ok(render(&Run::read_all(runs)?))
}

fn render(runs: &[Run]) -> String {
    let names: Vec<String> = runs.iter().map(|r| escape(&r.name)).collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title>\
         <style>{1}</style></head><body><main>\n<h1>Training report</h1>\
         <p class=\"lead\">{0}</p>\n",
        names.join(" · "),
        style_sheet()
    );
    page += &tables::summary(runs);
    page += &tables::alarms(runs);
    let mut evaluated =
        figures::evaluation_plots(runs, "Success", "success", "share of episodes solved", 1.0);
    evaluated.extend(figures::evaluation_plots(runs, "Score", "score", "points", 0.0));
    page += &section("Success and score", &grid(&evaluated), "");
    page += &tables::gains(runs);
    page += &tables::families(runs);
    page += &section("Entropy", &grid(&figures::entropy_plots(runs)), &figures::entropy_maps(runs));
    page += &section("Optimisation", &grid(&figures::optimisation_plots(runs)), "");
    page += &episodes::html(runs);
    page += &tables::configuration(runs);
    let others = grid(&figures::other_plots(runs));
    if !others.is_empty() {
        let _ = write!(
            page,
            "<h2>Other values</h2><details><summary>all other recorded values</summary>\
             <div class=\"grid2\">{others}</div></details>"
        );
    }
    page + "</main></body></html>\n"
}

fn grid(plots: &[Plot]) -> String {
    plots.iter().filter(|p| !p.is_empty()).map(Plot::html).collect()
}

fn section(title: &str, figures: &str, more: &str) -> String {
    if figures.is_empty() && more.is_empty() {
        return String::new();
    }
    format!("<h2>{}</h2><div class=\"grid2\">{figures}{more}</div>\n", escape(title))
}
