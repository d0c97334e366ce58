//! Run checkpoints: folders that are complete and verified, or not visible at all.
//!
//! ```text
//! RUN/checkpoints/step-000040/
//!   model.safetensors …    files that the caller adds
//!   state.json             the caller's state (entropy history, β, task set, counters, …)
//!   checkpoint.json        written last: format, step, size and CRC-32 of every file, own CRC-32
//! ```
//! A checkpoint is written to `.tmp-step-000040`, every file is synced, and the folder is renamed.
//! A kill at any moment therefore leaves either no `step-000040` or a whole one. A file that is
//! damaged later is found by its size or checksum.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{create_folder, sync_folder, write_synced};
use crate::{Error, Result};

const FORMAT: u32 = 1;
/// The folder of a run's checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const MANIFEST: &str = "checkpoint.json";
const STATE: &str = "state.json";

/// Writer of one checkpoint. If it is dropped before [`finish`](Self::finish), nothing remains.
///
/// ```
/// use epo::run::{Checkpoint, CheckpointWriter};
/// # let run = tempfile::tempdir()?;
/// let mut writer = CheckpointWriter::new(run.path(), 40)?;
/// writer.add_file("model.safetensors", |path| Ok(std::fs::write(path, b"weights").unwrap()))?;
/// writer.finish(&serde_json::json!({ "beta": 1.25 }))?;
///
/// let found = Checkpoint::latest(run.path())?;
/// let checkpoint = found.checkpoint.expect("one was written");
/// assert_eq!(checkpoint.step(), 40);
/// assert_eq!(checkpoint.state::<serde_json::Value>()?["beta"], 1.25);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CheckpointWriter {
    parent: PathBuf,
    temporary: PathBuf,
    step: u64,
    files: Vec<FileEntry>,
}

impl CheckpointWriter {
    /// Starts the checkpoint of `step` in `run_dir` and removes remains of killed writers.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be created.
    pub fn new(run_dir: impl AsRef<Path>, step: u64) -> Result<Self> {
        let parent = run_dir.as_ref().join(CHECKPOINTS);
        create_folder(&parent)?;
        remove_temporaries(&parent)?;
        let temporary = parent.join(format!(".tmp-{}", folder_name(step)));
        create_folder(&temporary)?;
        Ok(Self { parent, temporary, step, files: Vec::new() })
    }

    /// Adds a file: `write` creates it at the given path, then it is synced and its checksum taken.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name that is reserved, repeated or not a plain file name;
    /// [`Error::Io`]; errors of `write`.
    pub fn add_file(
        &mut self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<&mut Self> {
        let plain =
            Path::new(name).file_name().is_some_and(|f| f == name) && !name.starts_with('.');
        let taken = [MANIFEST, STATE].contains(&name) || self.files.iter().any(|f| f.name == name);
        if !plain || taken {
            let reason = "must be a plain file name that this checkpoint does not have yet";
            return Err(Error::setting("checkpoint file", name, reason));
        }
        let path = self.temporary.join(name);
        write(&path)?;
        File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io(&path, e))?;
        self.files.push(FileEntry::of(&path, name)?);
        Ok(self)
    }

    /// Writes the state and the manifest and gives the folder its final name.
    ///
    /// JSON has no NaN and no infinity: they are written as `null`.
    ///
    /// # Errors
    /// [`Error::File`] for a state that cannot be serialised; [`Error::Io`].
    pub fn finish(mut self, state: &impl Serialize) -> Result<Checkpoint> {
        let path = self.temporary.join(STATE);
        let json = serde_json::to_vec_pretty(state)
            .map_err(|e| Error::file(&path, "state", e.to_string()))?;
        write_synced(&path, &json)?;
        self.files.push(FileEntry::of(&path, STATE)?);

        let manifest = Manifest::new(self.step, std::mem::take(&mut self.files));
        let path = self.temporary.join(MANIFEST);
        let json = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::file(&path, "manifest", e.to_string()))?;
        write_synced(&path, &json)?;
        sync_folder(&self.temporary)?;

