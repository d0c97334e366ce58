//! The folder of the Java runtime: unpacked from its wheel, and compared with it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zip::result::ZipError;

use crate::provision::scratch::Scratch;
use crate::provision::wheel::open_archive;
use crate::{Error, Result};

/// Moves the folder `member` out of a wheel to `target`, whole or not at all.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a broken archive or one without `member`.
pub(crate) fn unpack(wheel: &Path, member: &str, target: &Path) -> Result<()> {
    let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
    let mut archive = open_archive(wheel)?;
    archive.extract(scratch.path()).map_err(|error| {
        Error::file(wheel, "archive", format!("{error}, unpacking to {}", target.display()))
    })?;
    let unpacked = scratch.path().join(member);
    if !unpacked.exists() {
        return Err(Error::file(wheel, member, "not in this wheel"));
    }
    match std::fs::rename(&unpacked, target) {
        // Another process has unpacked the same folder first.
        Err(_) if target.is_dir() => Ok(()),
        result => result.map_err(|e| Error::io(target, e)),
    }
}

/// Checks that `folder` has the files that `member` has in the wheel, byte for byte, and no others.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a broken archive or the first file that differs.
pub(crate) fn check_unpacked(wheel: &Path, member: &str, folder: &Path) -> Result<()> {
    let broken = |error: ZipError| Error::file(wheel, "archive", error.to_string());
    let mut archive = open_archive(wheel)?;
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

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
