//! What a command-line program prints, and how its errors look.
// Each example uses a part of this module.
#![allow(dead_code)]

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use epo::{Error, Result};

/// Prints text on standard output. If nobody reads it any more (`| head`), the program ends.
pub(crate) fn print(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|e| Error::io("standard output", e)),
    }
}

/// [`print`] with a line end.
pub(crate) fn print_line(text: impl Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// Prints the errors of `main` without a stack trace, whatever RUST_BACKTRACE says.
pub(crate) fn plain_errors() {
    std::env::set_var("RUST_LIB_BACKTRACE", "0");
}
