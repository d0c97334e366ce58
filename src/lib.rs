//! Entropy-controlled reinforcement learning of multi-turn LLM agents, in pure Rust on candle.
//!
//! `epo` implements EPO (Entropy-regularized Policy Optimization, arXiv 2509.22576): the entropy of an
//! agent's trajectories is regularised, held inside a band around its own history, with a weight β that
//! changes over training.
//!
//! ```text
//!  Environment ──observation──▶ prompt ──token ids──▶ Policy decode ──action text──▶ Environment
//!                                        │ ids, log-probs, entropies per token, per turn
//!                                        ▼
//!   Trajectory { turns } ──advantage──▶ Batch { rows, masks, turn index }
//!                                        │
//!                      Policy forward (autograd) ─▶ hidden states
//!                                        ▼
//!             kernels: hidden × head ─▶ log-prob, entropy   [rows, tokens]
//!                                        ▼
//!    objective: policy loss + KL + value + EntropyRegularizer(EntropyHistory, AdaptiveBeta)
//!                                        ▼
//!               backward ─▶ optimiser ─▶ recorder, checkpoint ─▶ next step
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod advantage;
pub mod entropy;
pub mod env;
mod error;
#[cfg(feature = "text")]
pub mod evaluation;
pub mod files;
pub mod kernels;
pub mod objective;
pub mod optim;
pub mod policy;
#[cfg(feature = "report")]
pub mod report;
pub mod rng;
#[cfg(feature = "text")]
pub mod rollout;
#[cfg(feature = "text")]
pub mod run;
#[cfg(feature = "text")]
pub mod train;
#[cfg(feature = "text")]
pub mod worlds;

pub use error::{Error, Result};

// Under this name, device tests call the operators from inside and from outside the crate.
#[cfg(test)]
extern crate self as epo;

/// The README's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
