//! The decoding mode: ragged chunks of many rows against the cache, in f32, without gradients.
//!
//! Shapes: n = new tokens of all rows packed one after another, h = hidden width, v = vocabulary,
//! r = rows of the call.

use super::block::{Block, Correction, Projection};
use super::cache::{KvCache, Slot};
use super::decoder::Decoder;
use crate::kernels::{
    attend, embedding_rows, norm_rows, swiglu_rows, with_slice, Input, RopeTable, Scratch, Team, FEW,
};
use crate::{Error, Result};
use candle_core::Tensor;

/// The new tokens of one row.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Position of the first one.
    position: usize,
    /// How many.
    count: usize,
}

impl Decoder {
    /// Appends `tokens[i]` to `rows[i]` of the cache, for all rows at once, and returns the logits at the last
    /// position of every row, `[r][v]` flattened.
    ///
    /// Chunks may differ in length. Which rows share a call changes the result by rounding only.
    ///
    /// # Errors
    /// Rows that do not exist or repeat, an empty chunk, an id outside the vocabulary, a chunk that does
    /// not fit the context, a cache of another configuration, and logits that are not finite. The cache is
    /// unchanged unless the error is in the logits.
    pub fn extend(&self, cache: &mut KvCache, rows: &[usize], tokens: &[&[u32]]) -> Result<Vec<f32>> {
        // Many tokens are products that rayon's threads share; with few, they would be asleep whenever there is work.
        let count: usize =
            rows.iter().map(|&row| cache.slots.get(row).map_or(0, |slot| slot.pending.len())).sum::<usize>()
                + tokens.iter().map(|chunk| chunk.len()).sum::<usize>();
        if count > FEW {
            return self.extend_with(Team::Pool, cache, rows, tokens).map(Vec::from);
        }
        Team::awake(|team| self.extend_with(team, cache, rows, tokens)).map(Vec::from)
    }

