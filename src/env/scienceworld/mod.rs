//! The real ScienceWorld simulator (Wang et al. 2022; scienceworld 1.2.3), natively: a Java process driven
//! over loopback, no Python.
//!
//! ```text
//!  Provision ──▶ Installation { java, jars } ──▶ Jvm ──▶ Simulator (one per class loader)
//!                                                             │ raw calls
//!          ScienceWorldPool ──▶ ScienceWorld: Environment ◀───┴───▶ OfficialClient: the wrapper's frames
//! ```
//! The pages of `docs/SCIENCEWORLD.md` tell about determinism, call patterns, provisioning and licences.

mod calls;
mod client;
mod config;
mod demonstrate;
mod environment;
mod error;
mod fetch;
mod host;
mod index;
mod link;
mod memory;
mod pool;
mod process;
mod protocol;
mod provision;
mod tasks;
mod wheels;

pub use client::{Frame, OfficialClient, Simulator};
pub use config::{CallPattern, ScienceWorldConfig, SuccessRule};
pub use demonstrate::DemonstrationConfig;
pub use environment::ScienceWorld;
pub use error::SimulatorError;
pub use link::Endpoint;
pub use pool::ScienceWorldPool;
pub use process::{Jvm, JvmConfig};
pub use provision::{Installation, Provision};
pub use tasks::{
    check_simplification, check_task, task_names, variation_count, variations, Split, SIMPLIFICATIONS,
};
