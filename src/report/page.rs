//! The page around figures, tables and episodes.

use std::fmt::Write;

use crate::report::data::Run;
use crate::report::plot::Plot;
use crate::report::style::STYLE;
use crate::report::{episodes, escape, figures, tables};

/// The whole page.
pub(crate) fn render(runs: &[Run]) -> String {
    let names: Vec<String> = runs.iter().map(|r| escape(&r.name)).collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title>\
         <style>{STYLE}</style></head><body><main>\n<h1>Training report</h1><p class=\"lead\">{0}</p>\n",
        names.join(" · ")
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
            "<h2>Everything else</h2><details><summary>all other recorded values</summary>"
        );
        let _ = write!(page, "<div class=\"grid2\">{others}</div></details>");
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