    /// [`Decoder::extend`] with these threads.
    pub(super) fn extend_with(
        &self,
        team: Team<'_>,
        cache: &mut KvCache,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<Scratch> {
        self.check_chunks(cache, rows, tokens)?;
        let mut slots: Vec<Slot> = rows.iter().map(|&row| std::mem::take(&mut cache.slots[row])).collect();
        let logits = self.run(team, &mut slots, tokens);
        for (&row, slot) in rows.iter().zip(slots) {
            cache.slots[row] = slot;
        }
        let logits = logits?;
        match logits.iter().position(|x| x.is_nan()) {
            Some(i) => {
                let at = format!("row {} of {}", i / self.config.vocab_size, rows.len());
                Err(Error::NonFinite { name: "logits".into(), value: f64::NAN, at })
            }
            None => Ok(logits),
        }
    }

    fn run(&self, team: Team<'_>, slots: &mut [Slot], tokens: &[&[u32]]) -> Result<Scratch> {
        let mut ids = Vec::new();
        let mut spans = Vec::with_capacity(slots.len());
        for (slot, chunk) in slots.iter_mut().zip(tokens) {
            let count = slot.pending.len() + chunk.len();
            ids.append(&mut slot.pending);
            ids.extend_from_slice(chunk);
            spans.push(Span { position: slot.len, count });
        }
        let mut x = self.embed(&ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let last = layer + 1 == self.blocks.len();
            x = self.run_block(team, (block, layer), x, slots, &spans, last)?;
        }
        for (slot, span) in slots.iter_mut().zip(&spans) {
            slot.len += span.count;
        }
        let x = self.normed(team, &x, &self.norm)?;
        Input::new(&x, self.config.hidden_size).linear(team, &self.head, None, None)
    }

    fn check_chunks(&self, cache: &KvCache, rows: &[usize], tokens: &[&[u32]]) -> Result<()> {
        if rows.len() != tokens.len() {
            return Err(Error::Shape {
                name: "tokens",
                expected: format!("[{}]", rows.len()),
                got: vec![tokens.len()],
            });
        }
        let width = self.config.num_key_value_heads * self.config.head_dim();
        let layers = cache.slots.first().map_or(self.blocks.len(), |s| s.layers.len());
        if cache.width != width
            || cache.limit != self.config.max_position_embeddings
            || layers != self.blocks.len()
        {
            return Err(Error::setting(
                "cache",
                format!("{layers} layers of width {}", cache.width),
                "built for another configuration",
            ));
        }
        for (i, (&row, chunk)) in rows.iter().zip(tokens).enumerate() {
            cache.check_row(row)?;
            if rows[..i].contains(&row) {
                return Err(Error::setting("rows", row, "a row may appear once per call"));
            }
            if chunk.len() > cache.room(row) {
                let reason = format!("row {row} has room for {} of {} tokens", cache.room(row), cache.limit);
                return Err(Error::setting(format!("tokens[{i}].len"), chunk.len(), reason));
            }
            if !chunk.is_empty() || cache.slots[row].pending.is_empty() {
                self.check_row(i, chunk)?;
            }
        }
        Ok(())
    }

    fn embed(&self, ids: &[u32]) -> Result<Scratch> {
        embedding_rows(&self.embedding, ids)
    }

    fn normed(&self, team: Team<'_>, x: &[f32], weight: &Tensor) -> Result<Scratch> {
        let eps = self.config.rms_norm_eps as f32;
        Ok(with_slice::<f32, _>(weight, |w| Ok(norm_rows(team, x, w, eps)))?)
    }

    /// One block; `last` keeps only the last position of every row, all that the logits need.
    fn run_block(
        &self,
        team: Team<'_>,
        (block, layer): (&Block, usize),
        mut x: Scratch,
        slots: &mut [Slot],
        spans: &[Span],
        last: bool,
    ) -> Result<Scratch> {
        let width = self.config.hidden_size;
        let mut normed = self.normed(team, &x, &block.input_norm)?;
        let [q_norm, k_norm] = block.head_norms.as_ref().map_or([None; 2], |n| n.each_ref().map(Some));
        let mut input = Input::new(&normed, width);
        let keys = self.rotated(team, &input, &block.k, k_norm, spans)?;
        let values = project(team, &input, &block.v, None)?;
        append(slots, layer, spans, &keys, &values);
        let mut queries = spans.to_vec();
        if last && spans.iter().any(|s| s.count > 1) {
            x = last_rows(&x, spans, width);
            normed = last_rows(&normed, spans, width);
            input = Input::new(&normed, width);
            queries = spans.iter().map(|s| Span { position: s.position + s.count - 1, count: 1 }).collect();
        }
        let q = self.rotated(team, &input, &block.q, q_norm, &queries)?;
        let mixed = self.attend_rows(team, &q, slots, layer, &queries);
        let x = project(team, &Input::new(&mixed, block.o.weight.dim(1)?), &block.o, Some(x))?;
        let normed = self.normed(team, &x, &block.post_norm)?;
        let input = Input::new(&normed, width);
        let mut gate = project(team, &input, &block.gate, None)?;
        swiglu_rows(team, &mut gate, &project(team, &input, &block.up, None)?);
        project(team, &Input::new(&gate, self.config.intermediate_size), &block.down, Some(x))
    }

    /// Queries or keys: projected, normalised head by head where there is a norm, rotated.
    fn rotated(
        &self,
        team: Team<'_>,
        x: &Input,
        projection: &Projection,
        norm: Option<&Tensor>,
        spans: &[Span],
    ) -> Result<Scratch> {
        let mut heads = project(team, x, projection, None)?;
        if let Some(weight) = norm {
            heads = self.normed(team, &heads, weight)?;
        }
        rotate_rows(&self.rope, &mut heads, spans);
        Ok(heads)
    }

    fn attend_rows(
        &self,
        team: Team<'_>,
        q: &[f32],
        slots: &[Slot],
        layer: usize,
        spans: &[Span],
    ) -> Scratch {
        let c = &self.config;
        let h = c.num_attention_heads * c.head_dim();
        let mut out = Scratch::zeros(q.len());
        let mut work = Vec::with_capacity(spans.len());
        let (mut q, mut rest) = (q, &mut out[..]);
        for (slot, span) in slots.iter().zip(spans) {
            let (mine, others) = rest.split_at_mut(span.count * h);
            let (queries, others_q) = q.split_at(span.count * h);
            work.push((slot, span.position, queries, mine));
            (q, rest) = (others_q, others);
        }
        let heads = (c.num_attention_heads, c.num_key_value_heads, c.head_dim());
        let scores: usize = spans.iter().map(|s| s.count * (s.position + s.count)).sum();
        team.each(work, scores * h, |(slot, position, q, out)| {
            attend(q, slot.past(layer, heads.1 * heads.2), position, heads, out);
        });
        out
    }
}

/// x Wᵀ + b with its correction, added to `onto` where given.
fn project(team: Team<'_>, x: &Input, projection: &Projection, onto: Option<Scratch>) -> Result<Scratch> {
    let y = x.linear(team, &projection.weight, projection.bias.as_ref(), onto)?;
    match &projection.lora {
        Some(Correction { a, b, scale, .. }) => {
            let mut inner = x.linear(team, a, None, None)?;
            inner.iter_mut().for_each(|u| *u *= *scale as f32);
            Input::new(&inner, b.dim(1)?).linear(team, b, None, Some(y))
        }
        None => Ok(y),
    }
}

fn rotate_rows(table: &RopeTable, x: &mut [f32], spans: &[Span]) {
    let n: usize = spans.iter().map(|s| s.count).sum();
    let width = x.len() / n.max(1);
    let positions = spans.iter().flat_map(|s| s.position..s.position + s.count);
    for (row, position) in x.chunks_exact_mut(width.max(1)).zip(positions) {
        table.rotate(row, position, false);
    }
}

fn append(slots: &mut [Slot], layer: usize, spans: &[Span], keys: &[f32], values: &[f32]) {
    let n: usize = spans.iter().map(|s| s.count).sum();
    let width = keys.len() / n.max(1);
    let mut start = 0;
    for (slot, span) in slots.iter_mut().zip(spans) {
        let range = start..start + span.count * width;
        start = range.end;
        let (k, v) = &mut slot.layers[layer];
        k.extend_from_slice(&keys[range.clone()]);
        v.extend_from_slice(&values[range]);
    }
}

fn last_rows(x: &[f32], spans: &[Span], h: usize) -> Scratch {
    let mut out = Scratch::new(spans.len() * h);
    let mut end = 0;
    for (out, span) in out.chunks_exact_mut(h).zip(spans) {
        end += span.count * h;
        out.copy_from_slice(&x[end - h..end]);
    }
    out
}
