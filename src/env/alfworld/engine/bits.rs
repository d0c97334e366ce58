//! Bit sets, and tables with rows of different lengths.

/// A bit set of fixed length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bits(Box<[u64]>);

impl Bits {
    /// Creates an empty set for numbers below `len`.
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into())
    }

    /// The capacity: every number in the set is below it.
    pub(crate) fn len(&self) -> usize {
        64 * self.0.len()
    }

    /// Tests if the set contains a number.
    pub(crate) fn get(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 == 1
    }

    /// Inserts (`true`) or removes (`false`) a number.
    pub(crate) fn set(&mut self, i: u32, value: bool) {
        let word = &mut self.0[i as usize / 64];
        *word = *word & !(1 << (i % 64)) | u64::from(value) << (i % 64);
    }

    /// Iterates over the numbers in ascending order.
    pub(crate) fn ones(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let rest = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            rest.take_while(|&word| word != 0)
                .map(move |word| i as u32 * 64 + word.trailing_zeros())
        })
    }
}

/// A table with rows of different lengths, in two flat lists (compressed sparse rows).
#[derive(Debug)]
pub(crate) struct Rows<T> {
    ends: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { ends: Vec::new(), items: Vec::new() }
    }
}

impl<T> Rows<T> {
    /// Creates an empty table with room for this many rows and items.
    pub(crate) fn with_capacity(rows: usize, items: usize) -> Self {
        Self { ends: Vec::with_capacity(rows), items: Vec::with_capacity(items) }
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns a row.
    pub(crate) fn row(&self, i: usize) -> &[T] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.items[start as usize..self.ends[i] as usize]
    }

    /// Adds a copy of a row.
    pub(crate) fn push(&mut self, row: &[T])
    where
        T: Copy,
    {
        self.items.extend_from_slice(row);
        self.close();
    }

    /// Adds an item to the open row.
    pub(crate) fn add(&mut self, item: T) {
        self.items.push(item);
    }

    /// The items of the open row: those added since the last row ended.
    pub(crate) fn open(&self) -> &[T] {
        &self.items[self.end()..]
    }

    /// Ends the open row.
    pub(crate) fn close(&mut self) {
        self.ends.push(self.items.len() as u32);
    }

    /// Discards the items of the open row.
    pub(crate) fn cancel(&mut self) {
        self.items.truncate(self.end());
    }

    fn end(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    /// Iterates over the rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[T]> + Clone {
        self.ends.iter().scan(0, |start, &end| {
            let row = &self.items[*start..end as usize];
            *start = end as usize;
            Some(row)
        })
    }

    /// Releases unused capacity.
    pub(crate) fn shrink(&mut self) {
        self.ends.shrink_to_fit();
        self.items.shrink_to_fit();
    }
}

impl Rows<u32> {
    /// Groups pairs `(row, item)` by row; the items of a row keep the order of the pairs.
    pub(crate) fn group(rows: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut ends = vec![0; rows];
        for (row, _) in pairs.clone() {
            ends[row as usize] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        let mut items = vec![0; total as usize];
        for (row, item) in pairs {
            let end = &mut ends[row as usize];
            items[*end as usize] = item;
            *end += 1;
        }
        Self { ends, items }
    }
}
