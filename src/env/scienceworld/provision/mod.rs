//! Provisioning: finds Java, the simulator and the gateway, and downloads what is missing.

pub(crate) mod install;
pub(crate) mod java;
pub(crate) mod packages;
pub(crate) mod runtime;
