//! Ctrl-C as a request to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A flag that Ctrl-C raises, so that the step in progress can be finished and saved; a second Ctrl-C ends the process.
///
/// # Errors
/// [`Error::Setting`] where the process already handles Ctrl-C in another way.
pub fn stop_on_ctrl_c() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing this step; press Ctrl-C again to quit at once");
    };
    match ctrlc::set_handler(handler) {
        Ok(()) => Ok(&STOP),
        Err(error) => Err(Error::setting("Ctrl-C handler", "stop", error.to_string())),
    }
}
