//! The trainer on the toy environment: it learns, it repeats, it resumes, and it says what is
//! wrong.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "text")]

mod driver;
#[cfg(target_os = "linux")]
mod durable;
mod evaluation;
mod faults;
mod input;
mod learning;
mod ppo;
mod pretrained;
mod prompts;
mod repeat;
#[cfg(all(feature = "alfworld", feature = "scienceworld"))]
mod settings;
mod shaping;
