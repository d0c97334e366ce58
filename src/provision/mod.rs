//! Files from pinned Python wheels, downloaded once into the user's cache and verified.

pub(crate) mod cache;
#[cfg(test)]
pub(crate) mod fake_index;
pub(crate) mod file;
pub(crate) mod index;
pub(crate) mod scratch;
pub(crate) mod wheel;