        let dir = self.parent.join(folder_name(self.step));
        self.put_in_place(&dir)?;
        Ok(Checkpoint { dir, manifest })
    }

    /// Renames the temporary folder; until then, an older checkpoint of the same step can be found.
    fn put_in_place(&self, dir: &Path) -> Result<()> {
        let replaced = self.parent.join(format!("{}{REPLACED}", folder_name(self.step)));
        if dir.exists() {
            remove_folder(&replaced)?;
            fs::rename(dir, &replaced).map_err(|e| Error::io(dir, e))?;
        }
        fs::rename(&self.temporary, dir).map_err(|e| Error::io(dir, e))?;
        sync_folder(&self.parent)?;
        remove_folder(&replaced)
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        // After `finish` the folder has another name. The next writer removes what remains here.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// A complete, verified checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    dir: PathBuf,
    manifest: Manifest,
}

/// Result of [`Checkpoint::latest`].
#[derive(Debug)]
pub struct Latest {
    /// The newest complete and verified checkpoint; `None` if the run has none.
    pub checkpoint: Option<Checkpoint>,
    /// The errors of newer checkpoints that were skipped, newest first, to show to the user.
    pub skipped: Vec<Error>,
}

impl Checkpoint {
    /// Opens a checkpoint folder and verifies every file in it against the manifest.
    ///
    /// # Errors
    /// [`Error::File`] with the file and the field (`format`, `bytes`, `crc32`, …) that is wrong;
    /// [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let manifest = Manifest::read(&dir.join(MANIFEST))?;
        for file in &manifest.files {
            file.verify(&dir.join(&file.name))?;
        }
        Ok(Self { dir, manifest })
    }

    /// Finds the newest complete and verified checkpoint of a run, and reports the skipped ones.
    ///
    /// A run folder without checkpoints is not an error: such a run starts from the beginning.
    ///
    /// # Errors
    /// [`Error::File`] if there are checkpoints but none is usable; [`Error::Io`] if the folder
    /// cannot be listed.
    pub fn latest(run_dir: impl AsRef<Path>) -> Result<Latest> {
        let mut skipped = Vec::new();
        for dir in candidates(&run_dir.as_ref().join(CHECKPOINTS))?.into_iter().rev() {
            match Self::open(&dir.path) {
                Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), skipped }),
                Err(error) => skipped.push(error),
            }
        }
        match skipped.first() {
            None => Ok(Latest { checkpoint: None, skipped }),
            Some(first) => {
                let reason = format!("none of {} can be used; the newest: {first}", skipped.len());
                Err(Error::file(run_dir.as_ref().join(CHECKPOINTS), "checkpoints", reason))
            }
        }
    }

    /// The number of training steps before the checkpoint.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the file that was added under `name`.
    ///
    /// # Errors
    /// [`Error::File`] if the manifest does not list it.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        if self.manifest.files.iter().any(|f| f.name == name) {
            return Ok(self.dir.join(name));
        }
        let reason = format!("`{name}` is not part of this checkpoint");
        Err(Error::file(self.dir.join(MANIFEST), "files", reason))
    }

    /// Reads the state that [`CheckpointWriter::finish`] wrote, with floats bit for bit.
    ///
    /// # Errors
    /// [`Error::File`] with the field that is missing or has another type.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        read_json(&self.dir.join(STATE), "state")
    }
}

/// Removes a run's checkpoints except the newest `keep_last` and the one of step `best`.
///
/// Returns the steps of the removed checkpoints.
///
/// # Errors
/// [`Error::Setting`] if `keep_last` is 0; [`Error::Io`].
pub fn prune_checkpoints(
    run_dir: impl AsRef<Path>,
    keep_last: usize,
    best: Option<u64>,
) -> Result<Vec<u64>> {
    if keep_last == 0 {
        return Err(Error::setting("keep_last", keep_last, "must be at least 1"));
    }
    let all = candidates(&run_dir.as_ref().join(CHECKPOINTS))?;
    let steps: BTreeSet<u64> = all.iter().map(|c| c.step).collect();
    let kept: BTreeSet<u64> = steps.iter().rev().take(keep_last).copied().chain(best).collect();
    for old in all.iter().filter(|c| !kept.contains(&c.step)) {
        // Renamed first, so that a kill during the removal leaves no partial checkpoint.
        let doomed = old.path.with_file_name(format!(".tmp-{}-removed", folder_name(old.step)));
        remove_folder(&doomed)?;
        fs::rename(&old.path, &doomed).map_err(|e| Error::io(&old.path, e))?;
        remove_folder(&doomed)?;
    }
    Ok(steps.difference(&kept).copied().collect())
}

