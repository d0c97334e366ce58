//! The dumped training episodes: lines in a file that goes on in a next one when it is full, of which the oldest are deleted.
//!
//! `rollouts.jsonl` begins with the run's first line, `rollouts-N.jsonl` with line N, counted from 0 over all files. A
//! file's name says where it begins, and where it ends is the next one's beginning: a run that is killed anywhere leaves
//! files from which a checkpoint's position, a number of lines, can be found again.

use std::path::{Path, PathBuf};

use crate::run::recorder::Lines;
use crate::run::recorder::ROLLOUTS_FILE;
use crate::{Error, Result};

/// A file is full at this fraction of what all may hold.
const FILES: u64 = 8;

/// The files of a run's dumped episodes in the order they were written, each with the number of its first line.
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
        files
            .extend(first(&entry.file_name().to_string_lossy()).map(|first| (first, entry.path())));
    }
    files.sort();
    Ok(files)
}

/// Writer of the dumped episodes.
#[derive(Debug)]
pub(crate) struct RolloutLog {
    dir: PathBuf,
    /// Most bytes of all files together.
    limit: u64,
    /// The number of the current file's first line.
    first: u64,
    /// The current file, made with its first line: most runs have none.
    current: Option<Lines>,
    /// Lines that a checkpoint counts on.
    counted: u64,
}

impl RolloutLog {
    /// Goes on after `position` lines: what comes after them is deleted.
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
            // The file that an older checkpoint ended in was too old to be kept.
            None if known || position == 0 => (position, None),
            None => (0, Some(Lines::open(dir.join(ROLLOUTS_FILE), position)?)),
        };
        Ok(Self { dir: dir.to_owned(), limit: u64::MAX, first, current, counted: position })
    }

    /// The same, holding at most `bytes`, more or less a step.
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

    /// Begins the next file where the current one is full, and deletes the oldest ones where all are; never what a checkpoint
    /// does not yet count, which it is to begin again from.
    pub(crate) fn turn_over(&mut self) -> Result<()> {
        let Some(full) = self.current.take_if(|lines| lines.length >= self.limit / FILES) else {
            return Ok(());
        };
        full.sync()?;
        self.first += full.count;
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

    /// Makes all lines durable and says how many there have been.
    pub(crate) fn sync(&mut self) -> Result<u64> {
        self.current.as_ref().map_or(Ok(()), Lines::sync)?;
        self.counted = self.first + self.current.as_ref().map_or(0, |lines| lines.count);
        Ok(self.counted)
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

    /// Steps of two lines of 10 bytes each, a checkpoint after every second step; 80 bytes are kept, 10 a file.
    fn play(log: &mut RolloutLog, steps: std::ops::Range<u64>) {
        for step in steps {
            log.turn_over().unwrap();
            (0..2).for_each(|i| log.append(&format!("{step:07}-{i}")).unwrap());
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

    /// Killed after every line, in a line, and in the middle of a turn-over: the run ends as if it had not been.
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
            log.turn_over().unwrap();
            (0..2).for_each(|i| log.append(&format!("{step:07}-{i}")).unwrap());
        }
        assert_eq!(contents(dir.path()).len(), 20);
        assert_eq!(log.sync().unwrap(), 40);
        log.turn_over().unwrap();
        assert!(contents(dir.path()).len() < 8);
        // An older checkpoint, of which the file is gone, is continued where it stands.
        let mut older = open(dir.path(), 6);
        older.append("new").unwrap();
        assert_eq!(contents(dir.path()), [(6, "new\n".to_owned())]);
        assert!(
            RolloutLog::open(tempfile::tempdir().unwrap().path(), 3).is_err(),
            "lost files are an error"
        );
    }
}
