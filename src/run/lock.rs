//! One process at a time in a run's folder: a second one would write into the first one's files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use fs4::{FileExt, TryLockError};

use crate::console::note;
use crate::{Error, Result};

const LOCK_FILE: &str = ".lock";
/// A process that has just been killed may hold its lock for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lock of a run folder. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the run folder `dir`, which must exist. On a file system without locks a note is
    /// printed instead.
    ///
    /// # Errors
    /// [`Error::File`] with the process that holds the lock; [`Error::Io`].
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        let began = Instant::now();
        let mut locked = FileExt::try_lock(&file);
        while matches!(locked, Err(TryLockError::WouldBlock)) && began.elapsed() < PATIENCE {
            std::thread::sleep(PATIENCE / 20);
            locked = FileExt::try_lock(&file);
        }
        match locked {
            Ok(()) => write_process(&mut file).map_err(|e| Error::io(&path, e))?,
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.is_empty();
                let who = if known { holder.trim() } else { "unknown" };
                let reason = format!("another process (id {who}) is running in this folder");
                return Err(Error::file(dir, "run", reason));
            }
            Err(TryLockError::Error(error)) => {
                let path = path.display();
                note(format_args!("{path}: {error}; do not start a second process here"));
            }
        }
        Ok(Self { _file: file })
    }
}

fn write_process(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::take(dir.path()).unwrap();
        let error = RunLock::take(dir.path()).unwrap_err().to_string();
        let holder = format!("another process (id {})", std::process::id());
        assert!(error.contains(&holder), "{error}");
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
        drop(lock);
        RunLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = RunLock::take(Path::new("/no/such/run")).unwrap_err().to_string();
        assert!(error.contains("/no/such/run"), "{error}");
    }
}
