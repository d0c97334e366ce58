//! Draws run folders as one self-contained HTML page or SVG picture, or prints their gains.
//!
//! ```text
//! cargo run --release --example report -- runs/sciworld_grpo [RUN...] [--out report.html]
//! cargo run --release --example report -- runs/sciworld_grpo [RUN...] --svg report.svg
//! cargo run --release --example report -- runs/seed0 runs/seed1 --gains
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use epo::evaluation::{gains_table, read_outcomes, task_set_gains};
use epo::files::atomic_write;
use epo::report::{render_report, render_svg};

use output::{print, print_line};

#[path = "common/output.rs"]
mod output;

#[derive(Parser)]
#[command(about = "Draw run folders as one self-contained HTML page or SVG picture")]
struct Args {
    /// Run folders (those that hold a metrics.jsonl)
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the first run folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write an SVG picture of success and entropy instead of the page
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    svg: Option<PathBuf>,
    /// Print the gains from first to last evaluation, paired by task, instead of writing a page
    #[arg(long, conflicts_with_all = ["out", "svg"])]
    gains: bool,
}

fn main() -> ExitCode {
    output::run(report)
}

fn report() -> anyhow::Result<()> {
    let Args { runs, out, svg, gains } = Args::parse();
    if gains {
        return print_gains(&runs);
    }
    let (path, content) = match svg {
        Some(path) => (path, render_svg(&runs)?),
        None => (out.unwrap_or_else(|| runs[0].join("report.html")), render_report(&runs)?),
    };
    atomic_write(&path, content)?;
    print_line(format_args!("wrote {}", path.display()))?;
    Ok(())
}

fn print_gains(runs: &[PathBuf]) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for run in runs {
        outcomes.push((run.display().to_string(), read_outcomes(run)?));
    }
    let gains = task_set_gains(&outcomes);
    anyhow::ensure!(!gains.is_empty(), "these runs have no task set that was evaluated twice");
    print(gains_table(&gains))?;
    Ok(())
}
