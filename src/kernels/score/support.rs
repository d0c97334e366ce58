//! The support of each row: the whole vocabulary, a list of allowed tokens, or none.
//!
//! With constrained sampling a token is drawn from the allowed ids of its row only. Its
//! log-probability and entropy are those of the distribution over these ids.

use crate::{Error, Result};

/// The candidate set of one row's distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSupport<'a> {
    /// The whole vocabulary.
    Whole,
    /// These ids, in ascending order; all others have probability and gradient 0.
    Allowed(&'a [u32]),
    /// The row is not computed: log-probability, entropy and gradient are 0.
    Skipped,
}

/// The supports of all rows of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Support {
    /// Start of each row's list in `allowed`.
    pub(crate) start: Vec<u32>,
    /// Length of each row's list; 0 for a skipped row, [`WHOLE`] for the whole vocabulary.
    pub(crate) count: Vec<u32>,
    /// All lists, concatenated.
    pub(crate) allowed: Vec<u32>,
}

/// The `count` of a row whose support is the whole vocabulary.
pub(crate) const WHOLE: u32 = u32::MAX;

impl Support {
    /// Creates the supports of a call, one per row.
    ///
    /// # Errors
    /// A list that is empty or not ascending.
    pub fn new<'a>(rows: impl IntoIterator<Item = RowSupport<'a>>) -> Result<Self> {
        let mut support = Self::default();
        for (i, row) in rows.into_iter().enumerate() {
            support.start.push(support.allowed.len() as u32);
            support.count.push(match row {
                RowSupport::Whole => WHOLE,
                RowSupport::Skipped => 0,
                RowSupport::Allowed(ids) => {
                    check_list(i, ids)?;
                    support.allowed.extend_from_slice(ids);
                    ids.len() as u32
                }
            });
        }
        Ok(support)
    }

    /// Creates the support for a mask: the whole vocabulary for rows where `mask` is true, all
    /// other rows are skipped.
    pub fn masked(mask: &[bool]) -> Self {
        let count = mask.iter().map(|&kept| if kept { WHOLE } else { 0 }).collect();
        Self { start: vec![0; mask.len()], count, allowed: vec![] }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.count.len()
    }

    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.count.is_empty()
    }

    /// Returns the support of row `i`.
    pub fn row(&self, i: usize) -> RowSupport<'_> {
        match self.count[i] {
            WHOLE => RowSupport::Whole,
            0 => RowSupport::Skipped,
            n => RowSupport::Allowed(&self.allowed[self.start[i] as usize..][..n as usize]),
        }
    }

    /// Returns the supports of some of the rows.
    pub(crate) fn select(&self, rows: impl Iterator<Item = usize>) -> Self {
        let (start, count) = rows.map(|i| (self.start[i], self.count[i])).unzip();
        Self { start, count, allowed: self.allowed.clone() }
    }

    /// Checks that there is one support for each of `ids`, that lists are below `v`, and that every
    /// id is in its row's list.
    pub(crate) fn check(&self, ids: &[u32], v: usize) -> Result<()> {
        if self.len() != ids.len() {
            let expected = format!("{} rows", ids.len());
            return Err(Error::Shape { name: "support", expected, got: vec![self.len()] });
        }
        for (i, id) in ids.iter().enumerate() {
            let RowSupport::Allowed(list) = self.row(i) else { continue };
            let last = list[list.len() - 1];
            if last as usize >= v {
                let reason = format!("must be below the vocabulary size {v}");
                return Err(Error::setting(format!("support[{i}]"), last, reason));
            }
            if list.binary_search(id).is_err() {
                let reason = format!("must be among the {} allowed ids of its row", list.len());
                return Err(Error::setting(format!("ids[{i}]"), id, reason));
            }
        }
        Ok(())
    }
}

fn check_list(row: usize, ids: &[u32]) -> Result<()> {
    let field = || format!("support[{row}]");
    if ids.is_empty() {
        return Err(Error::setting(field(), "[]", "a row needs at least one allowed id"));
    }
    match ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => {
            Err(Error::setting(field(), format!("{pair:?}"), "allowed ids must be ascending"))
        }
        None => Ok(()),
    }
}
