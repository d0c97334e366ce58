//! A side of a comparison: a process that does one piece of work for every line it reads.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{ensure, Context, Result};

/// A process that answers every line with a line. It ends with this value.
pub(crate) struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    /// Starts a process, and returns it with the line that it prints when it is ready.
    pub(crate) fn start(command: &mut Command) -> Result<(Self, String)> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let mut side = Self {
            input: input.context("no stdin")?,
            output: BufReader::new(output.context("no stdout")?),
            child,
        };
        let ready = side.answer()?;
        Ok((side, ready))
    }

    /// Sends a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "it ended");
        Ok(line)
    }

    /// Returns the CPU seconds of the process so far, all threads (Linux; 0 elsewhere).
    pub(crate) fn cpu_seconds(&self) -> f64 {
        super::cpu_seconds_in(&self.proc_folder())
    }

    /// Returns the MB in `field` of the process's status (Linux; 0 elsewhere).
    pub(crate) fn memory(&self, field: &str) -> f64 {
        super::memory_in(&self.proc_folder(), field)
    }

    /// Resets the peak of the process's memory (Linux).
    pub(crate) fn forget_peak(&self) {
        super::forget_peak_in(&self.proc_folder());
    }

    fn proc_folder(&self) -> std::path::PathBuf {
        Path::new("/proc").join(self.child.id().to_string())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
