//! The page around the figures: summary, configuration, episodes.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::data::{number as value_number, Run};
use super::figures::{self, colour};
use super::plot::{number, Plot};
use super::{data, escape};

const STYLE: &str = "
:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:#222;background:#fafafa;margin:0}
main{max-width:1240px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:8px 0 2px}h2{font-size:19px;margin:36px 0 12px;border-bottom:1px solid #ddd;padding-bottom:4px}
.lead{color:#666;margin:0 0 18px}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(500px,1fr));gap:18px}
figure{background:#fff;border:1px solid #e4e4e4;border-radius:8px;margin:0;padding:12px 14px}
figcaption{font-weight:600}figure p{color:#777;font-size:12.5px;margin:4px 0 0}
figure>svg{width:100%;height:auto;display:block}
svg text{font:11.5px system-ui,sans-serif;fill:#555}
.grid{stroke:#ececec}.axis{stroke:#999}
.legend{font-size:12.5px;color:#444;display:flex;flex-wrap:wrap;gap:2px 16px;margin:3px 0 4px}
.swatch{width:20px;height:12px;margin-right:5px;vertical-align:-1px}
table{border-collapse:collapse;background:#fff;border:1px solid #e4e4e4;font-size:13.5px}
th,td{text-align:left;padding:4px 12px;border-bottom:1px solid #eee;vertical-align:top}
th{font-weight:600;background:#f5f5f5}td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.differs td{background:#fff6df}.scroll{overflow-x:auto}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:7px}
details{background:#fff;border:1px solid #e4e4e4;border-radius:8px;margin:8px 0;padding:8px 14px}
summary{cursor:pointer}.turn{margin:8px 0 8px 4px;padding-left:12px;border-left:3px solid #ddd}
.action{font-family:ui-monospace,Menlo,Consolas,monospace;font-weight:600}.seen{color:#555;white-space:pre-wrap}
.bad{color:#b22}.good{color:#17722c}.small{color:#777;font-size:12.5px}
pre{white-space:pre-wrap;font-size:12.5px}
";
const EPISODES_SHOWN: usize = 6;

/// The whole page.
pub(super) fn render(runs: &[Run]) -> String {
    let names: Vec<String> = runs.iter().map(|r| escape(&r.name)).collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{0}</title>\
         <style>{STYLE}</style></head><body><main>\n<h1>Training report</h1><p class=\"lead\">{0}</p>\n",
        names.join(" · ")
    );
    page += &summary(runs);
    let (success, score) = (
        figures::evaluation_plot(runs, "Success", "success", "share of episodes solved", 1.0),
        figures::evaluation_plot(runs, "Score", "score", "points", 0.0),
    );
    page += &section("Success and score", &grid(&[success, score]), "");
    page += &section("Entropy", &grid(&[figures::entropy_plot(runs)]), &figures::entropy_maps(runs));
    page += &section("Optimisation", &grid(&figures::optimisation_plots(runs)), "");
    page += &configuration(runs);
    page += &episodes(runs);
    let others = grid(&figures::other_plots(runs));
    if !others.is_empty() {
        let _ = write!(page, "<h2>Everything else</h2><details><summary>all other recorded values</summary>");
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

/// A row for each run and panel: first and last evaluation with their intervals.
fn summary(runs: &[Run]) -> String {
    let mut rows = String::new();
    for (i, run) in runs.iter().enumerate() {
        let steps = run.phase("rl").count();
        let head = format!(
            "<td><span class=\"dot\" style=\"background:{}\"></span>{}</td><td class=\"n\">{steps}</td>",
            colour(i),
            escape(&run.name)
        );
        for panel in run.panels() {
            let (first, last) = (run.evaluations(&panel).next(), run.evaluations(&panel).last());
            let cells = ["success", "score"].map(|key| {
                let cell = |e: &Option<data::Evaluation>| {
                    e.as_ref().map_or(String::new(), |e| with_interval(e, key))
                };
                format!("<td class=\"n\">{}</td><td class=\"n\">{}</td>", cell(&first), cell(&last))
            });
            let n = last.as_ref().and_then(|e| e.number("n")).map_or(String::new(), number);
            let _ = write!(rows, "<tr>{head}<td>{}</td><td class=\"n\">{n}</td>", escape(&panel));
            let _ = writeln!(rows, "{}</tr>", cells.concat());
        }
        if run.panels().is_empty() {
            let _ = writeln!(
                rows,
                "<tr>{head}<td>no evaluation</td><td></td><td></td><td></td><td></td><td></td></tr>"
            );
        }
    }
    format!(
        "<div class=\"scroll\"><table><tr><th>run</th><th>RL steps</th><th>panel</th><th>episodes</th>\
         <th>success, first</th><th>success, last</th><th>score, first</th><th>score, last</th></tr>\n{rows}</table></div>\n"
    )
}

fn with_interval(evaluation: &data::Evaluation, key: &str) -> String {
    let Some(mean) = evaluation.number(key) else { return String::new() };
    let ends = evaluation.interval(key).map_or(String::new(), |(low, high)| {
        format!(" <span class=\"small\">[{}, {}]</span>", number(round(low)), number(round(high)))
    });
    format!("{}{ends}", number(round(mean)))
}

/// Three digits after the point for shares, one for points: more than that an interval does not support.
fn round(x: f64) -> f64 {
    let scale = if x.abs() < 10.0 { 1000.0 } else { 10.0 };
    (x * scale).round() / scale
}

/// The settings, one column a run, rows that differ marked.
fn configuration(runs: &[Run]) -> String {
    let configs: Vec<_> = runs.iter().map(|r| &r.settings).collect();
    let mut keys: Vec<&String> = configs.iter().flat_map(|c| c.keys()).collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        return String::new();
    }
    let mut table = "<tr><th>setting</th>".to_owned();
    runs.iter().for_each(|r| table += &format!("<th>{}</th>", escape(&r.name)));
    table += "</tr>\n";
    for key in keys {
        let differs = configs.iter().any(|c| c.get(key) != configs[0].get(key));
        let class = if differs { " class=\"differs\"" } else { "" };
        let _ = write!(table, "<tr{class}><td>{}</td>", escape(key));
        configs.iter().for_each(|c| table += &format!("<td>{}</td>", escape(c.get(key).map_or("", |v| v))));
        table += "</tr>\n";
    }
    format!("<h2>Configuration</h2><div class=\"scroll\"><table>{table}</table></div>\n")
}

/// The last recorded episodes of each run, newest first.
fn episodes(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs {
        for episode in run.episodes.iter().rev().take(EPISODES_SHOWN) {
            let title = if runs.len() == 1 { String::new() } else { format!("{} · ", escape(&run.name)) };
            html += &format!(
                "<details><summary>{title}{}</summary>{}</details>\n",
                headline(episode),
                turns(episode)
            );
        }
    }
    if html.is_empty() {
        html
    } else {
        format!("<h2>Sample trajectories</h2>\n{html}")
    }
}

/// The part of a recorded episode that has the turns.
fn trajectory(episode: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let nested = episode.values().filter_map(Value::as_object);
    std::iter::once(episode).chain(nested).find(|o| o.get("turns").is_some_and(Value::is_array))
}

/// Phase, step, task, outcome: every short value of the episode, in its order of keys.
fn headline(episode: &Map<String, Value>) -> String {
    let mut parts = Vec::new();
    let inner = trajectory(episode).filter(|t| *t != episode);
    for (key, value) in episode.iter().chain(inner.into_iter().flatten()) {
        match value {
            Value::Bool(true) if key == "success" => parts.push("<b class=\"good\">solved</b>".to_owned()),
            Value::Bool(false) if key == "success" => {
                parts.push("<span class=\"bad\">not solved</span>".to_owned())
            }
            Value::Object(task) if key == "task" => {
                let name: Vec<String> = task.values().map(|v| escape(&plain(v))).collect();
                parts.push(format!("<b>{}</b>", name.join(" ")));
            }
            Value::String(_) | Value::Number(_) => {
                parts.push(format!("{} {}", escape(key), escape(&plain(value))))
            }
            _ => {}
        }
    }
    parts.join(" · ")
}

fn turns(episode: &Map<String, Value>) -> String {
    let Some(trajectory) = trajectory(episode) else {
        let text = serde_json::to_string_pretty(episode).unwrap_or_default();
        return format!("<pre>{}</pre>", escape(&text));
    };
    let mut html = String::new();
    if let Some(start) = trajectory.get("start").and_then(Value::as_object) {
        start.values().for_each(|v| html += &format!("<div class=\"seen\">{}</div>", escape(&plain(v))));
    }
    for (i, turn) in trajectory["turns"].as_array().into_iter().flatten().enumerate() {
        html += &turn_html(i, turn);
    }
    html
}

fn turn_html(index: usize, turn: &Value) -> String {
    let text = |key: &str| turn.get(key).map_or(String::new(), |v| escape(&plain(v)));
    let invalid = turn.get("valid") == Some(&Value::Bool(false));
    let class = if invalid { "action bad" } else { "action" };
    let mut facts = Vec::new();
    if let Some(score) = turn.get("score").and_then(value_number) {
        facts.push(format!("score {}", number(score)));
    }
    if let Some(h) = turn.get("entropies").and_then(Value::as_array).and_then(|h| mean(h)) {
        facts.push(format!("entropy {} nats per token", number(round(h))));
    }
    format!(
        "<div class=\"turn\"><span class=\"small\">{index}</span> <span class=\"{class}\">{}</span> \
         <span class=\"small\">{}</span><div class=\"seen\">{}</div></div>",
        text("action"),
        facts.join(" · "),
        text("observation")
    )
}

fn mean(values: &[Value]) -> Option<f64> {
    let numbers: Vec<f64> = values.iter().filter_map(value_number).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
