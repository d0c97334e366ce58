//! The report's tables: summary, alarms, gains, task families, settings.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::env::Task;
use crate::evaluation::gains::{panel_gains, EvaluationOutcomes};
use crate::evaluation::stats::{wilson, Interval, PairedGain};
use crate::report::data::{Evaluation, Run};
use crate::report::escape;
use crate::report::plot::number;
use crate::report::style::colour;

fn table(head: &[&str], rows: &str) -> String {
    let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!("<div class=\"scroll\"><table><tr>{head}</tr>\n{rows}</table></div>\n")
}

/// A run's name behind its colour.
fn name_cell(runs: &[Run], index: usize) -> String {
    format!(
        "<td><span class=\"dot\" style=\"background:{}\"></span>{}</td>",
        colour(index),
        escape(&runs[index].name)
    )
}

/// A mean and its interval.
fn interval(mean: f64, ends: Option<(f64, f64)>) -> String {
    let ends = ends.map_or(String::new(), |(low, high)| {
        format!(" <span class=\"small\">[{}, {}]</span>", number(round(low)), number(round(high)))
    });
    format!("<td class=\"n\">{}{ends}</td>", number(round(mean)))
}

/// Three digits after the point for shares, one for points: more than that an interval does not support.
fn round(x: f64) -> f64 {
    let scale = if x.abs() < 10.0 { 1000.0 } else { 10.0 };
    (x * scale).round() / scale
}

/// A row for each run and panel: first and last evaluation with their intervals.
pub(crate) fn summary(runs: &[Run]) -> String {
    let mut rows = String::new();
    for (i, run) in runs.iter().enumerate() {
        let head =
            format!("{}<td class=\"n\">{}</td>", name_cell(runs, i), run.phase("rl").count());
        for panel in run.panels() {
            let (first, last) = (run.evaluations(&panel).next(), run.evaluations(&panel).last());
            let cells = ["success", "score"].map(|key| {
                let cell = |e: &Option<Evaluation>| {
                    let mean = e.as_ref().and_then(|e| Some((e.number(key)?, e.interval(key))));
                    mean.map_or("<td></td>".to_owned(), |(mean, ends)| interval(mean, ends))
                };
                cell(&first) + &cell(&last)
            });
            let n = last.as_ref().and_then(|e| e.number("n")).map_or(String::new(), number);
            let _ = write!(rows, "<tr>{head}<td>{}</td><td class=\"n\">{n}</td>", escape(&panel));
            let _ = writeln!(rows, "{}</tr>", cells.concat());
        }
        if run.panels().is_empty() {
            let _ =
                writeln!(rows, "<tr>{head}<td>no evaluation</td>{}</tr>", "<td></td>".repeat(5));
        }
    }
    let head =
        ["run", "RL steps", "panel", "episodes", "success, first", "success, last", "score, first"];
    table(&[&head[..], &["score, last"]].concat(), &rows)
}

