//! A progress line on standard error: redrawn on a terminal, printed at intervals elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two redraws on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two lines if standard error is not a terminal.
const REPRINT: Duration = Duration::from_secs(10);

/// Progress of a task with a known number of units, on standard error.
///
/// ```
/// let mut progress = epo::run::Progress::new("cloning", 3);
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
    /// Units that a resumed run did before.
    before: usize,
    began: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts the progress of `total` units of work under a label.
    pub fn new(label: impl Into<String>, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let label = label.into();
        let began = Instant::now();
        Self { label, total, done: 0, before: 0, began, drawn: None, terminal }
    }

    /// Counts units that a resumed run did before; the remaining time is estimated from the others.
    #[must_use]
    pub fn starting_at(self, done: usize) -> Self {
        Self { done, before: done, ..self }
    }

    /// Sets the number of finished units without showing it.
    pub fn advance_to(&mut self, done: usize) {
        self.done = done;
    }

    /// Sets the number of finished units and shows it with a note, for example the loss.
    pub fn set(&mut self, done: usize, note: &str) {
        self.advance_to(done);
        let pause = if self.terminal { REDRAW } else { REPRINT };
        if self.drawn.is_none_or(|at| at.elapsed() >= pause) {
            self.draw(note);
        }
    }

    /// Prints a permanent line above the progress line.
    pub fn line(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
        if !self.terminal {
            // A log that has just got a line needs no sign of life yet.
            self.drawn = Some(Instant::now());
        }
    }

    /// Replaces the progress line by a final one with the note and the time taken.
    pub fn finish(&mut self, note: &str) {
        let text = format!("{}: {note} ({})", self.label, clock(self.began.elapsed()));
        self.line(&text);
    }

    /// The estimated remaining time at the average speed so far; `None` before the first unit.
    pub fn left(&self) -> Option<Duration> {
        let remaining = self.total.saturating_sub(self.done) as f64;
        let done = self.done.saturating_sub(self.before);
        (done > 0).then(|| self.began.elapsed().mul_f64(remaining / done as f64))
    }

    fn draw(&mut self, note: &str) {
        self.drawn = Some(Instant::now());
        let text = self.text(note);
        let (before, after) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        self.write(&format!("{before}{text}{after}"));
    }

    fn text(&self, note: &str) -> String {
        let left = self.left().map_or(String::new(), |d| format!("  {} left", clock(d)));
        format!("{} {}/{}  {note}{left}", self.label, self.done, self.total)
    }

    /// Writes to standard error. A closed standard error must not end a run.
    fn write(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Formats a duration as `m:ss`, or as `h:mm:ss` from one hour on.
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

    #[test]
    fn a_resumed_run_counts_all_steps_and_times_its_own() {
        let mut progress = Progress::new("step", 20).starting_at(8);
        assert!(progress.left().is_none(), "nothing was timed yet");
        assert_eq!(progress.text("playing"), "step 8/20  playing");
        progress.advance_to(9);
        progress.began = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        assert_eq!(progress.left().unwrap().as_secs(), 110, "11 steps of 10 seconds");
        assert!(progress.text("playing").starts_with("step 9/20  playing  1:5"));
    }
}
