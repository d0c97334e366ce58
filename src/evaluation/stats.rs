//! Means and paired gains with 95 % intervals, for evaluations.
//!
//! Evaluations are small: a few dozen tasks with a few episodes each. A mean without an interval
//! says little there, and the gain of a run is smaller than the spread between its tasks. Intervals
//! of gains are therefore computed from per-task differences.

use std::collections::BTreeMap;

use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use crate::rng::{Purpose, Stream};

/// A mean with its two-sided 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Number of values.
    pub n: usize,
}

const RESAMPLES: usize = 2000;
/// Φ⁻¹(0.975).
const Z: f64 = 1.959_963_984_540_054;

/// Returns x̄ with its percentile bootstrap interval.
///
/// Its ends are the 2.5 % and 97.5 % quantiles of the means of 2000 resamples. The draws depend on
/// `seed` and n only. For n = 0 everything is NaN. For n = 1 or equal values the interval has width
/// 0. Source: Efron & Tibshirani 1993, §13.3.
///
/// ```
/// let scores = [0.0, 10.0, 100.0, 35.0];
/// let interval = epo::evaluation::bootstrap_mean(&scores, 0);
/// assert_eq!(interval.mean, 36.25);
/// assert!(interval.low < 36.25 && 36.25 < interval.high);
/// ```
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Interval {
    let n = values.len();
    if n == 0 {
        return Interval { mean: f64::NAN, low: f64::NAN, high: f64::NAN, n };
    }
    let mut rng = Stream::new(seed, Purpose::Bootstrap, 0, 0, 0).generator(0);
    let mut draw = || values[((u128::from(rng.next_u64()) * n as u128) >> 64) as usize];
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| draw()).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    Interval { mean: mean(values), low: quantile(&means, 0.025), high: quantile(&means, 0.975), n }
}

/// Returns p̂ = s/n with its Wilson score interval,
/// (p̂ + z²/2n ± z√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n) with z = 1.96.
///
/// Unlike the normal interval it stays inside [0, 1] and has a width at p̂ = 0 and 1. For n = 0 the
/// mean is NaN and the interval [0, 1]. Successes above n count as n. Source: Wilson 1927.
///
/// ```
/// let interval = epo::evaluation::wilson(0, 10);
/// assert!(interval.low == 0.0 && (interval.high - 0.2775).abs() < 1e-4);
/// ```
pub fn wilson(successes: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { mean: f64::NAN, low: 0.0, high: 1.0, n };
    }
    let count = n as f64;
    let p = successes.min(n) as f64 / count;
    let scale = 1.0 + Z * Z / count;
    let centre = (p + Z * Z / (2.0 * count)) / scale;
    let half = Z * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt() / scale;
    // At p̂ = 0 and 1 the ends are exactly 0 and 1; rounding must not change that.
    let low = if p == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Interval { mean: p, low, high, n }
}

/// The gain between two evaluations of the same tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedGain {
    /// Mean over the tasks in the first evaluation.
    pub before: f64,
    /// Mean over the same tasks in the second evaluation.
    pub after: f64,
    /// Mean difference of a task, second − first, with its 95 % interval; `n` counts tasks.
    pub gain: Interval,
}

/// Returns d̄ = (1/n) Σ_task (x̄_after − x̄_before) with its percentile bootstrap interval.
///
/// x̄ is the mean over a task's episodes. The bootstrap draws tasks; pairing removes the tasks'
/// different difficulty from the interval. Tasks without episodes on one side are left out; without
/// common tasks everything is NaN and n = 0. The draws depend on `seed` and n only. Source: Efron &
/// Tibshirani 1993, §8.3 (paired data: the pairs are resampled).
///
/// ```
/// use std::collections::BTreeMap;
/// let before = BTreeMap::from([("a", vec![0.0, 1.0]), ("b", vec![0.0])]);
/// let after = BTreeMap::from([("a", vec![1.0]), ("b", vec![1.0]), ("c", vec![0.0])]);
/// let paired = epo::evaluation::paired_gain(&before, &after, 0);
/// assert_eq!((paired.before, paired.after), (0.25, 1.0));
/// assert_eq!((paired.gain.mean, paired.gain.n), (0.75, 2));
/// ```
pub fn paired_gain<K: Ord>(
    before: &BTreeMap<K, Vec<f64>>,
    after: &BTreeMap<K, Vec<f64>>,
    seed: u64,
) -> PairedGain {
    let mut firsts = Vec::new();
    let mut seconds = Vec::new();
    let mut gains = Vec::new();
    for (task, xs) in before {
        let Some(ys) = after.get(task) else { continue };
        if xs.is_empty() || ys.is_empty() {
            continue;
        }
        let first = mean(xs);
        let second = mean(ys);
        firsts.push(first);
        seconds.push(second);
        gains.push(second - first);
    }
    let gain = bootstrap_mean(&gains, seed);
    PairedGain { before: mean(&firsts), after: mean(&seconds), gain }
}

