//! The key/value cache of decoding: one slot per row, each with its own length.

use crate::kernels::decode::decode_attention::Past;
use crate::policy::config::DecoderConfig;
use crate::{Error, Result};
use std::sync::Arc;

/// Keys and values of a fixed number of rows, each growing on its own and reusable after
/// [`KvCache::reset`]. What the rows of a group begin with is there once.
///
/// A row also holds the tokens that were sampled but not yet run through the decoder; they count as
/// cached and are processed together with the row's next chunk. Keys and values belong to the weights they
/// were computed with: reset the rows after an update.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) slots: Vec<Slot>,
    pub(crate) limit: usize,
    pub(crate) width: usize,
}

/// Keys and values `[n, kv_heads·d]` of every block.
type Layers = Vec<(Vec<f32>, Vec<f32>)>;

/// One row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    /// Positions whose keys and values are stored.
    pub(crate) len: usize,
    /// Sampled tokens still to be processed.
    pub(crate) pending: Vec<u32>,
    /// Where other rows begin in the same way: the beginning, and how many of its positions are this row's.
    shared: Option<(Arc<Layers>, usize)>,
    /// The positions after those.
    pub(crate) layers: Layers,
}

impl Slot {
    /// All keys and values of a block, `width` numbers each.
    pub(crate) fn past(&self, layer: usize, width: usize) -> Past<'_> {
        let (keys, values) = &self.layers[layer];
        let shared = self.shared.as_ref().map_or((&[][..], &[][..]), |(layers, positions)| {
            let (keys, values) = &layers[layer];
            (&keys[..positions * width], &values[..positions * width])
        });
        [shared, (keys, values)]
    }

    /// Positions that are kept for several rows.
    fn shared_len(&self) -> usize {
        self.shared.as_ref().map_or(0, |&(_, positions)| positions)
    }
}

impl KvCache {
    /// An empty cache of `rows` rows for decoders of this configuration.
    pub fn new(config: &DecoderConfig, rows: usize) -> Self {
        let width = config.num_key_value_heads * config.head_dim();
        let slot = Slot {
            layers: vec![(Vec::new(), Vec::new()); config.num_hidden_layers],
            ..Slot::default()
        };
        Self { slots: vec![slot; rows], limit: config.max_position_embeddings, width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// Tokens in `row`, sampled ones included; 0 for a row that does not exist.
    pub fn len(&self, row: usize) -> usize {
        self.slots.get(row).map_or(0, |s| s.len + s.pending.len())
    }

    /// Whether every row is empty.
    pub fn is_empty(&self) -> bool {
        (0..self.rows()).all(|row| self.len(row) == 0)
    }

    /// Tokens that still fit into `row`.
    pub fn room(&self, row: usize) -> usize {
        self.limit - self.len(row).min(self.limit)
    }

    /// Makes room for `tokens` tokens in every row, so that rows do not grow while they are decoded.
    pub fn reserve(&mut self, tokens: usize) {
        let size = tokens.min(self.limit) * self.width;
        for (keys, values) in self.slots.iter_mut().flat_map(|s| &mut s.layers) {
            keys.reserve(size.saturating_sub(keys.len()));
            values.reserve(size.saturating_sub(values.len()));
        }
    }

    /// Empties `row` and keeps its memory.
    ///
    /// # Errors
    /// A row that does not exist.
    pub fn reset(&mut self, row: usize) -> Result<()> {
        self.truncate(row, 0)
    }

    /// Drops what follows the first `tokens` tokens of `row`.
    ///
    /// # Errors
    /// A row that does not exist, or one that is shorter.
    pub fn truncate(&mut self, row: usize, tokens: usize) -> Result<()> {
        self.check_row(row)?;
        let (len, width) = (self.len(row), self.width);
        if tokens > len {
            return Err(Error::setting("tokens", tokens, format!("row {row} holds {len} tokens")));
        }
        let slot = &mut self.slots[row];
        slot.pending.truncate(tokens.saturating_sub(slot.len));
        slot.len = slot.len.min(tokens);
        let shared = slot.shared_len().min(slot.len);
        slot.shared = slot.shared.take().filter(|_| shared > 0).map(|(layers, _)| (layers, shared));
        for (keys, values) in &mut slot.layers {
            keys.truncate((slot.len - shared) * width);
            values.truncate((slot.len - shared) * width);
        }
        Ok(())
    }

    /// Lets `others`, which are empty, hold what the row `from` has read since it was: from now on it is there once.
    pub(crate) fn share(&mut self, from: usize, others: &[usize]) {
        let slot = &mut self.slots[from];
        // A copy, of no more than that; the row goes on in the memory that it has.
        let shared = Arc::new(slot.layers.clone());
        for (keys, values) in &mut slot.layers {
            keys.clear();
            values.clear();
        }
        let len = slot.len;
        for row in others.iter().chain([&from]) {
            (self.slots[*row].len, self.slots[*row].shared) = (len, Some((shared.clone(), len)));
        }
    }

    pub(crate) fn check_row(&self, row: usize) -> Result<()> {
        if row < self.rows() {
            return Ok(());
        }
        Err(Error::setting("row", row, format!("the cache has {} rows", self.rows())))
    }
}