/// The steps of a run's checkpoints, damaged ones included.
pub(crate) fn checkpoint_steps(run_dir: &Path) -> Result<BTreeSet<u64>> {
    Ok(candidates(&run_dir.join(CHECKPOINTS))?.iter().map(|c| c.step).collect())
}

/// Suffix of a checkpoint that is being replaced by another one of the same step.
const REPLACED: &str = ".replaced";

/// A folder with a checkpoint's name, ordered by step; a replaced one comes before its replacement.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    step: u64,
    in_place: bool,
    path: PathBuf,
}

impl Candidate {
    fn from_path(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let plain = name.strip_suffix(REPLACED);
        let step = plain.unwrap_or(name).strip_prefix("step-")?.parse().ok()?;
        Some(Self { step, in_place: plain.is_none(), path })
    }
}

fn candidates(folder: &Path) -> Result<Vec<Candidate>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io(folder, e))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(Candidate::from_path(entry.map_err(|e| Error::io(folder, e))?.path()));
    }
    found.sort();
    Ok(found)
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

fn remove_temporaries(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent).map_err(|e| Error::io(parent, e))? {
        let path = entry.map_err(|e| Error::io(parent, e))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-")) {
            remove_folder(&path)?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

/// `checkpoint.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    step: u64,
    files: Vec<FileEntry>,
    /// CRC-32 of the fields above.
    crc32: u32,
}

impl Manifest {
    fn new(step: u64, files: Vec<FileEntry>) -> Self {
        let mut manifest = Self { format: FORMAT, step, files, crc32: 0 };
        manifest.crc32 = manifest.checksum();
        manifest
    }

    fn checksum(&self) -> u32 {
        let mut text = format!("{} {}", self.format, self.step);
        for FileEntry { name, bytes, crc32 } in &self.files {
            text.push_str(&format!("\n{name} {bytes} {crc32}"));
        }
        crc32fast::hash(text.as_bytes())
    }

    fn read(path: &Path) -> Result<Self> {
        let value: serde_json::Value = read_json(path, "manifest")?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let got = format.map_or("missing".to_owned(), |f| f.to_string());
            let reason = format!("is {got}; this version of epo reads format {FORMAT}");
            return Err(Error::file(path, "format", reason));
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|e| Error::file(path, "manifest", e.to_string()))?;
        if manifest.crc32 != manifest.checksum() {
            return Err(Error::file(path, "crc32", "the manifest does not match its own checksum"));
        }
        Ok(manifest)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    name: String,
    bytes: u64,
    crc32: u32,
}

impl FileEntry {
    fn of(path: &Path, name: &str) -> Result<Self> {
        let (bytes, crc32) = checksum(path)?;
        Ok(Self { name: name.to_owned(), bytes, crc32 })
    }

    fn verify(&self, path: &Path) -> Result<()> {
        let length = fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if length != self.bytes {
            let reason = format!("{length} bytes, but the manifest says {}", self.bytes);
            return Err(Error::file(path, "bytes", reason));
        }
        let (_, crc32) = checksum(path)?;
        if crc32 != self.crc32 {
            let expected = self.crc32;
            let reason = format!("{crc32:08x}, but the manifest says {expected:08x}: damaged file");
            return Err(Error::file(path, "crc32", reason));
        }
        Ok(())
    }
}

/// Length and CRC-32 (IEEE) of a file.
pub(crate) fn checksum(path: &Path) -> Result<(u64, u32)> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut length = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok((length, hasher.finalize())),
            n => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, field: &str) -> Result<T> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::file(path, field, e.to_string()))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
