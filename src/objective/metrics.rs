//! Named numbers that add up over micro-batches.

use std::collections::BTreeMap;

/// Metrics of one loss term: sums, which add up over the micro-batches of a step, and maxima.
///
/// Every sum already carries its share of the whole batch, so that merging the micro-batches of a
/// step gives the batch's value, exactly as their losses and gradients do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    sums: BTreeMap<String, f64>,
    maxima: BTreeMap<String, f64>,
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value` to the sum `name`.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        *self.sums.entry(name.into()).or_insert(0.0) += value;
    }

    /// Raises the maximum `name` to at least `value`.
    pub fn max(&mut self, name: impl Into<String>, value: f64) {
        let slot = self.maxima.entry(name.into()).or_insert(f64::NEG_INFINITY);
        *slot = slot.max(value);
    }

    /// Merges another micro-batch (or another term) into this one: sums add, maxima take the
    /// larger.
    pub fn merge(&mut self, other: &Metrics) {
        for (name, value) in &other.sums {
            self.add(name.as_str(), *value);
        }
        for (name, value) in &other.maxima {
            self.max(name.as_str(), *value);
        }
    }

    /// The sums times `factor`, the maxima as they are.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for sum in self.sums.values_mut() {
            *sum *= factor;
        }
        self
    }

    /// The value of one metric, sum or maximum.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.sums.get(name).or_else(|| self.maxima.get(name)).copied()
    }

    /// All metrics, sums first, each kind sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.sums.iter().chain(&self.maxima).map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_add_and_maxima_take_the_larger() {
        let mut a = Metrics::new();
        a.add("kl", 0.25);
        a.max("ratio_max", 1.5);
        let mut b = Metrics::new();
        b.add("kl", 0.5);
        b.max("ratio_max", 1.25);
        a.merge(&b);
        assert_eq!(a.iter().collect::<Vec<_>>(), [("kl", 0.75), ("ratio_max", 1.5)]);
        assert_eq!(a.get("absent"), None);
        assert_eq!(a.scaled(2.0).iter().collect::<Vec<_>>(), [("kl", 1.5), ("ratio_max", 1.5)]);
    }
}
