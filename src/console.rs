//! Lines on standard error.
//!
//! `eprintln!` panics if the line cannot be written: a run would end because the terminal it was
//! started from was closed, or because a log is on a full disk.

use std::fmt::Display;
use std::io::Write;

/// Writes a line on standard error. A line that cannot be written is dropped.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
