//! Diagnostics of a step's trajectories, independent of the loss.

use std::collections::BTreeMap;

use crate::entropy::control::EntropyControl;
use crate::entropy::stats::StepEntropy;
use crate::rollout::trajectory::{End, Trajectory};
use crate::run::record::Record;
use crate::Result;

/// The entropies of a step's rollouts, aggregated by turn index.
///
/// # Errors
/// A non-finite entropy.
pub fn step_entropy(trajectories: &[Trajectory]) -> Result<StepEntropy> {
    let mut step = StepEntropy::new();
    for (i, turn) in trajectories.iter().flat_map(|t| t.turns.iter().enumerate()) {
        let entropies: Vec<f64> = turn.entropies.iter().map(|&h| f64::from(h)).collect();
        step.add_turn(i, &entropies)?;
    }
    Ok(step)
}

/// The token mean over the turn indices in `range`, nats; 0 without tokens.
fn mean_over(step: &StepEntropy, range: std::ops::Range<usize>) -> f64 {
    let mut sum = 0.0;
    let mut count = 0.0;
    for turn in range {
        let n = step.count(turn) as f64;
        sum += step.turn_mean(turn).unwrap_or(0.0) * n;
        count += n;
    }
    if count > 0.0 {
        sum / count
    } else {
        0.0
    }
}

/// Adds success, score, lengths, validity and entropy of a step's trajectories to `record`.
///
/// `returns` holds one number per trajectory. `entropy_early` and `entropy_late` are the token
/// means over the first and the last third of the turn indices that occur. `zero_variance_groups`
/// is the share of groups whose members all have the same return, from which GRPO learns nothing.
pub fn trajectory_metrics(
    record: &mut Record,
    trajectories: &[Trajectory],
    returns: &[f64],
    entropy: &StepEntropy,
) {
    let n = trajectories.len() as f64;
    let mean = |f: &dyn Fn(&Trajectory) -> f64| trajectories.iter().map(f).sum::<f64>() / n;
    let turns = mean(&|t| t.turns.len() as f64);
    let indices = entropy.turns();
    let third = indices.div_ceil(3);
    let values = [
        ("success", mean(&|t| f64::from(u8::from(t.success)))),
        ("score", mean(&Trajectory::score)),
        ("return_mean", returns.iter().sum::<f64>() / n),
        ("zero_variance_groups", zero_variance_share(trajectories, returns)),
        ("turns", turns),
        ("turn_limit", mean(&|t| f64::from(u8::from(t.end == End::TurnLimit)))),
        ("context_full", mean(&|t| f64::from(u8::from(t.end == End::ContextFull)))),
        ("action_tokens", mean(&|t| t.sampled_tokens() as f64) / turns),
        ("valid_actions", mean(&|t| t.turns.iter().filter(|u| u.valid).count() as f64) / turns),
        ("entropy", mean_over(entropy, 0..indices)),
        ("entropy_early", mean_over(entropy, 0..third)),
        ("entropy_late", mean_over(entropy, indices.saturating_sub(third)..indices)),
    ];
    for (key, value) in values {
        record.set(key, value);
    }
    let turns: Vec<f64> = (0..indices).map(|t| entropy.turn_mean(t).unwrap_or(0.0)).collect();
    record.set("entropy_turn", turns);
}

/// Adds the position of a step's entropies relative to the band [κ_l·H̄, κ_r·H̄] to `record`, also
/// if the loss does not use the band.
///
/// Sets `entropy_reference`, `band_low` and `band_high` (nats, for turn index 0) and
/// `entropy_reference_turn` (nats per turn index, NaN without a reference). `band/below`,
/// `band/inside` and `band/above` are the shares of sampled tokens whose turn index has a mean
/// entropy there, 0 without a reference. Call it between [`EntropyControl::begin_step`] and
/// [`EntropyControl::finish_step`].
///
/// # Errors
/// A turn index that the history cannot hold.
pub fn band_metrics(
    record: &mut Record,
    entropy: &StepEntropy,
    control: &EntropyControl,
) -> Result<()> {
    let band = control.band();
    let references: Vec<Option<f64>> =
        (0..entropy.turns()).map(|turn| control.reference(turn)).collect::<Result<_>>()?;
    let mut below = 0.0;
    let mut inside = 0.0;
    let mut above = 0.0;
    let mut all = 0.0;
    for (turn, reference) in references.iter().enumerate() {
        let tokens = entropy.count(turn) as f64;
        all += tokens;
        if let (Some(mean), Some(h)) = (entropy.turn_mean(turn), reference) {
            if mean < band.kappa_low() * h {
                below += tokens;
            } else if mean > band.kappa_high() * h {
                above += tokens;
            } else {
                inside += tokens;
            }
        }
    }
    for (key, count) in [("band/below", below), ("band/inside", inside), ("band/above", above)] {
        record.set(key, if all > 0.0 { count / all } else { 0.0 });
    }
    let first = control.reference(0)?;
    record.set("entropy_reference", first);
    record.set("band_low", first.map(|h| h * band.kappa_low()));
    record.set("band_high", first.map(|h| h * band.kappa_high()));
    let references: Vec<f64> = references.iter().map(|h| h.unwrap_or(f64::NAN)).collect();
    record.set("entropy_reference_turn", references);
    Ok(())
}

