//! Which plots a report has and what is in them.

use std::collections::BTreeSet;

use crate::report::data::Run;
use crate::report::heat::{band_map, value_map, Column};
use crate::report::plot::{Look, Plot, Series};
use crate::report::style::{colour, GREY};

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
];

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

/// `key` of the evaluations as dots with whiskers, over the same key of the training rollouts: one plot for the panels
/// of one run, one for each panel of several runs.
pub(crate) fn evaluation_plots(
    runs: &[Run],
    title: &str,
    key: &str,
    y_label: &str,
    full: f64,
) -> Vec<Plot> {
    let mut panels: Vec<String> = Vec::new();
    for panel in runs.iter().flat_map(Run::panels) {
        if !panels.contains(&panel) {
            panels.push(panel);
        }
    }
    let (together, titles) = match (runs, &panels[..]) {
        ([_], _) | (_, []) => (vec![panels.clone()], vec![title.to_owned()]),
        (_, _) => {
            let titles = panels.iter().map(|panel| format!("{title}: {panel}")).collect();
            (panels.iter().map(|panel| vec![panel.clone()]).collect(), titles)
        }
    };
    let note =
        "Dots: whole evaluation panels, whiskers their 95 % intervals. Pale: training rollouts.";
    let plot = |(panels, title): (Vec<String>, String)| Plot {
        title,
        note: note.to_owned(),
        y_label: y_label.into(),
        series: evaluation_series(runs, &panels, key),
        at_least: Some((0.0, full)),
        alarms: alarms(runs),
    };
    together.into_iter().zip(titles).map(plot).collect()
}

fn evaluation_series(runs: &[Run], panels: &[String], key: &str) -> Vec<Series> {
    let mut series = Vec::new();
    let all = (runs.len() * panels.len()) as f64;
    for (i, run) in runs.iter().enumerate() {
        let points = run.points("rl", key);
        if !points.is_empty() {
            let (name, colour) = match runs.len() {
                1 => ("training rollouts".to_owned(), GREY),
                _ => (String::new(), colour(i)),
            };
            series.push(Series { name, colour, look: Look::Faint, points, ..Series::default() });
        }
        for (k, panel) in panels.iter().enumerate() {
            let points =
                run.evaluations(panel).filter_map(|e| Some((e.step(), e.number(key)?))).collect();
            let ends = |e: crate::report::data::Evaluation| {
                e.interval(key).map(|(low, high)| (e.step(), low, high))
            };
            let intervals = run.evaluations(panel).filter_map(ends).collect();
            let aside = 5.0 * ((i * panels.len() + k) as f64 - (all - 1.0) / 2.0);
            let (name, colour) = match runs.len() {
                1 => (panel.clone(), colour(k)),
                _ => (run.name.clone(), colour(i)),
            };
            series.push(Series { name, colour, look: Look::Dots, points, intervals, aside });
        }
    }
    series
}

/// The alarms of all runs, as the plots show them.
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

/// Entropy in its band, at the episodes' two ends, and the share of it inside.
pub(crate) fn entropy_plots(runs: &[Run]) -> Vec<Plot> {
    let shares = |title: [&str; 2], keys: [&'static str; 3]| {
        let title = title[usize::from(runs.len() > 1)];
        let names = ["below", "inside", "above the band"];
        let keys: Vec<_> = keys.into_iter().zip(names).collect();
        // The three add up: of several runs the middle one says enough.
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
    let thirds = [("entropy_early", "first third of the turns"), ("entropy_late", "last third")];
    vec![
        entropy_plot(runs),
        curve_plot(runs, "rl", "Entropy early and late in the episodes", &thirds, "nats per token"),
        by_turn,
        by_token,
        curve_plot(runs, "rl", "Weight of the smoothing term", &[("beta", "β")], "β"),
    ]
}

/// Entropy of the rollouts inside the band around its reference.
fn entropy_plot(runs: &[Run]) -> Plot {
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
        let (name, points) = (
            label(runs, run, if runs.len() == 1 { "entropy" } else { "" }),
            run.points("rl", "entropy"),
        );
        series.push(Series { name, colour: colour(i), points, ..Series::default() });
    }
    let note = "Mean over generated tokens. Dashed: reference H̄; shaded: the band in which the smoothing penalty is zero.".to_owned();
    let (title, y_label) = ("Entropy of the rollouts".into(), "nats per token".into());
    Plot { title, note, y_label, series, at_least: None, alarms: alarms(runs) }
}

/// `keys` of a phase, one line a run and key.
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

/// The plots of the reinforcement-learning phase after success, score and entropy.
pub(crate) fn optimisation_plots(runs: &[Run]) -> Vec<Plot> {
    let rl = |title, keys, unit| curve_plot(runs, "rl", title, keys, unit);
    vec![
        rl("Gradient norm before clipping", &[("grad_norm", "")], "‖g‖₂"),
        rl("KL to the rollout policy", &[("ppo_kl", "")], "nats per token"),
        rl("Share of clipped ratios", &[("pg_clipfrac", "")], "share of tokens"),
        rl("Loss", &[("loss", "total"), ("pg_loss", "policy")], "loss"),
        rl("Return of the rollouts", &[("return_mean", "")], "return"),
        rl("Actions the environment understood", &[("valid_actions", "")], "share of actions"),
        rl("Groups without variance", &[("zero_variance_groups", "")], "share of groups"),
        rl(
            "Length of an action",
            &[("action_tokens", "mean"), ("action_tokens_max", "longest")],
            "tokens",
        ),
        rl("Actions at the token limit", &[("action_limit", "")], "share of actions"),
        rl("Speed", &[("time/tokens_per_second", "")], "tokens per second"),
        curve_plot(runs, "clone", "Behaviour cloning", &[("loss", "")], "nats per token"),
    ]
}

/// Heat maps of entropy by turn index for each run that has it: its value, and where it stands against the band.
pub(crate) fn entropy_maps(runs: &[Run]) -> String {
    let map = |run: &Run| {
        let (name, columns) = (label_suffix(runs, run), run.columns("rl", "entropy_turn"));
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

/// The band's ends by turn index for each column: around the turn's own reference where the run has one for each.
fn bands(run: &Run, columns: &[Column]) -> Vec<Vec<(f64, f64)>> {
    let ends = run.intervals("rl", "band_low", "band_high");
    let (whole, by_turn) =
        (run.points("rl", "entropy_reference"), run.columns("rl", "entropy_reference_turn"));
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

/// A plot for each numeric key that no other plot shows.
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
