//! Counts of the games that are not listed, by reason.

use std::collections::BTreeMap;

use crate::env::alfworld::engine::solvable::Solvable;

/// A reason why a game or a folder of games is not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Missing,
    False,
    Other,
    NoJson,
    TooLarge,
    NoType,
    Unreadable,
    Skipped,
    ZipLeftover,
    Loop,
}

impl Reason {
    /// Returns the reason why a game with this key is not listed, if it is not.
    pub(crate) fn of(solvable: std::io::Result<Solvable>) -> Option<Self> {
        match solvable {
            Ok(Solvable::True) => None,
            Ok(Solvable::False) => Some(Self::False),
            Ok(Solvable::Other) => Some(Self::Other),
            Ok(Solvable::Missing) => Some(Self::Missing),
            Ok(Solvable::NoJson) => Some(Self::NoJson),
            Ok(Solvable::TooLarge) => Some(Self::TooLarge),
            Err(_) => Some(Self::Unreadable),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Missing => "without the key `solvable`",
            Self::False => "with `\"solvable\": false`",
            Self::Other => "with a value of `solvable` that is not true or false",
            Self::NoJson => "not a JSON object",
            Self::TooLarge => "of more than 4 MiB",
            Self::NoType => "with no task type in the path or in traj_data.json",
            Self::Unreadable => "that cannot be read",
            Self::Skipped => "with `movable` or `Sliced` in the name, which ALFWorld skips",
            Self::ZipLeftover => "left over from a zip archive",
            Self::Loop => "linked to a folder around it",
        }
    }
}

/// Counts by reason, each with its first path in sorted order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeftOut(BTreeMap<Reason, (usize, String)>);

impl LeftOut {
    pub(crate) fn add(&mut self, reason: Reason, name: &str) {
        self.count(reason, 1, name);
    }

    /// Adds the counts of another listing.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (&reason, (count, name)) in &other.0 {
            self.count(reason, *count, name);
        }
    }

    fn count(&mut self, reason: Reason, count: usize, name: &str) {
        let (total, first) = self.0.entry(reason).or_insert_with(|| (0, name.to_owned()));
        *total += count;
        if name < first.as_str() {
            name.clone_into(first);
        }
    }
}

impl std::fmt::Display for LeftOut {
    /// Writes `3 left out: 2 without the key `solvable` (such as train/…), …`, or nothing.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let total: usize = self.0.values().map(|(count, _)| count).sum();
        let each = |(reason, (count, first)): (&Reason, &(usize, String))| {
            format!("{count} {} (such as {first})", reason.words())
        };
        let reasons: Vec<String> = self.0.iter().map(each).collect();
        write!(f, "{total} left out: {}", reasons.join("; "))
    }
}
