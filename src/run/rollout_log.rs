//! A rotating log of dumped training episodes: full files are followed by new ones, the oldest go.
//!
//! `rollouts.jsonl` begins with the run's first line, `rollouts-N.jsonl` with line N, counted from
//! 0 over all files. A file's name thus gives its first line, and the next file's name its end. A
//! run that is killed at any moment leaves files in which a checkpoint's position, a number of
//! lines, can be found again.

use std::path::{Path, PathBuf};

use crate::run::lines::Lines;
use crate::{Error, Result};

/// The file of a run folder that holds dumped training episodes, or the first of several
/// ([`episode_files`](crate::run::episode_files)).
pub const ROLLOUTS_FILE: &str = "rollouts.jsonl";

/// A file is full when it holds this fraction (one eighth) of the limit of all files.
const FILES: u64 = 8;

/// The files of a run's dumped episodes, oldest first, each with the number of its first line.
pub(crate) fn rollout_files(run_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let first = |name: &str| match name {
        ROLLOUTS_FILE => Some(0),
        _ => name.strip_prefix("rollouts-")?.strip_suffix(".jsonl")?.parse().ok(),
    };
    let entries = match std::fs::read_dir(run_dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(run_dir, e))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(run_dir, e))?;
        if let Some(first) = first(&entry.file_name().to_string_lossy()) {
            files.push((first, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// Writer of the dumped episodes.
#[derive(Debug)]
pub(crate) struct RolloutLog {
    dir: PathBuf,
    /// The largest size of all files together, in bytes.
    limit: u64,
    /// The number of the current file's first line.
    first: u64,
    /// The current file; created with its first line, because most runs dump nothing.
    current: Option<Lines>,
    /// Lines that the last checkpoint counted.
    counted: u64,
}

impl RolloutLog {
    /// Continues after `position` lines and deletes everything after them.
    pub(crate) fn open(dir: &Path, position: u64) -> Result<Self> {
        let files = rollout_files(dir)?;
        let known = !files.is_empty();
        let (mut kept, later): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(first, _)| *first < position || *first == 0);
        for (_, path) in later.iter().rev() {
            std::fs::remove_file(path).map_err(|e| Error::io(path, e))?;
        }
        let (first, current) = match kept.pop() {
            Some((first, path)) => (first, Some(Lines::open(path, position - first)?)),
            // An older checkpoint: the file in which it ended has been deleted by rotation.
            None if known || position == 0 => (position, None),
            None => (0, Some(Lines::open(dir.join(ROLLOUTS_FILE), position)?)),
        };
        Ok(Self { dir: dir.to_owned(), limit: u64::MAX, first, current, counted: position })
    }

    /// Limits all files together to about `bytes`, give or take one step.
    pub(crate) fn within(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    pub(crate) fn append(&mut self, line: &str) -> Result<()> {
        let lines = match self.current.take() {
            Some(lines) => lines,
            None => Lines::open(self.path(), 0)?,
        };
        self.current.insert(lines).append(line)
    }

    /// Begins the next file if the current one is full, and deletes the oldest files beyond the
    /// limit. Lines that the last checkpoint does not count stay, because a resumed run needs them.
    pub(crate) fn rotate(&mut self) -> Result<()> {
        let Some(full) = self.current.take_if(|lines| lines.length >= self.limit / FILES) else {
            return Ok(());
        };
        full.sync()?;
        self.first += full.count;
        self.delete_oldest()
    }

    fn delete_oldest(&self) -> Result<()> {
        let files = rollout_files(&self.dir)?;
        let size = |(_, path): &(u64, PathBuf)| std::fs::metadata(path).map(|m| m.len());
        let sizes: std::io::Result<Vec<u64>> = files.iter().map(size).collect();
        let sizes = sizes.map_err(|e| Error::io(&self.dir, e))?;
        let mut total: u64 = sizes.iter().sum();
        let ends = files.iter().skip(1).map(|(first, _)| *first).chain([self.first]);
        for (((_, path), size), end) in files.iter().zip(sizes).zip(ends) {
            if total + self.limit / FILES <= self.limit || end > self.counted {
                break;
            }
            std::fs::remove_file(path).map_err(|e| Error::io(path, e))?;
            total -= size;
        }
        Ok(())
    }

    /// Makes all lines durable and returns their number, deleted ones included.
    pub(crate) fn sync(&mut self) -> Result<u64> {
        let mut count = self.first;
        if let Some(lines) = &self.current {
            lines.sync()?;
            count += lines.count;
        }
        self.counted = count;
        Ok(count)
    }

    /// The current file's path.
    pub(crate) fn path(&self) -> PathBuf {
        match self.first {
            0 => self.dir.join(ROLLOUTS_FILE),
            first => self.dir.join(format!("rollouts-{first}.jsonl")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of two lines of 10 bytes each, with a checkpoint after every second step; 80 bytes are
    /// kept, 10 per file.
    fn play(log: &mut RolloutLog, steps: std::ops::Range<u64>) {
        for step in steps {
            log.rotate().unwrap();
            for i in 0..2 {
                log.append(&format!("{step:07}-{i}")).unwrap();
            }
            if step % 2 == 1 {
                log.sync().unwrap();
            }
        }
    }

    fn open(dir: &Path, position: u64) -> RolloutLog {
        RolloutLog::open(dir, position).unwrap().within(80)
    }

    fn contents(dir: &Path) -> Vec<(u64, String)> {
        let files = rollout_files(dir).unwrap();
        files
            .into_iter()
            .map(|(first, path)| (first, std::fs::read_to_string(path).unwrap()))
            .collect()
    }

    #[test]
    fn files_follow_one_another_and_the_oldest_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        play(&mut open(dir.path(), 0), 0..3);
        let first: Vec<u64> = contents(dir.path()).iter().map(|(first, _)| *first).collect();
        assert_eq!(first, [0, 2, 4]);
        assert!(
            dir.path().join("rollouts.jsonl").is_file()
                && dir.path().join("rollouts-4.jsonl").is_file()
        );
        let other = tempfile::tempdir().unwrap();
        play(&mut open(other.path(), 0), 0..12);
        let kept = contents(other.path());
        let bytes: usize = kept.iter().map(|(_, text)| text.len()).sum();
        assert!((60..=80).contains(&bytes), "{kept:?}");
        assert_eq!(kept.last().unwrap().1, "0000011-0\n0000011-1\n");
        let lines: Vec<String> =
            kept.iter().flat_map(|(_, text)| text.lines().map(str::to_owned)).collect();
        assert_eq!(
            lines.len() as u64,
            24 - kept[0].0,
            "none is missing between the oldest and the newest"
        );
    }

    /// Killed after a line, within a line, or during rotation, the run ends as if it had not been.
    #[test]
    fn a_resumed_run_neither_doubles_nor_loses_a_line() {
        let whole = tempfile::tempdir().unwrap();
        play(&mut open(whole.path(), 0), 0..12);
        for killed in 1..12 {
            let checkpoint = killed / 2 * 2;
            for cut in [0, 5] {
                let dir = tempfile::tempdir().unwrap();
                play(&mut open(dir.path(), 0), 0..killed);
                let (_, newest) = rollout_files(dir.path()).unwrap().pop().unwrap();
                if killed > checkpoint {
                    let text = std::fs::read(&newest).unwrap();
                    std::fs::write(&newest, &text[..text.len() - cut]).unwrap();
                }
                let mut resumed = open(dir.path(), 2 * checkpoint);
                play(&mut resumed, checkpoint..12);
                assert_eq!(
                    contents(dir.path()),
                    contents(whole.path()),
                    "killed after step {killed}"
                );
            }
        }
    }

    #[test]
    fn nothing_that_the_last_checkpoint_does_not_count_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0);
        for step in 0..20 {
            log.rotate().unwrap();
            for i in 0..2 {
                log.append(&format!("{step:07}-{i}")).unwrap();
            }
        }
        assert_eq!(contents(dir.path()).len(), 20);
        assert_eq!(log.sync().unwrap(), 40);
        log.rotate().unwrap();
        assert!(contents(dir.path()).len() < 8);
        // A checkpoint whose file has been deleted is continued in a new file.
        let mut older = open(dir.path(), 6);
        older.append("new").unwrap();
        assert_eq!(contents(dir.path()), [(6, "new\n".to_owned())]);
        assert!(
            RolloutLog::open(tempfile::tempdir().unwrap().path(), 3).is_err(),
            "lost files are an error"
        );
    }
}
