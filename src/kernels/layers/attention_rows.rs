//! Arguments of attention: heads, packed sequences, weights, and positions.

use crate::kernels::layers::rope_table::RopeTable;
use crate::kernels::layers::shared::SharedPrefixes;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Heads and sequence lengths of one attention call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K; H is a multiple of it.
    pub kv_heads: usize,
    /// Features per head d.
    pub head_dim: usize,
    /// Length of every packed sequence, in order.
    pub lengths: Vec<usize>,
}

impl AttentionShape {
    /// Checks that heads form whole groups and no sequence is empty.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.kv_heads == 0
            || !self.heads.is_multiple_of(self.kv_heads)
            || self.lengths.contains(&0)
        {
            candle_core::bail!(
                "attention: heads in whole groups and no empty sequence are required, got {self:?}"
            );
        }
        Ok(())
    }

    pub(super) fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        self.validate()?;
        let n = self.lengths.iter().sum::<usize>();
        let kv = [n, self.kv_heads * self.head_dim];
        if q.dims() != [n, self.heads * self.head_dim] || k.dims() != kv || v.dims() != kv {
            candle_core::bail!(
                "attention: mismatched shapes: q {:?}, k {:?}, v {:?} with {self:?}",
                q.shape(),
                k.shape(),
                v.shape()
            );
        }
        Ok(())
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Returns (first row, length, key/value head) of every independent piece of work.
    pub(super) fn pieces(&self) -> Vec<(usize, usize, usize)> {
        let mut start = 0;
        let mut pieces = Vec::with_capacity(self.lengths.len() * self.kv_heads);
        for &len in &self.lengths {
            pieces.extend((0..self.kv_heads).map(|head| (start, len, head)));
            start += len;
        }
        pieces
    }
}

/// Weights of an attention branch: H query heads, K key/value heads, d features per head, h hidden
/// width.
#[derive(Debug, Clone, Copy)]
pub struct AttentionWeights<'a> {
    /// Norm weight `[h]`.
    pub norm: &'a Tensor,
    /// Query `[H·d, h]`, key and value `[K·d, h]` projections.
    pub qkv: [&'a Tensor; 3],
    /// Biases of these projections.
    pub biases: [Option<&'a Tensor>; 3],
    /// Output projection `[h, H·d]`.
    pub output: &'a Tensor,
}

/// Layout of a batch of packed sequences: heads, lengths, positions, shared prefixes.
#[derive(Debug, Clone)]
pub struct AttentionRows {
    /// Heads and lengths of the packed sequences.
    pub shape: AttentionShape,
    /// Angles of the rotary embedding.
    pub table: Arc<RopeTable>,
    /// Position of every computed token in its sequence.
    pub positions: Arc<[u32]>,
    /// Prefixes that sequences share; `None` if all tokens are computed.
    pub shared: Option<SharedPrefixes>,
}

impl AttentionRows {
    /// Returns the number of computed tokens.
    pub(crate) fn computed(&self) -> usize {
        self.shared
            .as_ref()
            .map_or_else(|| self.shape.lengths.iter().sum(), SharedPrefixes::computed)
    }

    /// Returns true if the sequences have as many tokens as the shared prefixes describe.
    pub(crate) fn is_consistent(&self) -> bool {
        let tokens: usize = self.shape.lengths.iter().sum();
        self.shared.as_ref().is_none_or(|shared| shared.tokens() == tokens)
    }

    /// Returns the widths of queries and keys.
    pub(super) fn widths(&self) -> [usize; 2] {
        [self.shape.heads, self.shape.kv_heads].map(|heads| heads * self.shape.head_dim)
    }
}
