//! Ctrl-C as a request to stop after the current step.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::console::note;
use crate::{Error, Result};

/// Installs a Ctrl-C handler and returns the flag that it sets.
///
/// A training loop checks the flag to finish and save its current step. A second Ctrl-C ends the
/// process at once.
///
/// # Errors
/// [`Error::Setting`] if the process already has a Ctrl-C handler.
pub fn stop_on_ctrl_c() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note("\nfinishing this step; press Ctrl-C again to quit now");
    };
    match ctrlc::set_handler(handler) {
        Ok(()) => Ok(&STOP),
        Err(error) => Err(Error::setting("Ctrl-C handler", "stop", error.to_string())),
    }
}
