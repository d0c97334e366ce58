//! Examining a policy on a fixed panel.

use std::collections::BTreeMap;

use super::{bootstrap_mean, wilson, Panel, Record};
use crate::rng::{Purpose, Stream};
use crate::rollout::{Episode, Trajectory};

/// One episode for each task of the panel, `repeats` times over.
///
/// The draws depend on the seed, the task's place in the panel and the repeat only, so that every
/// examination of a run uses the same ones.
pub fn panel_episodes(panel: &Panel, seed: u64, repeats: u32) -> Vec<Episode> {
    let one = |(i, member): (usize, u32)| Episode {
        task: panel.tasks[i].clone(),
        group: i as u32,
        member,
        stream: Stream::new(seed, Purpose::Evaluation, 0, i as u32, member),
    };
    (0..panel.tasks.len()).flat_map(|i| (0..repeats).map(move |m| (i, m))).map(one).collect()
}

/// Adds the outcome on a panel to `record`: success rate with its Wilson 95 % interval, mean score with its
/// bootstrap 95 % interval (points), mean turns, valid-action rate, and both means for each task family.
pub fn panel_metrics(record: &mut Record, panel: &Panel, trajectories: &[Trajectory], seed: u64) {
    let solved = trajectories.iter().filter(|t| t.success).count();
    let success = wilson(solved, trajectories.len());
    let scores: Vec<f64> = trajectories.iter().map(Trajectory::score).collect();
    let score = bootstrap_mean(&scores, seed);
    let turns: usize = trajectories.iter().map(|t| t.turns.len()).sum();
    let valid = trajectories.iter().flat_map(|t| &t.turns).filter(|t| t.valid).count();
    record.set("panel", panel.name.as_str());
    record.set("n", trajectories.len());
    for (key, interval) in [("success", success), ("score", score)] {
        record.set(key, interval.mean);
        record.set(format!("{key}_low"), interval.low);
        record.set(format!("{key}_high"), interval.high);
    }
    record.set("turns", turns as f64 / trajectories.len() as f64);
    record.set("valid_actions", valid as f64 / turns as f64);
    let mut families: BTreeMap<&str, Vec<&Trajectory>> = BTreeMap::new();
    for t in trajectories {
        families.entry(&t.task.name).or_default().push(t);
    }
    for (name, family) in families {
        let mean =
            |f: &dyn Fn(&Trajectory) -> f64| family.iter().map(|t| f(t)).sum::<f64>() / family.len() as f64;
        record.set(format!("success/{name}"), mean(&|t| f64::from(u8::from(t.success))));
        record.set(format!("score/{name}"), mean(&Trajectory::score));
    }
}

/// One line about an examination's record.
pub fn panel_line(record: &Record) -> String {
    let show = |key| record.number(key).unwrap_or(f64::NAN);
    format!(
        "success {:.3} [{:.3}, {:.3}]  score {:.1} [{:.1}, {:.1}]  on {} unseen tasks",
        show("success"),
        show("success_low"),
        show("success_high"),
        show("score"),
        show("score_low"),
        show("score_high"),
        show("n"),
    )
}
