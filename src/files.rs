//! Atomic writes: a file or folder is either complete or absent, even if the process is killed.
//!
//! A run can be killed at any moment and must resume from its last checkpoint. So everything is
//! written under a temporary name, synced to disk, renamed, and then the folder is synced.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a kill at any moment leaves the old file or the new one, never
/// a partial one.
///
/// The bytes go to `.tmp-<name>` in the same folder, which must exist. That file is synced and
/// renamed to `path`; then the folder is synced.
///
/// # Errors
/// [`Error::Io`] with the path of the file that could not be written.
pub fn atomic_write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_name(path)?;
    write_synced(&temporary, bytes.as_ref())?;
    fs::rename(&temporary, path).map_err(|e| Error::io(path, e))?;
    sync_folder(parent(path))
}

/// Writes a file piece by piece, so that it is complete or absent after a kill or an error.
///
/// `write` gets a function that appends bytes to `.tmp-<name>` in the same folder.
///
/// # Errors
/// [`Error::Io`], or the error of `write`.
#[cfg(feature = "text")]
pub(crate) fn atomic_file(
    path: &Path,
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let temporary = temporary_name(path)?;
    let io = |e| Error::io(path, e);
    let mut file = File::create(&temporary).map_err(io)?;
    let written = write(&mut |bytes| file.write_all(bytes).map_err(io))
        .and_then(|()| file.sync_all().map_err(io))
        .and_then(|()| fs::rename(&temporary, path).map_err(io));
    if written.is_err() {
        // The error that is returned is the more useful one.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(parent(path))
}

/// Creates a folder so that a kill at any moment leaves it complete or absent.
///
/// `write` fills `.tmp-<name>` in the same parent folder, which is then renamed to `path`.
///
/// # Errors
/// [`Error::Setting`] if the folder exists and is not empty, [`Error::Io`], or the error of
/// `write`.
pub(crate) fn atomic_folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let occupied =
        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file();
    if occupied {
        return Err(Error::setting("folder", path.display(), "already exists and is not empty"));
    }
    let temporary = temporary_name(path)?;
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(|e| Error::io(&temporary, e))?;
    }
    create_folder(&temporary)?;
    write(&temporary)?;
    sync_folder(&temporary)?;
    fs::rename(&temporary, path).map_err(|e| Error::io(path, e))?;
    sync_folder(parent(path))
}

/// Writes and syncs a file under its final name.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path, e))
}

/// Makes new names in a folder durable. Systems other than Unix cannot sync folders; nothing is
/// done there.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, e))
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))
}

/// The temporary name of `path`, in the same folder.
fn temporary_name(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::setting("path", path.display(), "must end in a file name"))?;
    let mut temporary = std::ffi::OsString::from(".tmp-");
    temporary.push(name);
    Ok(path.with_file_name(temporary))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_old_file_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        atomic_write(&path, "old and longer").unwrap();
        atomic_write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_partial_temporary_file_does_not_touch_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        atomic_write(&path, "old").unwrap();
        fs::write(temporary_name(&path).unwrap(), "ne").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        atomic_write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_folder_appears_complete_and_replaces_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let failed = atomic_folder(&path, |at| {
            fs::write(at.join("a"), "half")
                .map_err(|e| Error::io(at, e))
                .and(Err(Error::setting("b", 1, "no")))
        });
        assert!(failed.is_err() && !path.exists());
        atomic_folder(&path, |at| fs::write(at.join("b"), "whole").map_err(|e| Error::io(at, e)))
            .unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        let error = atomic_folder(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("model") && error.contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = atomic_write("/no/such/folder/a.json", "x").unwrap_err().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }
}
