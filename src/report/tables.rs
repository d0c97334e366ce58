//! The report's tables: summary, alarms, gains, task families, settings.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::env::Task;
use crate::evaluation::gains::task_set_gains;
use crate::evaluation::outcomes::EvaluationOutcomes;
use crate::evaluation::stats::{wilson, Interval, PairedGain};
use crate::report::data::{Evaluation, Run};
use crate::report::style::colour;
use crate::report::text::{escape, number};

fn table(head: &[&str], rows: &str) -> String {
    let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!("<div class=\"scroll\"><table><tr>{head}</tr>\n{rows}</table></div>\n")
}

/// A cell with a run's colour and name.
fn name_cell(runs: &[Run], index: usize) -> String {
    format!(
        "<td><span class=\"dot\" style=\"background:{}\"></span>{}</td>",
        colour(index),
        escape(&runs[index].name)
    )
}

/// A cell with a mean and its interval.
fn interval(mean: f64, ends: Option<(f64, f64)>) -> String {
    let ends = ends.map_or(String::new(), |(low, high)| {
        format!(" <span class=\"small\">[{}, {}]</span>", number(round(low)), number(round(high)))
    });
    format!("<td class=\"n\">{}{ends}</td>", number(round(mean)))
}

/// Rounds to three decimals for shares and to one for scores; intervals do not support more digits.
fn round(x: f64) -> f64 {
    let scale = if x.abs() < 10.0 { 1000.0 } else { 10.0 };
    (x * scale).round() / scale
}

/// The first and last evaluation with intervals, one row per run and evaluation set.
pub(crate) fn summary(runs: &[Run]) -> String {
    let mut rows = String::new();
    for (i, run) in runs.iter().enumerate() {
        let head =
            format!("{}<td class=\"n\">{}</td>", name_cell(runs, i), run.phase("rl").count());
        for set in run.evaluation_sets() {
            let first = run.evaluations(&set).next();
            let last = run.evaluations(&set).last();
            let cells = ["success", "score"].map(|key| {
                let cell = |e: &Option<Evaluation>| {
                    let mean = e.as_ref().and_then(|e| Some((e.number(key)?, e.interval(key))));
                    mean.map_or("<td></td>".to_owned(), |(mean, ends)| interval(mean, ends))
                };
                cell(&first) + &cell(&last)
            });
            let n = last.as_ref().and_then(|e| e.number("n")).map_or(String::new(), number);
            let _ = write!(rows, "<tr>{head}<td>{}</td><td class=\"n\">{n}</td>", escape(&set));
            let _ = writeln!(rows, "{}</tr>", cells.concat());
        }
        if run.evaluation_sets().is_empty() {
            let _ =
                writeln!(rows, "<tr>{head}<td>no evaluation</td>{}</tr>", "<td></td>".repeat(5));
        }
    }
    let head = [
        "run",
        "RL steps",
        "evaluation set",
        "episodes",
        "success, first",
        "success, last",
        "score, first",
        "score, last",
    ];
    table(&head, &rows)
}

/// The alarms of each run, in order of steps.
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
    format!("<h2>Alarms</h2>{}", table(&["run", "step", "alarm", "message"], &rows))
}

/// Paired gains from the first to the last evaluation.
pub(crate) fn gains(runs: &[Run]) -> String {
    let outcomes: Vec<_> =
        runs.iter().map(|run| (run.name.clone(), run.outcomes.clone())).collect();
    let mut rows = String::new();
    for gain in task_set_gains(&outcomes) {
        let run = gain.run.as_ref().and_then(|name| runs.iter().position(|run| run.name == *name));
        let (class, name) = match run {
            Some(index) => ("", name_cell(runs, index)),
            None => (" class=\"pooled\"", "<td>all runs</td>".to_owned()),
        };
        let set = escape(&gain.task_set);
        let _ = write!(rows, "<tr{class}>{name}<td>{set}</td><td class=\"n\">");
        let _ = write!(rows, "{} → {}</td>", gain.steps.0, gain.steps.1);
        let _ = write!(rows, "<td class=\"n\">{}</td>", gain.success.gain.n);
        let _ = writeln!(rows, "{}{}</tr>", paired(&gain.success), paired(&gain.score));
    }
    if rows.is_empty() {
        return rows;
    }
    let head = [
        "run",
        "evaluation set",
        "steps",
        "tasks",
        "success",
        "gain in success",
        "score",
        "gain in score",
    ];
    format!(
        "<h2>Gains</h2>{}<p class=\"note\">Last compared with first evaluation, paired by task; \
         95 % intervals from a bootstrap over tasks.</p>\n",
        table(&head, &rows)
    )
}

