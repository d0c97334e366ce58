//! An official Python package in a scratch environment, which plays a round whenever it is told to.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The package's side of a benchmark: a script of `scripts/` that answers each line with a line of JSON.
pub(crate) struct Official {
    child: Child,
    ask: ChildStdin,
    answers: std::io::Lines<BufReader<ChildStdout>>,
}

impl Official {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (ask, stdout) = pipes.ok_or_else(|| anyhow::anyhow!("no pipes"))?;
        Ok(Self { child, ask, answers: BufReader::new(stdout).lines() })
    }

    pub(crate) fn round<T: serde::de::DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.ask.write_all(b"round\n")?;
        let line =
            self.answers.next().ok_or_else(|| anyhow::anyhow!("the official side ended"))??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Official {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python of an environment in `folder`, after `pip install` with each of `installs`.
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

/// A script of this repository.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
