//! Pinned Python wheels: found in a folder or downloaded, verified, unpacked.
//!
//! A wheel is a zip archive on the Python package index, which has mirrors everywhere. Files are
//! written under a temporary name and renamed, so several processes may fill the same folder.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use zip::result::ZipError;
use zip::ZipArchive;

use crate::env::scienceworld::provision::index::PackageIndex;
use crate::files::create_folder;
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
        rename(scratch.path(), &target)?;
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

    /// The start of the file name, with the project's name as in wheel names (PEP 427).
    fn stem(&self) -> String {
        format!("{}-{}", self.name.replace('-', "_"), self.version)
    }
}

/// Moves the file or folder `member` out of a wheel to `target`, whole or not at all.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a broken archive or one without `member`.
pub(crate) fn unpack(wheel: &Path, member: &str, target: &Path) -> Result<()> {
    let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
    let broken = |error: ZipError| Error::file(wheel, "archive", error.to_string());
    let file = File::open(wheel).map_err(|e| Error::io(wheel, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    archive.extract(scratch.path()).map_err(broken)?;
    let unpacked = scratch.path().join(member);
    if !unpacked.exists() {
        return Err(Error::file(wheel, member, "not in this wheel"));
    }
    match rename(&unpacked, target) {
        // Another process has unpacked the same folder first.
        Err(_) if target.is_dir() => Ok(()),
        result => result,
    }
}

/// Checks that `folder` has the files that `member` has in the wheel, byte for byte, and no others.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a broken archive or the first file that differs.
pub(crate) fn check_unpacked(wheel: &Path, member: &str, folder: &Path) -> Result<()> {
    let broken = |error: ZipError| Error::file(wheel, "archive", error.to_string());
    let file = File::open(wheel).map_err(|e| Error::io(wheel, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut known = HashSet::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let inside =
            entry.enclosed_name().and_then(|name| Some(name.strip_prefix(member).ok()?.to_owned()));
        let Some(inside) = inside.filter(|_| entry.is_file()) else { continue };
        let path = folder.join(inside);
        let same = File::open(&path).and_then(|file| same_bytes(&mut entry, file));
        if !same.map_err(|e| Error::io(&path, e))? {
            return Err(Error::file(path, "content", "is not that of the wheel"));
        }
        known.insert(path);
    }
    match files_below(folder)?.into_iter().find(|path| !known.contains(path)) {
        Some(path) => Err(Error::file(path, "file", "is not in the wheel")),
        None => Ok(()),
    }
}

fn same_bytes(mut a: impl Read, mut b: impl Read) -> std::io::Result<bool> {
    let mut expected = Vec::with_capacity(1 << 16);
    let mut found = vec![0; 1 << 16];
    loop {
        expected.clear();
        a.by_ref().take(1 << 16).read_to_end(&mut expected)?;
        if expected.is_empty() {
            return Ok(b.read(&mut found)? == 0);
        }
        match b.read_exact(&mut found[..expected.len()]) {
            Ok(()) if found[..expected.len()] == expected => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Lists everything in a folder that is not a folder; links are listed and not followed.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            let is_folder = entry.file_type().map_err(|e| Error::io(entry.path(), e))?.is_dir();
            if is_folder {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
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

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io(to, e))
}

/// A temporary path that no other process uses, removed when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(folder.join(format!(".part-{}-{number}.tmp", std::process::id())))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = if self.0.is_dir() {
            std::fs::remove_dir_all(&self.0)
        } else {
            std::fs::remove_file(&self.0)
        };
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