fn paired(gain: &PairedGain) -> String {
    let Interval { mean, low, high, .. } = gain.gain;
    let class = if low > 0.0 {
        " good"
    } else if high < 0.0 {
        " bad"
    } else {
        ""
    };
    let [before, after] = [gain.before, gain.after].map(|x| number(round(x)));
    let [mean, low, high] = [mean, low, high].map(|x| signed(round(x)));
    format!(
        "<td class=\"n\">{before} → {after}</td><td class=\"n{class}\">{mean} \
         <span class=\"small\">[{low}, {high}]</span></td>"
    )
}

fn signed(x: f64) -> String {
    if x > 0.0 {
        format!("+{}", number(x))
    } else {
        number(x).replace('-', "−")
    }
}

/// Success by task family in the first and the last evaluation on each evaluation set.
pub(crate) fn families(runs: &[Run]) -> String {
    let mut rows: BTreeMap<(usize, String, usize), String> = BTreeMap::new();
    let mut sets: Vec<String> = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        for set in run.evaluation_sets() {
            let place = sets.iter().position(|known| *known == set).unwrap_or_else(|| {
                sets.push(set.clone());
                sets.len() - 1
            });
            for (family, cells) in family_rows(run, &set) {
                let short = family.strip_prefix(&format!("{set}/")).unwrap_or(&family);
                let row = format!(
                    "<tr><td>{}</td><td>{}</td>{}{cells}</tr>\n",
                    escape(&set),
                    escape(short),
                    name_cell(runs, i)
                );
                rows.insert((place, family, i), row);
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let rows: String = rows.into_values().collect();
    let head =
        ["evaluation set", "task family", "run", "episodes", "success, first", "success, last"];
    let table = table(&head, &rows);
    format!(
        "<h2>Task families</h2><details open><summary>success by family</summary>{table}\
         </details>\n"
    )
}

/// Each family with its cells: number of episodes, success in the first and in the last evaluation.
fn family_rows(run: &Run, set: &str) -> Vec<(String, String)> {
    let mut of_set = run.outcomes.iter().filter(|e| e.task_set == set);
    let Some(first) = of_set.next() else { return Vec::new() };
    let last = by_family(of_set.next_back().unwrap_or(first));
    let first = by_family(first);
    let cell = |i: &Interval| interval(i.mean, Some((i.low, i.high)));
    let mut rows = Vec::new();
    for (family, now) in last {
        let before = first.get(&family).map_or("<td></td>".to_owned(), cell);
        let cells = format!("<td class=\"n\">{}</td>{before}{}", now.n, cell(&now));
        rows.push((family, cells));
    }
    rows
}

/// Success of each family with its Wilson interval.
fn by_family(evaluation: &EvaluationOutcomes) -> BTreeMap<String, Interval> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (Task { name, .. }, episodes) in &evaluation.tasks {
        let (solved, n) = counts.entry(name.clone()).or_default();
        *solved += episodes.values().filter(|e| e.success).count();
        *n += episodes.len();
    }
    counts.into_iter().map(|(name, (solved, n))| (name, wilson(solved, n))).collect()
}

/// The settings, one column per run, with marked rows where runs differ.
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
        for config in &configs {
            let _ = write!(rows, "<td>{}</td>", escape(config.get(key).map_or("", |v| v)));
        }
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
