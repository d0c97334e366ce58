//! Pinned Python wheels: found in a folder or downloaded, and verified.
//!
//! A wheel is a zip archive on the Python package index, which has mirrors everywhere. Files are
//! written under a temporary name and renamed, so several processes may fill the same folder.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::files::create_folder;
use crate::provision::index::PackageIndex;
use crate::provision::scratch::Scratch;
use crate::{Error, Result};

const MB: f64 = 1e6;

/// Receives one line per step of a download.
pub(crate) type Report<'a> = &'a dyn Fn(&str);

/// One wheel of the Python package index, identified by its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PinnedWheel {
    /// The project's name.
    pub(crate) name: &'static str,
    /// The version.
    pub(crate) version: &'static str,
    /// The hash of the file, lower-case hexadecimal.
    pub(crate) sha256: &'static str,
}

impl Display for PinnedWheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl PinnedWheel {
    /// Returns the path of the wheel in `folder`, and downloads it if it is not there.
    ///
    /// Wheels that `pip download` has put there are recognised by name and hash.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for a failed download or a wrong hash.
    pub(crate) fn fetch(
        &self,
        folder: &Path,
        index: &PackageIndex,
        report: Report<'_>,
    ) -> Result<PathBuf> {
        create_folder(folder)?;
        for path in self.candidates(folder)? {
            match check_sha256(&path, self.sha256) {
                Ok(()) => return Ok(path),
                Err(error) => report(&format!("{error}; ignored")),
            }
        }
        let target = folder.join(format!("{}.whl", self.stem()));
        let scratch = Scratch::new(folder);
        report(&format!("downloading {self} into {}", folder.display()));
        let progress = |done: u64, total: u64| {
            let done = done as f64 / MB;
            let total = total as f64 / MB;
            report(&format!("{self}: {done:.1} of {total:.1} MB"));
        };
        index
            .download(self.name, self.sha256, scratch.path(), &progress)
            .and_then(|()| check_sha256(scratch.path(), self.sha256).map_err(|e| e.to_string()))
            .map_err(|reason| Error::file(&target, "download", reason))?;
        scratch.keep_as(&target)?;
        Ok(target)
    }

    /// Lists the files of `folder` that are named like this wheel, sorted.
    fn candidates(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let stem = self.stem();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
            let path = entry.map_err(|e| Error::io(folder, e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&stem) && name.ends_with(".whl") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// The requirement that pip understands.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// The start of the file name, with the project's name as in wheel names (PEP 427).
    fn stem(&self) -> String {
        format!("{}-{}", self.name.replace('-', "_"), self.version)
    }
}

/// Opens the archive of a wheel.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a broken archive.
pub(crate) fn open_archive(wheel: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = File::open(wheel).map_err(|e| Error::io(wheel, e))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|error| Error::file(wheel, "archive", error.to_string()))
}

/// Checks the SHA-256 of a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] with both hashes if they differ.
pub(crate) fn check_sha256(path: &Path, expected: &str) -> Result<()> {
    let got = sha256(path).map_err(|e| Error::io(path, e))?;
    if got == expected {
        return Ok(());
    }
    Err(Error::file(path, "SHA-256", format!("is {got}, expected {expected}")))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
