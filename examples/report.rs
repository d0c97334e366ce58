//! Draws one or several run folders as one self-contained HTML page.
//!
//! ```text
//! cargo run --release --example report -- runs/sciworld_grpo [RUN...] [--out report.html]
//! ```

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Draw run folders as one self-contained HTML page")]
struct Args {
    /// Run folders (those that hold a metrics.jsonl).
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the first run folder].
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Args { runs, out } = Args::parse();
    let out = out.unwrap_or_else(|| runs[0].join("report.html"));
    epo::train::atomic_write(&out, epo::train::render_report(&runs)?)?;
    println!("wrote {}", out.display());
    Ok(())
}
