//! Which plots a report has and what is in them.

use std::collections::BTreeSet;

use super::data::Run;
use super::plot::{heat_map, Look, Plot, Series};

/// Tableau's ten, told apart by readers with colour blindness in the order used.
const COLOURS: [&str; 10] = [
    "#1f77b4", "#e6550d", "#2ca02c", "#9467bd", "#d62728", "#17becf", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22",
];
const GREY: &str = "#636363";
/// Keys the plots above the last section show, or that are no curve.
const SHOWN: &[&str] = &[
    "step",
    "success",
    "score",
    "entropy",
    "entropy_reference",
    "band_low",
    "band_high",
    "beta",
    "grad_norm",
    "ppo_kl",
    "pg_clipfrac",
    "loss",
    "pg_loss",
    "return_mean",
    "valid_actions",
    "time/tokens_per_second",
];

pub(super) fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// The name of what lies behind the main lines; with several runs the note below the plot says it once for all.
fn background(runs: &[Run], what: &str) -> String {
    if runs.len() == 1 {
        what.to_owned()
    } else {
        String::new()
    }
}

/// The name of a line: the run's where there are several, what it shows otherwise.
fn label(runs: &[Run], run: &Run, what: &str) -> String {
    match (runs.len(), what) {
        (1, _) => what.to_owned(),
        (_, "") => run.name.clone(),
        _ => format!("{}: {what}", run.name),
    }
}

/// `key` of the evaluations as dots with whiskers, over the same key of the training rollouts.
pub(super) fn evaluation_plot(runs: &[Run], title: &str, key: &str, y_label: &str, full: f64) -> Plot {
    let mut series = Vec::new();
    let mut panels = 0;
    for (i, run) in runs.iter().enumerate() {
        let faint = run.points("rl", key);
        if !faint.is_empty() {
            let name = background(runs, "training rollouts");
            series.push(Series {
                name,
                colour: colour(i),
                look: Look::Faint,
                points: faint,
                ..Series::default()
            });
        }
        for panel in run.panels() {
            let points = run.evaluations(&panel).filter_map(|e| Some((e.step(), e.number(key)?))).collect();
            let ends = |e: super::data::Evaluation| e.interval(key).map(|(low, high)| (e.step(), low, high));
            let intervals = run.evaluations(&panel).filter_map(ends).collect();
            let colour = colour(if runs.len() == 1 { panels } else { i });
            let name = label(runs, run, &panel);
            series.push(Series { name, colour, look: Look::Dots, points, intervals });
            panels += 1;
        }
    }
    let note =
        "Dots: whole evaluation panels, whiskers their 95 % intervals. Pale: training rollouts.".to_owned();
    Plot { title: title.into(), note, y_label: y_label.into(), series, at_least: Some((0.0, full)) }
}

/// Entropy of the rollouts inside the band around its reference.
pub(super) fn entropy_plot(runs: &[Run]) -> Plot {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let band = run.intervals("rl", "band_low", "band_high");
        let reference = run.points("rl", "entropy_reference");
        let tint = if runs.len() == 1 { GREY } else { colour(i) };
        if !band.is_empty() {
            let name = background(runs, "band κₗ·H̄ … κᵣ·H̄");
            series.push(Series {
                name,
                colour: tint,
                look: Look::Area,
                intervals: band,
                ..Series::default()
            });
        }
        if !reference.is_empty() {
            let name = background(runs, "reference H̄");
            series.push(Series {
                name,
                colour: tint,
                look: Look::Dashed,
                points: reference,
                ..Series::default()
            });
        }
        let (name, points) =
            (label(runs, run, if runs.len() == 1 { "entropy" } else { "" }), run.points("rl", "entropy"));
        series.push(Series { name, colour: colour(i), points, ..Series::default() });
    }
    let note = "Mean over generated tokens. Dashed: reference H̄; shaded: the band in which the smoothing penalty is zero.".to_owned();
    let (title, y_label) = ("Entropy of the rollouts".into(), "nats per token".into());
    Plot { title, note, y_label, series, at_least: None }
}

/// `keys` of a phase, one line a run and key.
pub(super) fn curve_plot(
    runs: &[Run],
    phase: &str,
    title: &str,
    keys: &[(&str, &str)],
    y_label: &str,
) -> Plot {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        for (k, (key, name)) in keys.iter().enumerate() {
            let points = run.points(phase, key);
            if !points.is_empty() {
                let (colour, look) = match runs.len() {
                    1 => (colour(k), Look::Line),
                    _ => (colour(i), if k == 0 { Look::Line } else { Look::Dashed }),
                };
                let name = label(runs, run, if keys.len() == 1 { "" } else { name });
                series.push(Series { name, colour, look, points, ..Series::default() });
            }
        }
    }
    Plot { title: title.into(), y_label: y_label.into(), series, ..Plot::default() }
}

/// The plots of the reinforcement-learning phase after success, score and entropy.
pub(super) fn optimisation_plots(runs: &[Run]) -> Vec<Plot> {
    let rl = |title, keys, unit| curve_plot(runs, "rl", title, keys, unit);
    vec![
        rl("Weight of the smoothing term", &[("beta", "β")], "β"),
        rl("Gradient norm before clipping", &[("grad_norm", "")], "‖g‖₂"),
        rl("KL to the rollout policy", &[("ppo_kl", "")], "nats per token"),
        rl("Share of clipped ratios", &[("pg_clipfrac", "")], "share of tokens"),
        rl("Loss", &[("loss", "total"), ("pg_loss", "policy")], "loss"),
        rl("Return of the rollouts", &[("return_mean", "")], "return"),
        rl("Actions the environment understood", &[("valid_actions", "")], "share of actions"),
        rl("Speed", &[("time/tokens_per_second", "")], "tokens per second"),
        curve_plot(runs, "clone", "Behaviour cloning", &[("loss", "")], "nats per token"),
    ]
}

/// A heat map of entropy by turn index for each run that has it.
pub(super) fn entropy_maps(runs: &[Run]) -> String {
    let map = |run: &Run| {
        let title = format!("Entropy by turn, nats per token{}", label_suffix(runs, run));
        heat_map(&title, "turn of the episode", &run.columns("rl", "entropy_turn"))
    };
    runs.iter().map(map).collect()
}

fn label_suffix(runs: &[Run], run: &Run) -> String {
    if runs.len() == 1 {
        String::new()
    } else {
        format!(" — {}", run.name)
    }
}

/// A plot for each numeric key that no other plot shows.
pub(super) fn other_plots(runs: &[Run]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for phase in ["rl", "clone"] {
        let keys: BTreeSet<String> = runs.iter().flat_map(|run| run.numeric_keys(phase)).collect();
        for key in keys.iter().filter(|k| !SHOWN.contains(&k.as_str())) {
            plots.push(curve_plot(runs, phase, &format!("{phase}: {key}"), &[(key, "")], key));
        }
    }
    plots
}