/// x̄; NaN without values.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The q-quantile of sorted values, linear between order statistics (Hyndman & Fan 1996, type 7).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    let above = sorted[at.ceil() as usize];
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The closed form, evaluated in Python.
    #[test]
    fn wilson_known_values() {
        for (s, n, low, high) in
            [(5, 10, 0.236593, 0.763407), (1, 1, 0.206549, 1.0), (30, 40, 0.598060, 0.858129)]
        {
            let i = wilson(s, n);
            assert!((i.low - low).abs() < 1e-6 && (i.high - high).abs() < 1e-6, "{s}/{n}: {i:?}");
        }
        let none = wilson(0, 0);
        assert!(none.mean.is_nan() && none.low == 0.0 && none.high == 1.0);
        assert_eq!((wilson(0, 7).low, wilson(7, 7).high), (0.0, 1.0));
    }

    #[test]
    fn bootstrap_is_seeded_and_defined_at_the_edges() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i * i % 17)).collect();
        assert_eq!(bootstrap_mean(&values, 3), bootstrap_mean(&values, 3));
        assert_ne!(bootstrap_mean(&values, 3), bootstrap_mean(&values, 4));
        assert!(bootstrap_mean(&[], 0).mean.is_nan());
        assert_eq!(bootstrap_mean(&[4.0], 0), Interval { mean: 4.0, low: 4.0, high: 4.0, n: 1 });
    }

    /// Four tasks, one of them not played again. Means by hand; the interval's ends are attainable
    /// means.
    #[test]
    fn gains_are_paired_by_task_and_not_by_episode() {
        let before = BTreeMap::from([
            (1, vec![0.0, 0.0, 1.0, 1.0]),
            (2, vec![1.0]),
            (3, vec![0.0]),
            (4, vec![1.0]),
        ]);
        let after = BTreeMap::from([
            (1, vec![1.0]),
            (2, vec![1.0, 1.0]),
            (3, vec![0.0, 1.0]),
            (5, vec![0.0]),
        ]);
        let paired = paired_gain(&before, &after, 0);
        assert_eq!((paired.before, paired.gain.n), (0.5, 3));
        assert!(
            (paired.after - 2.5 / 3.0).abs() < 1e-15
                && (paired.gain.mean - 1.0 / 3.0).abs() < 1e-15
        );
        assert_eq!((paired.gain.low, paired.gain.high), (0.0, 0.5));
        assert_eq!(paired, paired_gain(&before, &after, 0));
        let reversed = paired_gain(&after, &before, 0);
        assert!((reversed.gain.mean + paired.gain.mean).abs() < 1e-15 && reversed.gain.low < 0.0);
        let none = paired_gain(&before, &BTreeMap::new(), 0);
        assert!(none.gain.n == 0 && none.gain.mean.is_nan() && none.before.is_nan());
    }

    /// The ends of the exact bootstrap distribution of 30 gains, by convolution in Python.
    /// Resampling may miss them by one step of its lattice.
    #[test]
    fn the_interval_of_gains_is_the_exact_one() {
        let gains = [(12, 0.0), (10, 1.0), (3, -1.0), (5, 0.5)];
        let gains = gains.into_iter().flat_map(|(n, gain)| std::iter::repeat_n(gain, n));
        let after: BTreeMap<usize, Vec<f64>> =
            gains.map(|gain| vec![2.0 + gain]).enumerate().collect();
        let before = after.keys().map(|&task| (task, vec![2.0])).collect();
        let gain = paired_gain(&before, &after, 0).gain;
        let lattice = 0.5 / 30.0 + 1e-12;
        assert!((gain.mean - 0.316_666_666_666_666_65).abs() < 1e-12, "{gain:?}");
        assert!(
            (gain.low - 0.1).abs() < lattice && (gain.high - 0.533_333_333).abs() < lattice,
            "{gain:?}"
        );
    }

    /// Tasks of very different difficulty with the same gain: the gain has no uncertainty.
    #[test]
    fn pairing_removes_the_spread_between_tasks() {
        let of = |shift: f64| {
            (0..20).map(|i| (i, vec![f64::from(i) / 32.0 + shift])).collect::<BTreeMap<_, _>>()
        };
        let paired = paired_gain(&of(0.0), &of(0.25), 0);
        assert_eq!((paired.gain.low, paired.gain.high), (0.25, 0.25));
    }

    /// For 400 values the bootstrap agrees with x̄ ± 1.96 s/√n within a tenth of the half-width.
    #[test]
    fn bootstrap_width_is_the_normal_one_for_large_n() {
        let stream = Stream::new(9, Purpose::Evaluation, 0, 0, 0);
        let values: Vec<f64> = (0..400).map(|i| stream.uniform(0, i)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let sd = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let half = Z * sd / n.sqrt();
        let interval = bootstrap_mean(&values, 0);
        assert!((interval.low - (mean - half)).abs() < 0.1 * half, "{interval:?}");
        assert!((interval.high - (mean + half)).abs() < 0.1 * half, "{interval:?}");
    }

    /// About 95 of 100 intervals of independent samples cover the true mean (0.5); 30 values each.
    #[test]
    fn bootstrap_covers() {
        let covered = (0..200).filter(|&k| {
            let stream = Stream::new(k, Purpose::Tasks, 0, 0, 0);
            let values: Vec<f64> = (0..30).map(|i| stream.uniform(0, i)).collect();
            let interval = bootstrap_mean(&values, k);
            interval.low <= 0.5 && 0.5 <= interval.high
        });
        let covered = covered.count();
        assert!((180..=198).contains(&covered), "{covered} of 200");
    }
}
