//! The plots of a report.

use std::collections::BTreeSet;

use crate::report::data::{Evaluation, Run};
use crate::report::heat::{band_map, value_map, Column};
use crate::report::plot::{Look, Plot, Series, Size};
use crate::report::style::{colour, GREY};

/// Keys that other sections show, or that are not drawn.
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
    "zero_variance_groups",
    "action_tokens",
    "action_tokens_max",
    "action_limit",
    "entropy_early",
    "entropy_late",
    "entropy/below_band",
    "entropy/in_band",
    "entropy/above_band",
    "band/below",
    "band/inside",
    "band/above",
    "time/tokens_per_second",
    "time/sampled_tokens_per_second",
    "time/read_tokens_per_second",
    "time/trained_tokens_per_second",
];

/// The legend entry of a series behind the main line. Several runs have none, because the note
/// below the plot explains these series.
fn background(runs: &[Run], what: &str) -> String {
    if runs.len() == 1 {
        what.to_owned()
    } else {
        String::new()
    }
}

/// The legend entry of a line: with several runs the run's name, otherwise the quantity.
fn label(runs: &[Run], run: &Run, what: &str) -> String {
    match (runs.len(), what) {
        (1, _) => what.to_owned(),
        (_, "") => run.name.clone(),
        _ => format!("{}: {what}", run.name),
    }
}

/// Plots `key` of the evaluations as dots with whiskers, over the same key of training episodes.
///
/// One run has one plot with all evaluation sets; several runs have one plot per evaluation set.
pub(crate) fn evaluation_plots(
    runs: &[Run],
    title: &str,
    key: &str,
    y_label: &str,
    full: f64,
) -> Vec<Plot> {
    let mut sets: Vec<String> = Vec::new();
    for set in runs.iter().flat_map(Run::evaluation_sets) {
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    let note = "Dots: evaluations with 95 % intervals. Pale: training episodes.";
    let plot = |title: String, sets: &[String]| Plot {
        title,
        note: note.to_owned(),
        y_label: y_label.into(),
        series: evaluation_series(runs, sets, key),
        at_least: Some((0.0, full)),
        alarms: alarms(runs),
        size: Size::default(),
    };
    if runs.len() == 1 || sets.is_empty() {
        return vec![plot(title.to_owned(), &sets)];
    }
    sets.chunks(1).map(|set| plot(format!("{title}: {}", set[0]), set)).collect()
}

fn evaluation_series(runs: &[Run], sets: &[String], key: &str) -> Vec<Series> {
    let mut series = Vec::new();
    let all = (runs.len() * sets.len()) as f64;
    for (i, run) in runs.iter().enumerate() {
        let points = run.points("rl", key);
        if !points.is_empty() {
            let (name, colour) = match runs.len() {
                1 => ("training episodes".to_owned(), GREY),
                _ => (String::new(), colour(i)),
            };
            series.push(Series { name, colour, look: Look::Faint, points, ..Series::default() });
        }
        for (k, set) in sets.iter().enumerate() {
            let points =
                run.evaluations(set).filter_map(|e| Some((e.step(), e.number(key)?))).collect();
            let ends = |e: Evaluation| e.interval(key).map(|(low, high)| (e.step(), low, high));
            let intervals = run.evaluations(set).filter_map(ends).collect();
            let aside = 5.0 * ((i * sets.len() + k) as f64 - (all - 1.0) / 2.0);
            let (name, colour) = match runs.len() {
                1 => (set.clone(), colour(k)),
                _ => (run.name.clone(), colour(i)),
            };
            series.push(Series { name, colour, look: Look::Dots, points, intervals, aside });
        }
    }
    series
}

/// The steps and messages of the alarms of all runs.
fn alarms(runs: &[Run]) -> Vec<(f64, String)> {
    let of = |run: &Run| {
        let name = if runs.len() == 1 { String::new() } else { format!("{}: ", run.name) };
        let show = |(step, kind, why): (f64, String, String)| {
            (step, format!("{name}{kind} at step {step}: {why}"))
        };
        run.alarms().into_iter().map(show).collect::<Vec<_>>()
    };
    runs.iter().flat_map(of).collect()
}

/// Plots of entropy and its band, of early and late turns, of the shares inside the band, and of β.
pub(crate) fn entropy_plots(runs: &[Run]) -> Vec<Plot> {
    let shares = |title: [&str; 2], keys: [&'static str; 3]| {
        let title = title[usize::from(runs.len() > 1)];
        let names = ["below", "inside", "above the band"];
        let keys: Vec<_> = keys.into_iter().zip(names).collect();
        // The three shares add up to 1, so the middle one is enough to compare several runs.
        let keys = if runs.len() == 1 { &keys[..] } else { &keys[1..2] };
        let share = curve_plot(runs, "rl", "", keys, "share of tokens");
        Plot { title: title.to_owned(), at_least: Some((0.0, 1.0)), ..share }
    };
    let [by_turn, by_token] = [
        shares(
            ["Turn indices against the band", "Turn indices inside the band"],
            ["band/below", "band/inside", "band/above"],
        ),
        shares(
            ["Tokens against the band", "Tokens inside the band"],
            ["entropy/below_band", "entropy/in_band", "entropy/above_band"],
        ),
    ];
    vec![
        entropy_plot(runs),
        turns_plot(runs),
        by_turn,
        by_token,
        curve_plot(runs, "rl", "Weight of the smoothing term", &[("beta", "β")], "β"),
    ]
}

/// Plots the entropy of the first and of the last third of the turns.
pub(crate) fn turns_plot(runs: &[Run]) -> Plot {
    let thirds = [("entropy_early", "first third of the turns"), ("entropy_late", "last third")];
    curve_plot(runs, "rl", "Entropy early and late in the episodes", &thirds, "nats per token")
}

/// Plots the entropy of the training episodes with its reference and band.
pub(crate) fn entropy_plot(runs: &[Run]) -> Plot {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let tint = if runs.len() == 1 { GREY } else { colour(i) };
        let behind = |name, look| {
            let name = background(runs, name);
            Series { name, colour: tint, look, ..Series::default() }
        };
        let intervals = run.intervals("rl", "band_low", "band_high");
        if !intervals.is_empty() {
            let band = behind("band around H̄", Look::Area);
            series.push(Series { intervals, ..band });
        }
        let points = run.points("rl", "entropy_reference");
        if !points.is_empty() {
            series.push(Series { points, ..behind("reference H̄", Look::Dashed) });
        }
        let name = label(runs, run, if runs.len() == 1 { "entropy" } else { "" });
        let points = run.points("rl", "entropy");
        series.push(Series { name, colour: colour(i), points, ..Series::default() });
    }
    let note =
        "Mean over generated tokens. Dashed: reference H̄. Shaded: the band from κₗ·H̄ to κᵣ·H̄, \
        inside which the smoothing penalty is zero.";
    Plot {
        title: "Entropy of the training episodes".to_owned(),
        note: note.to_owned(),
        y_label: "nats per token".to_owned(),
        series,
        alarms: alarms(runs),
        ..Plot::default()
    }
}

