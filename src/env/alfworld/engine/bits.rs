//! Sets of small numbers, and rows of a ragged table.

/// A set of numbers below a fixed length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bits(Box<[u64]>);

impl Bits {
    /// The empty set of numbers below `len`.
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into())
    }

    /// A bound that every number in the set is below.
    pub(crate) fn len(&self) -> usize {
        64 * self.0.len()
    }

    pub(crate) fn get(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 == 1
    }

    /// Puts a number in or takes it out.
    pub(crate) fn set(&mut self, i: u32, value: bool) {
        let word = &mut self.0[i as usize / 64];
        *word = *word & !(1 << (i % 64)) | u64::from(value) << (i % 64);
    }

    /// The numbers, ascending.
    pub(crate) fn ones(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let rest = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            rest.take_while(|&word| word != 0)
                .map(move |word| i as u32 * 64 + word.trailing_zeros())
        })
    }
}

/// A table whose rows have different lengths.
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
    /// An empty table with room for so many rows and items.
    pub(crate) fn with_capacity(rows: usize, items: usize) -> Self {
        Self { ends: Vec::with_capacity(rows), items: Vec::with_capacity(items) }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn row(&self, i: usize) -> &[T] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.items[start as usize..self.ends[i] as usize]
    }

    /// Adds a row that is a copy.
    pub(crate) fn push(&mut self, row: &[T])
    where
        T: Copy,
    {
        self.items.extend_from_slice(row);
        self.close();
    }

    /// Adds an item to the row that is to come.
    pub(crate) fn add(&mut self, item: T) {
        self.items.push(item);
    }

    /// The items added since the last row.
    pub(crate) fn open(&self) -> &[T] {
        &self.items[self.end()..]
    }

    /// Makes the items added since the last row a row.
    pub(crate) fn close(&mut self) {
        self.ends.push(self.items.len() as u32);
    }

    /// Forgets the items added since the last row.
    pub(crate) fn cancel(&mut self) {
        self.items.truncate(self.end());
    }

    fn end(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    /// The rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[T]> + Clone {
        self.ends.iter().scan(0, |start, &end| {
            let row = &self.items[*start..end as usize];
            *start = end as usize;
            Some(row)
        })
    }

    /// Gives back the room that is not needed.
    pub(crate) fn shrink(&mut self) {
        self.ends.shrink_to_fit();
        self.items.shrink_to_fit();
    }
}

impl Rows<u32> {
    /// The items of all rows.
    pub(crate) fn items(&self) -> &[u32] {
        &self.items
    }

    /// The table in whose row `r` stand the items `i` of the pairs `(r, i)`, in the order of the pairs.
    pub(crate) fn group(rows: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut ends = vec![0; rows];
        pairs.clone().for_each(|(row, _)| ends[row as usize] += 1);
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        let mut items = vec![0; total as usize];
        pairs.for_each(|(row, item)| {
            let end = &mut ends[row as usize];
            items[*end as usize] = item;
            *end += 1;
        });
        Self { ends, items }
    }
}
