//! What a command-line program prints, and how its errors look.
// Each example uses a part of this module.
#![allow(dead_code)]

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use epo::console::note;
use epo::env::alfworld::AlfworldError;
use epo::{Error, Result};

/// Runs a program to its end. An error is one message without a stack trace, whatever
/// RUST_BACKTRACE says; the exit code is 2 if the settings or the input are wrong, and otherwise 1.
pub(crate) fn run(program: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    std::env::set_var("RUST_LIB_BACKTRACE", "0");
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("Error: {}", message(&error)));
            ExitCode::from(if is_input(&error) { 2 } else { 1 })
        }
    }
}

/// The error, with those of its causes that its own text does not contain.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}

/// Returns true for an error in the settings, in the command line or in a file that was given.
fn is_input(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Error>() {
        Some(Error::Io { source, .. }) => matches!(
            source.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::IsADirectory
                | ErrorKind::NotADirectory
                | ErrorKind::InvalidData
        ),
        Some(Error::World(error)) => error.is::<AlfworldError>(),
        Some(Error::Candle(_) | Error::Shape { .. } | Error::NonFinite { .. }) => false,
        Some(Error::EmptyMask { .. } | Error::Environment { .. }) => false,
        // The programs' own messages are about their arguments.
        Some(_) | None => true,
    }
}

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