/// Plots `keys` of a phase, one line per run and key.
pub(crate) fn curve_plot(
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
    let alarms = if phase == "rl" { alarms(runs) } else { Vec::new() };
    Plot { title: title.into(), y_label: y_label.into(), series, alarms, ..Plot::default() }
}

/// Plots of the training steps other than success, score and entropy.
pub(crate) fn optimisation_plots(runs: &[Run]) -> Vec<Plot> {
    let rl = |title, keys, unit| curve_plot(runs, "rl", title, keys, unit);
    vec![
        rl("Gradient norm before clipping", &[("grad_norm", "")], "‖g‖₂"),
        rl("KL to the rollout policy", &[("ppo_kl", "")], "nats per token"),
        rl("Share of clipped ratios", &[("pg_clipfrac", "")], "share of tokens"),
        rl("Loss", &[("loss", "total"), ("pg_loss", "policy")], "loss"),
        rl("Return of the training episodes", &[("return_mean", "")], "return"),
        rl("Actions the environment understood", &[("valid_actions", "")], "share of actions"),
        rl("Groups without variance", &[("zero_variance_groups", "")], "share of groups"),
        rl(
            "Length of an action",
            &[("action_tokens", "mean"), ("action_tokens_max", "longest")],
            "tokens",
        ),
        rl("Actions at the token limit", &[("action_limit", "")], "share of actions"),
        rl(
            "Speed",
            &[
                ("time/tokens_per_second", "all"),
                ("time/sampled_tokens_per_second", "sampled"),
                ("time/read_tokens_per_second", "read"),
                ("time/trained_tokens_per_second", "trained"),
            ],
            "tokens per second",
        ),
        curve_plot(runs, "clone", "Behaviour cloning", &[("loss", "")], "nats per token"),
    ]
}

/// Heat maps of entropy by turn index for each run that records it: values, and places against the
/// band.
pub(crate) fn entropy_maps(runs: &[Run]) -> String {
    let map = |run: &Run| {
        let name = label_suffix(runs, run);
        let columns = run.columns("rl", "entropy_turn");
        let value = value_map(
            &format!("Entropy by turn, nats per token{name}"),
            "turn of the episode",
            &columns,
        );
        let title = format!("Entropy by turn against the band{name}");
        value + &band_map(&title, "turn of the episode", &columns, &bands(run, &columns))
    };
    runs.iter().map(map).collect()
}

/// The band's ends by turn index for each column, scaled to the turn's own reference if it has one.
fn bands(run: &Run, columns: &[Column]) -> Vec<Vec<(f64, f64)>> {
    let ends = run.intervals("rl", "band_low", "band_high");
    let whole = run.points("rl", "entropy_reference");
    let by_turn = run.columns("rl", "entropy_reference_turn");
    let of = |(step, values): &Column| {
        let band = ends.iter().find(|(at, _, _)| at == step).map(|(_, low, high)| (*low, *high));
        let reference = whole.iter().find(|(at, _)| at == step).map(|(_, h)| *h);
        let own = by_turn.iter().find(|(at, _)| at == step).map(|(_, h)| h);
        let (low, high) = band.unwrap_or((f64::NAN, f64::NAN));
        let turn = |turn: usize| match (own.and_then(|h| h.get(turn)), reference) {
            (Some(own), Some(reference)) if reference > 0.0 => {
                (low / reference * own, high / reference * own)
            }
            _ => (low, high),
        };
        (0..values.len()).map(turn).collect()
    };
    columns.iter().map(of).collect()
}

fn label_suffix(runs: &[Run], run: &Run) -> String {
    if runs.len() == 1 {
        String::new()
    } else {
        format!(" — {}", run.name)
    }
}

/// Plots every numeric key that no other plot shows.
pub(crate) fn other_plots(runs: &[Run]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for phase in ["rl", "clone"] {
        let keys: BTreeSet<String> = runs.iter().flat_map(|run| run.numeric_keys(phase)).collect();
        for key in keys.iter().filter(|k| !SHOWN.contains(&k.as_str())) {
            plots.push(curve_plot(runs, phase, &format!("{phase}: {key}"), &[(key, "")], key));
        }
    }
    plots
}
