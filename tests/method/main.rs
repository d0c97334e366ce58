//! The method: its golden numbers, gradients, invariances, and the order of its events.
#![allow(clippy::unwrap_used)]

mod dtypes;
mod entropy_control;
mod golden;
mod gradients;
mod invariance;
#[path = "../support/mod.rs"]
mod support;
