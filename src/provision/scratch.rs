//! Temporary names in the cache: what is not whole has one, and is removed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::files::sync_folder;
use crate::{Error, Result};

/// The age at which a temporary file must be that of a process that was killed. A download takes
/// at most ten minutes.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A temporary path that no other process uses, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new name in `folder`, which is also freed of what killed processes have left in it.
    pub(crate) fn new(folder: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(folder, ABANDONED);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(folder.join(format!(".part-{}-{number}.tmp", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the file or folder its final name, in the same folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn keep_as(&self, target: &Path) -> Result<()> {
        std::fs::rename(&self.0, target).map_err(|e| Error::io(target, e))?;
        target.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The side on which [`copy`] failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Writes everything that `from` gives to a synced file; `progress` gets the bytes so far.
///
/// # Errors
/// The side that failed: the source, or the disk.
pub(crate) fn copy(
    mut from: impl Read,
    to: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), CopyError> {
    let mut file = File::create(to).map_err(CopyError::Write)?;
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    loop {
        let count = from.read(&mut buffer).map_err(CopyError::Read)?;
        if count == 0 {
            return file.sync_all().map_err(CopyError::Write);
        }
        file.write_all(&buffer[..count]).map_err(CopyError::Write)?;
        done += count as u64;
        progress(done);
    }
}

/// Removes temporary files and folders that have not changed for `age`.
fn remove_abandoned(folder: &Path, age: Duration) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_scratch = name.to_str().is_some_and(is_scratch_name);
        let changed = entry.metadata().and_then(|found| found.modified());
        let since = changed.ok().and_then(|time| time.elapsed().ok());
        if is_scratch && since.is_some_and(|since| since >= age) {
            remove(&entry.path());
        }
    }
}

fn is_scratch_name(name: &str) -> bool {
    name.starts_with(".part-") && name.ends_with(".tmp")
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_has_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".part-1-0.tmp", ".part-1-1.tmp", "model.gguf", ".part-1-2"];
        for name in names {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::fs::remove_file(folder.path().join(names[1])).unwrap();
        std::fs::create_dir_all(folder.path().join(names[1]).join("inner")).unwrap();
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        drop(Scratch::new(folder.path()));
        assert_eq!(count(), 4, "another process may still be writing");
        remove_abandoned(folder.path(), Duration::ZERO);
        assert_eq!(count(), 2);
        assert!(folder.path().join("model.gguf").exists());
    }
}
