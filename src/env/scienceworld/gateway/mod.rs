//! The Java process and the protocol spoken with it.

pub(crate) mod host;
pub(crate) mod link;
pub(crate) mod process;
pub(crate) mod protocol;
