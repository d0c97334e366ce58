//! Advantages: pure functions on slices.