/// Every alarm of every run, in order of steps.
pub(crate) fn alarms(runs: &[Run]) -> String {
    let mut rows = String::new();
    for (i, run) in runs.iter().enumerate() {
        for (step, kind, message) in run.alarms() {
            let _ = writeln!(
                rows,
                "<tr>{}<td class=\"n\">{step}</td><td class=\"bad\">{}</td><td>{}</td></tr>",
                name_cell(runs, i),
                escape(&kind),
                escape(&message)
            );
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!("<h2>Alarms</h2>{}", table(&["run", "step", "alarm", "why"], &rows))
}

/// Paired gains from first to last evaluation.
pub(crate) fn gains(runs: &[Run]) -> String {
    let outcomes: Vec<_> =
        runs.iter().map(|run| (run.name.clone(), run.outcomes.clone())).collect();
    let mut rows = String::new();
    for gain in panel_gains(&outcomes) {
        let run = gain.run.as_ref().and_then(|name| runs.iter().position(|run| run.name == *name));
        let (class, name) = match run {
            Some(index) => ("", name_cell(runs, index)),
            None => (" class=\"pooled\"", "<td>all runs</td>".to_owned()),
        };
        let _ = write!(rows, "<tr{class}>{name}<td>{}</td><td class=\"n\">", escape(&gain.panel));
        let _ = write!(rows, "{} → {}</td>", gain.steps.0, gain.steps.1);
        let _ = write!(rows, "<td class=\"n\">{}</td>", gain.success.gain.n);
        let _ = writeln!(rows, "{}{}</tr>", paired(&gain.success), paired(&gain.score));
    }
    if rows.is_empty() {
        return rows;
    }
    let head =
        ["run", "panel", "steps", "tasks", "success", "gain in success", "score", "gain in score"];
    format!(
        "<h2>What was gained</h2>{}<p class=\"note\">First against last evaluation, paired by task; 95 % intervals \
         from a bootstrap over tasks.</p>\n",
        table(&head, &rows)
    )
}

fn paired(gain: &PairedGain) -> String {
    let Interval { mean, low, high, .. } = gain.gain;
    let class = match (low > 0.0, high < 0.0) {
        (true, _) => " good",
        (_, true) => " bad",
        _ => "",
    };
    let [before, after] = [gain.before, gain.after].map(|x| number(round(x)));
    let [mean, low, high] = [mean, low, high].map(|x| signed(round(x)));
    format!(
        "<td class=\"n\">{before} → {after}</td><td class=\"n{class}\">{mean} <span class=\"small\">[{low}, {high}]</span></td>"
    )
}

fn signed(x: f64) -> String {
    if x > 0.0 {
        format!("+{}", number(x))
    } else {
        number(x).replace('-', "−")
    }
}

/// Success of each task family in the first and the last evaluation of each panel.
pub(crate) fn families(runs: &[Run]) -> String {
    let mut rows: BTreeMap<(usize, String, usize), String> = BTreeMap::new();
    let mut panels: Vec<String> = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        for panel in run.panels() {
            let place = panels.iter().position(|p| *p == panel).unwrap_or_else(|| {
                panels.push(panel.clone());
                panels.len() - 1
            });
            let mut of_panel = run.outcomes.iter().filter(|e| e.panel == panel);
            let Some(first) = of_panel.next() else { continue };
            let last = of_panel.next_back().unwrap_or(first);
            let (first, last) = (by_family(first), by_family(last));
            for (family, now) in &last {
                let cell = |i: &Interval| interval(i.mean, Some((i.low, i.high)));
                let before = first.get(family).map_or("<td></td>".to_owned(), cell);
                let short = family.strip_prefix(&format!("{panel}/")).unwrap_or(family);
                let row = format!(
                    "<tr><td>{}</td><td>{}</td>{}<td class=\"n\">{}</td>{before}{}</tr>\n",
                    escape(&panel),
                    escape(short),
                    name_cell(runs, i),
                    now.n,
                    cell(now)
                );
                rows.insert((place, family.clone(), i), row);
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let rows: String = rows.into_values().collect();
    let head = ["panel", "task family", "run", "episodes", "success, first", "success, last"];
    let table = table(&head, &rows);
    format!("<h2>Task families</h2><details open><summary>success by family</summary>{table}</details>\n")
}

/// Success of each family over its episodes, with its Wilson interval.
fn by_family(evaluation: &EvaluationOutcomes) -> BTreeMap<String, Interval> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (Task { name, .. }, episodes) in &evaluation.tasks {
        let (solved, n) = counts.entry(name.clone()).or_default();
        *solved += episodes.values().filter(|e| e.success).count();
        *n += episodes.len();
    }
    counts.into_iter().map(|(name, (solved, n))| (name, wilson(solved, n))).collect()
}

/// The settings, one column a run, rows that differ marked.
pub(crate) fn configuration(runs: &[Run]) -> String {
    let configs: Vec<_> = runs.iter().map(|r| &r.settings).collect();
    let mut keys: Vec<&String> = configs.iter().flat_map(|c| c.keys()).collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for key in keys {
        let differs = configs.iter().any(|c| c.get(key) != configs[0].get(key));
        let class = if differs { " class=\"differs\"" } else { "" };
        let _ = write!(rows, "<tr{class}><td>{}</td>", escape(key));
        configs
            .iter()
            .for_each(|c| rows += &format!("<td>{}</td>", escape(c.get(key).map_or("", |v| v))));
        rows += "</tr>\n";
    }
    let names: Vec<String> = runs.iter().map(|r| escape(&r.name)).collect();
    let head: Vec<&str> =
        std::iter::once("setting").chain(names.iter().map(String::as_str)).collect();
    let open = if runs.len() > 1 { " open" } else { "" };
    let table = table(&head, &rows);
    format!(
        "<h2>Configuration</h2><details{open}><summary>all settings</summary>{table}</details>\n"
    )
}
