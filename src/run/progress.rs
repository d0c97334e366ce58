//! One line of progress that keeps moving: redrawn in place on a terminal, printed now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line is redrawn on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// How often an unfinished line is printed where standard error is not a terminal.
const REPRINT: Duration = Duration::from_secs(10);

/// Progress of one stretch of work with a known number of units, on standard error.
///
/// ```
/// let mut progress = epo::train::Progress::new("cloning", 3);
/// for i in 0..3 {
///     progress.set(i + 1, "loss 0.5");
/// }
/// progress.finish("loss 0.5");
/// ```
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: usize,
    done: usize,
    began: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Work of `total` units called `label`.
    pub fn new(label: impl Into<String>, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { label: label.into(), total, done: 0, began: Instant::now(), drawn: None, terminal }
    }

    /// Units that were done before this stretch began (a resumed run): they do not count as speed.
    pub fn starting_at(mut self, done: usize) -> Self {
        (self.done, self.total) = (0, self.total.saturating_sub(done));
        self
    }

    /// `done` units are done; `note` says how it goes.
    pub fn set(&mut self, done: usize, note: &str) {
        self.done = done;
        let pause = if self.terminal { REDRAW } else { REPRINT };
        if self.drawn.is_none_or(|at| at.elapsed() >= pause) {
            self.draw(note);
        }
    }

    /// Prints a line that stays.
    pub fn line(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    /// Replaces the line by its last state.
    pub fn finish(&mut self, note: &str) {
        let text = format!("{}: {note} ({})", self.label, clock(self.began.elapsed()));
        self.line(&text);
    }

    /// Time left at the speed so far, once there is one.
    pub fn left(&self) -> Option<Duration> {
        let remaining = self.total.saturating_sub(self.done) as f64;
        (self.done > 0).then(|| self.began.elapsed().mul_f64(remaining / self.done as f64))
    }

    fn draw(&mut self, note: &str) {
        self.drawn = Some(Instant::now());
        let left = self.left().map_or(String::new(), |d| format!("  {} left", clock(d)));
        let text = format!("{} {}/{}  {note}{left}", self.label, self.done, self.total);
        let (before, after) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        self.write(&format!("{before}{text}{after}"));
    }

    /// A closed standard error must not end a training run.
    fn write(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// `m:ss`, or `h:mm:ss` from an hour on.
pub fn clock(time: Duration) -> String {
    let s = time.as_secs();
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        h => format!("{h}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_has_hours_only_when_needed() {
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(3725)), "1:02:05");
    }

    #[test]
    fn time_left_needs_something_done() {
        let mut p = Progress::new("x", 4);
        assert!(p.left().is_none());
        p.set(4, "");
        assert_eq!(p.left(), Some(Duration::ZERO));
    }
}
