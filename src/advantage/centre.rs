//! Differences from a mean that are exactly 0 if all samples are equal.
//!
//! The mean of eight rewards of 0.7 is 0.7000000000000001 in floating point. Divided by the
//! standard deviation of such rounding errors, equal rewards would get advantages.

/// The largest relative difference between samples that count as equal.
const ROUNDING: f64 = 1e-12;

/// The mean of samples, and whether they differ by more than rounding errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Centre {
    pub(crate) mean: f64,
    /// Differences up to this size are rounding errors; 0 if the samples are not equal.
    rounding: f64,
}

impl Centre {
    /// The centre of `samples`, whose mean is `mean`.
    pub(crate) fn new(samples: impl Iterator<Item = f64>, mean: f64) -> Self {
        let mut lowest = f64::INFINITY;
        let mut highest = f64::NEG_INFINITY;
        for sample in samples {
            lowest = lowest.min(sample);
            highest = highest.max(sample);
        }
        let rounding = if equal(lowest, highest) { rounding(lowest, highest) } else { 0.0 };
        Self { mean, rounding }
    }

    /// x − mean; 0 if all samples are equal and x is one of them.
    pub(crate) fn difference(&self, x: f64) -> f64 {
        let difference = x - self.mean;
        if difference.abs() <= self.rounding {
            0.0
        } else {
            difference
        }
    }
}

/// Returns true if two scores, the lower one first, differ by a rounding error at most.
pub(crate) fn equal(lowest: f64, highest: f64) -> bool {
    highest - lowest <= rounding(lowest, highest)
}

fn rounding(lowest: f64, highest: f64) -> f64 {
    ROUNDING * lowest.abs().max(highest.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(samples: &[f64]) -> Vec<f64> {
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let centre = Centre::new(samples.iter().copied(), mean);
        samples.iter().map(|&x| centre.difference(x)).collect()
    }

    #[test]
    fn equal_samples_have_no_differences_and_others_keep_theirs() {
        assert_eq!(differences(&[0.7; 8]), [0.0; 8]);
        assert_eq!(differences(&[0.1 + 0.2, 0.3, 0.3]), [0.0; 3]);
        assert_eq!(differences(&[-1e9 / 3.0; 7]), [0.0; 7]);
        assert_eq!(differences(&[0.0; 3]), [0.0; 3]);
        assert_eq!(differences(&[0.0, 1e-300]), [-5e-301, 5e-301]);
        assert_eq!(
            differences(&[1.0, 1.0 + 4e-12]),
            [-2e-12, 2e-12].map(|x: f64| (1.0 + 2e-12 + x) - (1.0 + 2e-12))
        );
    }
}
