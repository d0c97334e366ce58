//! The Java process, and the protocol for remote calls to it.

pub(crate) mod folder;
pub(crate) mod link;
pub(crate) mod process;
pub(crate) mod protocol;