/// Adds the lengths of the sampled actions to `record`: `action_tokens` (mean),
/// `action_tokens_max`, and `action_limit`, the share of actions that reached `max_action_tokens`.
pub fn length_metrics(record: &mut Record, trajectories: &[Trajectory], max_action_tokens: usize) {
    let lengths: Vec<usize> =
        trajectories.iter().flat_map(|t| &t.turns).map(|turn| turn.action_ids.len()).collect();
    let n = lengths.len() as f64;
    let at_limit = lengths.iter().filter(|&&length| length >= max_action_tokens).count();
    record.set("action_tokens", lengths.iter().sum::<usize>() as f64 / n);
    record.set("action_tokens_max", lengths.iter().copied().max().unwrap_or(0));
    record.set("action_limit", at_limit as f64 / n);
}

/// Share of groups in which all returns are equal.
fn zero_variance_share(trajectories: &[Trajectory], returns: &[f64]) -> f64 {
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (t, &r) in trajectories.iter().zip(returns) {
        groups.entry(t.group).or_default().push(r);
    }
    let equal = groups.values().filter(|g| g.iter().all(|r| *r == g[0])).count();
    equal as f64 / groups.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::trajectory::Turn;

    fn trajectory(group: u32, entropies: &[&[f32]], score: f64) -> Trajectory {
        let turn = |h: &&[f32]| Turn {
            prompt_ids: vec![1],
            action_ids: vec![2; h.len()],
            log_probs: vec![-1.0; h.len()],
            entropies: h.to_vec(),
            score,
            valid: h.len() == 1,
            ..Turn::default()
        };
        let turns = entropies.iter().map(turn).collect();
        Trajectory { group, success: score == 100.0, ..Trajectory::of_turns(turns) }
    }

    #[test]
    fn entropies_are_token_means_per_turn_index() {
        let all = [trajectory(0, &[&[1.0, 3.0], &[0.5]], 100.0), trajectory(1, &[&[2.0]], 0.0)];
        let mut m = Record::new("rl", 0);
        trajectory_metrics(&mut m, &all, &[1.0, 0.0], &step_entropy(&all).unwrap());
        assert!(m.to_json().contains(r#""entropy_turn":[2.0,0.5]"#));
        assert_eq!(m.number("entropy"), Some(6.5 / 4.0));
        assert_eq!((m.number("entropy_early"), m.number("entropy_late")), (Some(2.0), Some(0.5)));
        assert_eq!((m.number("success"), m.number("score")), (Some(0.5), Some(50.0)));
        assert_eq!(m.number("valid_actions"), Some(2.0 / 3.0));
    }

    #[test]
    fn lengths_are_of_actions() {
        let all =
            [trajectory(0, &[&[1.0; 3], &[1.0]], 0.0), trajectory(0, &[&[1.0; 4], &[1.0; 4]], 0.0)];
        let mut m = Record::new("rl", 0);
        length_metrics(&mut m, &all, 4);
        let numbers = ["action_tokens", "action_tokens_max", "action_limit"]
            .map(|key| m.number(key).unwrap());
        assert_eq!(numbers, [3.0, 4.0, 0.5]);
    }

    /// Band [0.5, 1.5]·H̄ around the H̄ of the step before, without a loss term, with one reference
    /// per turn index.
    #[test]
    fn the_band_is_reported_by_turn_index_without_a_penalty() {
        use crate::entropy::config::{EntropyConfig, EntropyMethod, HistoryConfig};
        let history = HistoryConfig::Cumulative { per_turn: true };
        let config =
            EntropyConfig { method: EntropyMethod::None, history, ..EntropyConfig::paper_v2() };
        let mut control = config.build().unwrap();
        let mut step = |entropies: &[&[f32]]| {
            let entropy = step_entropy(&[trajectory(0, entropies, 0.0)]).unwrap();
            let mut m = Record::new("rl", 0);
            control.begin_step_with(0, entropy.clone()).unwrap();
            band_metrics(&mut m, &entropy, &control).unwrap();
            control.finish_step().unwrap();
            m
        };
        let first = step(&[&[2.0], &[4.0], &[1.0]]);
        assert!(first
            .to_json()
            .contains(r#""band/above":0.0,"band/below":0.0,"band/inside":0.0,"band_high":null"#));
        // Turn 0 at 0.5 H̄ is inside, turn 1 below, turn 2 above; turn 3 has no reference yet.
        let second = step(&[&[1.0, 1.0], &[1.9], &[1.6, 1.6], &[5.0, 5.0, 5.0]]);
        let numbers = [
            "band/below",
            "band/inside",
            "band/above",
            "band_low",
            "band_high",
            "entropy_reference",
        ];
        assert_eq!(
            numbers.map(|key| second.number(key).unwrap()),
            [0.125, 0.25, 0.25, 1.0, 3.0, 2.0]
        );
        assert!(
            second.to_json().contains(r#""entropy_reference_turn":[2.0,4.0,1.0,"NaN"]"#),
            "{}",
            second.to_json()
        );
    }

    #[test]
    fn a_group_of_equal_returns_has_no_variance() {
        let all: Vec<_> = [0, 0, 1, 1].iter().map(|&g| trajectory(g, &[&[1.0]], 0.0)).collect();
        assert_eq!(zero_variance_share(&all, &[1.0, 1.0, 0.0, 1.0]), 0.5);
    }
}
