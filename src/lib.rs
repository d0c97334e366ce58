//! Entropy-controlled reinforcement learning of multi-turn LLM agents, in pure Rust on candle.
//!
//! `epo` implements EPO (Entropy-regularized Policy Optimization, arXiv 2509.22576): the policy's
//! entropy is regularised and held inside a band around its own history, with a weight β that
//! changes over training. Around the method stand the parts of a complete trainer: environments,
//! rollouts, a decoder policy with its kernels, advantages, losses, an optimiser, run folders and
//! reports.
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
//!
//! To add EPO to a loop of your own, start with [`entropy::EntropyControl`] and
//! [`objective::policy_loss`]. To train an agent in a world of your own, implement
//! [`env::Environment`] and open a `train::Trainer`.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod advantage;
pub mod console;
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
#[cfg(any(feature = "scienceworld", feature = "models"))]
mod provision;
#[cfg(feature = "report")]
pub mod report;
pub mod rng;
#[cfg(feature = "text")]
pub mod rollout;
#[cfg(feature = "text")]
pub mod run;
pub mod settings;
#[cfg(feature = "text")]
mod threads;
#[cfg(feature = "text")]
pub mod train;
#[cfg(feature = "text")]
pub mod worlds;

pub use error::{Error, Result};

// Under this name, device tests call the operators from inside and from outside the crate.
#[cfg(test)]
extern crate self as epo;

/// Compiles and runs the README's code.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
