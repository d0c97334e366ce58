//! An official Python package in a virtual environment, as the other side of a comparison.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process of a script in `scripts/` that plays a round for each line on its standard input.
///
/// It prints the results of a round as one line of JSON.
pub(crate) struct Official {
    child: Child,
    input: ChildStdin,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Official {
    /// Starts the process.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, stdout) = pipes.ok_or_else(|| anyhow::anyhow!("the process has no pipes"))?;
        Ok(Self { child, input, output: BufReader::new(stdout).lines() })
    }

    /// Plays a round and returns its results.
    pub(crate) fn round<T: serde::de::DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.input.write_all(b"round\n")?;
        let line = self
            .output
            .next()
            .ok_or_else(|| anyhow::anyhow!("the process of the official package ended"))??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Official {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a virtual environment in `folder` and runs `pip install` with each of `installs`.
///
/// Returns the path of its Python.
pub(crate) fn python(folder: &Path, installs: &[&[&str]]) -> anyhow::Result<PathBuf> {
    let venv = folder.join("venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let run = |command: &mut Command| -> anyhow::Result<()> {
        anyhow::ensure!(command.status()?.success(), "{command:?} failed");
        Ok(())
    };
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    for install in installs {
        let pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
        run(Command::new(&python).current_dir(folder).args(pip).args(*install))?;
    }
    Ok(python)
}

/// The path of a script in `scripts/`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Returns the median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
