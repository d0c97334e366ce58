//! Files of lines that grow at their end: appended to, cut back to a line count, read line by line.
//!
//! A run writes its metrics and episodes as one JSON object per line. A checkpoint then needs only
//! the number of lines: a resumed run cuts each file there and writes the rest again. A kill in the
//! middle of a write leaves a last line without its line end, which no reader here counts.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An open file of lines, positioned at its end.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    pub(crate) path: PathBuf,
    /// Number of lines.
    pub(crate) count: u64,
    /// Size in bytes.
    pub(crate) length: u64,
}

impl Lines {
    /// Opens or creates `path` and cuts it after `count` lines.
    pub(crate) fn open(path: PathBuf, count: u64) -> Result<Self> {
        match open_and_cut(&path, count).map_err(|e| Error::io(&path, e))? {
            Some((file, length)) => Ok(Self { file, path, count, length }),
            None => {
                let reason = format!("fewer than the {count} that the checkpoint counted");
                Err(Error::file(path, "lines", reason))
            }
        }
    }

    pub(crate) fn append(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.map_err(|e| Error::io(&self.path, e))?;
        self.count += 1;
        self.length += line.len() as u64 + 1;
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// The file and its new length; `None` if it has fewer than `count` lines and stays unchanged.
fn open_and_cut(path: &Path, count: u64) -> std::io::Result<Option<(File, u64)>> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    let Some(length) = length_of_lines(&mut file, count)? else { return Ok(None) };
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    Ok(Some((file, length)))
}

/// Bytes of the first `count` lines; `None` if the file ends earlier.
fn length_of_lines(file: &mut File, count: u64) -> std::io::Result<Option<u64>> {
    let mut reader = BufReader::new(file);
    let mut length = 0;
    for _ in 0..count {
        let mut line = Vec::new();
        length += reader.by_ref().read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
    }
    Ok(Some(length))
}

/// Calls `each` with the number (from 1) and the text of every line that has its line end.
///
/// Only one line is in memory at a time.
pub(crate) fn whole_lines(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        reader.read_line(&mut line).map_err(|e| Error::io(path, e))?;
        match line.strip_suffix('\n') {
            Some(whole) => each(number, whole)?,
            None => break,
        }
    }
    Ok(())
}

/// The error of a line that is not the expected JSON. serde counts lines within the text it gets,
/// so its own line number is removed.
pub(crate) fn bad_line(path: &Path, number: usize, error: &serde_json::Error) -> Error {
    let reason = error.to_string().replace(" at line 1 column", " at column");
    Error::file(path, format!("line {number}"), reason)
}
