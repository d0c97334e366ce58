//! What the simulator's tests share: finding it, or skipping with a message.

use epo::env::scienceworld::{Installation, Provision};

/// The simulator, or `None` with a message where it cannot be had; with `EPO_REQUIRE_SIMULATOR=1` that is
/// a failure.
pub(crate) fn installation() -> Option<Installation> {
    match Provision::default().install(&|line| eprintln!("{line}")) {
        Ok(installation) => Some(installation),
        Err(error) => skip(&error.to_string()),
    }
}

/// Says why a test is skipped, or fails where skipping is forbidden.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let required = std::env::var("EPO_REQUIRE_SIMULATOR").is_ok_and(|value| value == "1");
    assert!(!required, "EPO_REQUIRE_SIMULATOR=1, but: {reason}");
    eprintln!("skipped: {reason}");
    None
}

/// How many environments the tests play at once.
#[allow(dead_code, reason = "not every test file plays in parallel")]
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4)
}
