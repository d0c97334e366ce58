//! Draws one or several run folders as one self-contained HTML page, or prints what they gained.
//!
//! ```text
//! cargo run --release --example report -- runs/sciworld_grpo [RUN...] [--out report.html]
//! cargo run --release --example report -- runs/seed0 runs/seed1 --gains
//! ```

use std::path::PathBuf;

use clap::Parser;
use epo::evaluation::{gains_table, panel_gains, read_outcomes};
use epo::files::atomic_write;
use epo::report::render_report;

#[derive(Parser)]
#[command(about = "Draw run folders as one self-contained HTML page")]
struct Args {
    /// Run folders (those that hold a metrics.jsonl).
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the first run folder].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the gains from first to last evaluation, paired by task, instead of writing a page.
    #[arg(long, conflicts_with = "out")]
    gains: bool,
}

fn main() -> anyhow::Result<()> {
    let Args { runs, out, gains } = Args::parse();
    if gains {
        let read = |run: &PathBuf| Ok((run.display().to_string(), read_outcomes(run)?));
        let found = panel_gains(&runs.iter().map(read).collect::<epo::Result<Vec<_>>>()?);
        anyhow::ensure!(!found.is_empty(), "no panel of these runs was evaluated twice");
        print!("{}", gains_table(&found));
        return Ok(());
    }
    let out = out.unwrap_or_else(|| runs[0].join("report.html"));
    atomic_write(&out, render_report(&runs)?)?;
    println!("wrote {}", out.display());
    Ok(())
}
