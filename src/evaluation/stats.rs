//! Means with 95 % intervals, for evaluation panels.

use std::collections::BTreeMap;

use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use crate::rng::{Purpose, Stream};

/// A mean and its two-sided 95 % interval over `n` episodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many values it rests on.
    pub n: usize,
}

const RESAMPLES: usize = 2000;
/// Φ⁻¹(0.975).
const Z: f64 = 1.959_963_984_540_054;

/// x̄ with the percentile bootstrap interval: the 2.5 % and 97.5 % quantiles of the means of 2000 resamples.
///
/// The draws depend on `seed` and n only. n = 0: everything NaN. n = 1, or equal values: an interval of width 0,
/// since the resamples know no spread. Source: Efron & Tibshirani 1993, §13.3.
///
/// ```
/// let scores = [0.0, 10.0, 100.0, 35.0];
/// let interval = epo::train::bootstrap_mean(&scores, 0);
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
    let mean = values.iter().sum::<f64>() / n as f64;
    Interval { mean, low: quantile(&means, 0.025), high: quantile(&means, 0.975), n }
}

/// p̂ = s/n with the Wilson score interval (p̂ + z²/2n ± z√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n), z = 1.96.
///
/// Stays inside [0, 1] and has width at p̂ = 0 and 1, unlike the normal interval. n = 0: mean NaN, interval
/// [0, 1]. Successes above n count as n. Source: Wilson 1927.
///
/// ```
/// let interval = epo::train::wilson(0, 10);
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
    // At p̂ = 0 and 1 the ends are 0 and 1 exactly; rounding must not say otherwise.
    let low = if p == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Interval { mean: p, low, high, n }
}

/// What changed between two evaluations of the same tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedGain {
    /// Mean over the tasks before.
    pub before: f64,
    /// Mean over the same tasks after.
    pub after: f64,
    /// Mean of the tasks' differences after − before, with its 95 % interval; `n` counts tasks.
    pub gain: Interval,
}

/// d̄ = (1/n) Σ_task (x̄_after − x̄_before) with a percentile bootstrap interval over tasks: pairing takes the tasks'
/// different difficulty out of the interval.
///
/// x̄ is the mean over a task's episodes. Tasks that only one side has episodes of are left out; without common tasks
/// everything is NaN and n = 0. The draws depend on `seed` and n only. Source: Efron & Tibshirani 1993, §8.3 (paired
/// data: the pairs are resampled).
///
/// ```
/// use std::collections::BTreeMap;
/// let before = BTreeMap::from([("a", vec![0.0, 1.0]), ("b", vec![0.0])]);
/// let after = BTreeMap::from([("a", vec![1.0]), ("b", vec![1.0]), ("c", vec![0.0])]);
/// let paired = epo::train::paired_gain(&before, &after, 0);
/// assert_eq!((paired.before, paired.after, paired.gain.mean, paired.gain.n), (0.25, 1.0, 0.75, 2));
/// ```
pub fn paired_gain<K: Ord>(
    before: &BTreeMap<K, Vec<f64>>,
    after: &BTreeMap<K, Vec<f64>>,
    seed: u64,
) -> PairedGain {
    let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
    let played = before.iter().filter_map(|(task, xs)| Some((xs, after.get(task)?)));
    let pairs: Vec<(f64, f64)> = played
        .filter(|(x, y)| !x.is_empty() && !y.is_empty())
        .map(|(x, y)| (mean(x), mean(y)))
        .collect();
    let [mut xs, mut ys, mut gains] = [const { Vec::new() }; 3];
    for (x, y) in pairs {
        xs.push(x);
        ys.push(y);
        gains.push(y - x);
    }
    PairedGain { before: mean(&xs), after: mean(&ys), gain: bootstrap_mean(&gains, seed) }
}

/// The q-quantile of sorted values, linear between order statistics (Hyndman & Fan 1996, type 7).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
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

    /// Four tasks, of which one was not played again; means by hand, and the interval's ends are attainable means.
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

    /// The ends of the exact bootstrap distribution of 30 gains, by convolution in Python; resampling may miss them by one
    /// step of its lattice.
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

    /// Tasks of very different difficulty that all gain the same: nothing is uncertain about the gain.
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
