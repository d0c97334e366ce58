//! The KV cache of decoding: one slot per row, each with its own length.
//!
//! Episodes of a batch grow at different rates and end at different times. Rows therefore have
//! their own lengths, without padding, and a finished row can be reset for the next episode while
//! the others go on. A prompt that several rows have in common, such as that of a GRPO group, is
//! stored once.

use crate::kernels::decode::decode_attention::Past;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::pages::Pages;
use crate::{Error, Result};
use std::sync::Arc;

/// Keys and values of a fixed number of rows. Each row grows independently and can be reused after
/// [`KvCache::reset`].
///
/// A row also holds the tokens that were sampled but have not been run through the decoder. They
/// count as cached and are processed together with the row's next chunk. Keys and values depend on
/// the weights: reset all rows after an update.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) slots: Vec<Slot>,
    pub(crate) limit: usize,
    pub(crate) width: usize,
    /// Keys and values on a GPU, from the first call of a decoder there; slots then hold none.
    pub(crate) pages: Option<Pages>,
}

/// Keys and values `[n, kv_heads·d]` of every block.
type Layers = Vec<(Vec<f32>, Vec<f32>)>;

/// The cache of one row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    /// Number of positions whose keys and values are stored.
    pub(crate) len: usize,
    /// Sampled tokens that have not been processed yet.
    pub(crate) pending: Vec<u32>,
    /// The prefix that this row has in common with others, and the number of its positions that
    /// belong to this row.
    shared: Option<(Arc<Layers>, usize)>,
    /// Keys and values of the positions after the shared prefix.
    pub(crate) layers: Layers,
}

impl Slot {
    /// All keys and values of a block, `width` numbers per position: those of the shared prefix and
    /// the row's own.
    pub(crate) fn past(&self, layer: usize, width: usize) -> Past<'_> {
        let (keys, values) = &self.layers[layer];
        let shared = self.shared.as_ref().map_or((&[][..], &[][..]), |(layers, positions)| {
            let (keys, values) = &layers[layer];
            (&keys[..positions * width], &values[..positions * width])
        });
        [shared, (keys, values)]
    }

    /// Number of positions in the shared prefix.
    fn shared_len(&self) -> usize {
        self.shared.as_ref().map_or(0, |&(_, positions)| positions)
    }
}

impl KvCache {
    /// Creates an empty cache of `rows` rows for decoders of this configuration.
    pub fn new(config: &DecoderConfig, rows: usize) -> Self {
        let width = config.num_key_value_heads * config.head_dim();
        let slot = Slot {
            layers: vec![(Vec::new(), Vec::new()); config.num_hidden_layers],
            ..Slot::default()
        };
        let limit = config.max_position_embeddings;
        Self { slots: vec![slot; rows], limit, width, pages: None }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// Number of tokens in `row`, including sampled ones; 0 if the row does not exist.
    pub fn len(&self, row: usize) -> usize {
        self.slots.get(row).map_or(0, |s| s.len + s.pending.len())
    }

    /// Returns true if every row is empty.
    pub fn is_empty(&self) -> bool {
        (0..self.rows()).all(|row| self.len(row) == 0)
    }

    /// Number of tokens that still fit into `row`.
    pub fn room(&self, row: usize) -> usize {
        self.limit - self.len(row).min(self.limit)
    }

    /// Reserves memory for `tokens` tokens in every row, which avoids reallocation during decoding
    /// on the CPU.
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

    /// Drops everything after the first `tokens` tokens of `row`.
    ///
    /// # Errors
    /// A row that does not exist, or one with fewer tokens.
    pub fn truncate(&mut self, row: usize, tokens: usize) -> Result<()> {
        self.check_row(row)?;
        let len = self.len(row);
        let width = self.width;
        if tokens > len {
            return Err(Error::setting(
                "tokens",
                tokens,
                format!("must be at most {len}, the tokens in row {row}"),
            ));
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
        if let Some(pages) = &mut self.pages {
            pages.truncate(row, slot.len);
        }
        Ok(())
    }

    /// Shares all keys and values of the row `from` with `others`, which must be empty: they are
    /// stored once.
    pub(crate) fn share(&mut self, from: usize, others: &[usize]) {
        if let Some(pages) = &mut self.pages {
            pages.share(from, others);
            let len = self.slots[from].len;
            for &row in others {
                self.slots[row].len = len;
            }
            return;
        }
        let slot = &mut self.slots[from];
        // A copy of the exact size; the row keeps its own memory, which may be reserved for more.
        let shared = Arc::new(slot.layers.clone());
        for (keys, values) in &mut slot.layers {
            keys.clear();
            values.clear();
        }
        let len = slot.len;
        for row in others.iter().chain([&from]) {
            self.slots[*row].len = len;
            self.slots[*row].shared = Some((shared.clone(), len));
        }
    }

    /// Requires `row` to exist.
    pub(crate) fn check_row(&self, row: usize) -> Result<()> {
        if row < self.rows() {
            return Ok(());
        }
        Err(Error::setting("row", row, format!("the cache has {} rows", self.rows())))
    }
}
