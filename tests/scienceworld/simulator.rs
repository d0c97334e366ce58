//! Finding the simulator, or skipping a test with a message.

use epo::env::scienceworld::{Installation, Provision};

/// Returns the simulator. Without one, prints a message and returns `None`, or fails if
/// `EPO_REQUIRE_SIMULATOR=1`.
pub(crate) fn installation() -> Option<Installation> {
    match Provision::default().install(&|line| eprintln!("{line}")) {
        Ok(installation) => Some(installation),
        Err(error) => skip(&error.to_string()),
    }
}

/// Prints why a test is skipped, or fails if `EPO_REQUIRE_SIMULATOR=1`.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let required = std::env::var("EPO_REQUIRE_SIMULATOR").is_ok_and(|value| value == "1");
    assert!(!required, "EPO_REQUIRE_SIMULATOR=1, but: {reason}");
    eprintln!("skipped: {reason}");
    None
}

/// Returns the number of environments that the tests play in parallel.
#[allow(dead_code, reason = "not every test file plays in parallel")]
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4)
}
