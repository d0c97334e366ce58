//! The real ScienceWorld simulator (Wang et al. 2022; scienceworld 1.2.3), without Python: a Java
//! process that is called over loopback.
//!
//! ```text
//!  Provision ──▶ Installation { java, jars } ──▶ Jvm ──▶ Simulator (one per class loader)
//!                                                            │ raw calls
//!       ScienceWorldPool ──▶ ScienceWorld: Environment ◀─────┴─────▶ OfficialClient: frames
//! ```
//! Determinism, call patterns, provisioning and licences are described in `docs/SCIENCEWORLD.md`.

pub(crate) mod calls;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod demonstrate;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod gateway;
pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod provision;
pub(crate) mod tasks;

pub use client::{Frame, OfficialClient, Simulator};
pub use config::{CallPattern, ScienceWorldConfig, SuccessRule};
pub use demonstrate::DemonstrationConfig;
pub use environment::ScienceWorld;
pub use error::SimulatorError;
pub use gateway::link::Endpoint;
pub use gateway::process::{Jvm, JvmConfig};
pub use pool::ScienceWorldPool;
pub use provision::install::{Installation, Provision};
pub use tasks::{
    check_simplification, check_task, task_names, variation_count, variations, Split,
    SIMPLIFICATIONS,
};
