//! What a step's trajectories say about the run, whatever the loss.

use std::collections::BTreeMap;

use super::Record;
use crate::entropy::StepEntropy;
use crate::rollout::{End, Trajectory};
use crate::Result;

/// The entropy statistic of a step's rollouts, by turn index.
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

/// The token mean over the turn indices in `range`, nats (0 without tokens).
fn mean_over(step: &StepEntropy, range: std::ops::Range<usize>) -> f64 {
    let (sum, count) = range.fold((0.0, 0.0), |(sum, count), turn| {
        let n = step.count(turn) as f64;
        (sum + step.turn_mean(turn).unwrap_or(0.0) * n, count + n)
    });
    if count > 0.0 {
        sum / count
    } else {
        0.0
    }
}

/// Success, score, lengths, validity and entropy of a step's trajectories with their `returns`.
///
/// `entropy_early` and `entropy_late` are the token means over the first and the last third of the turn
/// indices that occur; `zero_variance_groups` is the share of groups whose members all have the same return
/// and so teach GRPO nothing.
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
    values.into_iter().for_each(|(key, value)| record.set(key, value));
    let turns: Vec<f64> = (0..indices).map(|t| entropy.turn_mean(t).unwrap_or(0.0)).collect();
    record.set("entropy_turn", turns);
}

/// Share of groups in which every return is the same.
fn zero_variance_share(trajectories: &[Trajectory], returns: &[f64]) -> f64 {
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (t, &r) in trajectories.iter().zip(returns) {
        groups.entry(t.group).or_default().push(r);
    }
    let flat = groups.values().filter(|g| g.iter().all(|r| *r == g[0])).count();
    flat as f64 / groups.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Start, Task};
    use crate::rollout::Turn;

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
        Trajectory {
            task: Task { name: "t".into(), variation: 0 },
            group,
            member: 0,
            start: Start { goal: String::new(), observation: String::new() },
            turns: entropies.iter().map(turn).collect(),
            success: score == 100.0,
            end: End::Done,
        }
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
    fn a_group_with_one_return_teaches_nothing() {
        let all: Vec<_> = [0, 0, 1, 1].iter().map(|&g| trajectory(g, &[&[1.0]], 0.0)).collect();
        assert_eq!(zero_variance_share(&all, &[1.0, 1.0, 0.0, 1.0]), 0.5);
    }
}
