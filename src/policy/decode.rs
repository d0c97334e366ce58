//! Decoding: chunks of new tokens of many rows against the KV cache, in f32, without gradients.
//!
//! [`crate::policy::decoder`] says why this is separate from the training forward pass.
//!
//! Shapes: n = new tokens of all rows packed one after another, h = hidden width, v = vocabulary,
//! r = rows of the call.

use crate::kernels::cpu::float::with_slice;
use crate::kernels::decode::inference::{attend, embedding_rows, norm_rows, Input, GEMV_ROWS};
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::team::Team;
use crate::kernels::dispatch::is_cpu;
use crate::kernels::layers::rope_table::RopeTable;
use crate::policy::block::{Block, LoraAdapter, Projection};
use crate::policy::cache::{KvCache, Slot};
use crate::policy::decode_device::moved;
use crate::policy::decoder::Decoder;
use crate::{Error, Result};
use candle_core::Tensor;

/// Tokens whose activations fit into the memory that [`Scratch`] keeps.
const TOGETHER: usize = if cfg!(test) { 24 } else { 2048 };

/// The new tokens of one row.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Position of the first one.
    position: usize,
    /// Number of tokens.
    count: usize,
}

impl Decoder {
    /// Appends `tokens[i]` to `rows[i]` of the cache, for all rows at once, and returns the logits
    /// at the last position of every row, `[r][v]` flattened.
    ///
    /// Chunks may differ in length. The set of rows in a call affects the result by rounding only.
    ///
    /// # Errors
    /// Rows that do not exist or repeat, an empty chunk, an id outside the vocabulary, a chunk that
    /// does not fit into the context, a cache of another configuration, or logits that are not
    /// finite. The cache is unchanged unless the error is in the logits.
    pub fn extend(
        &self,
        cache: &mut KvCache,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<Vec<f32>> {
        if !is_cpu(&self.norm) {
            self.check_chunks(cache, rows, tokens)?;
            let logits = self.extend_on_device(cache, rows, tokens)?;
            let logits = logits.flatten_all()?.to_vec1()?;
            return self.check_logits(&logits, rows.len()).map(|()| logits);
        }
        if cache.pages.is_some() {
            if !cache.is_empty() {
                return Err(moved());
            }
            cache.pages = None;
        }
        // Many tokens make GEMMs that are worth waking rayon's threads for. For few tokens, waking
        // them takes too long.
        let count: usize = rows
            .iter()
            .map(|&row| cache.slots.get(row).map_or(0, |slot| slot.pending.len()))
            .sum::<usize>()
            + tokens.iter().map(|chunk| chunk.len()).sum::<usize>();
        if count > GEMV_ROWS {
            return self.extend_with(Team::Pool, cache, rows, tokens).map(Vec::from);
        }
        Team::awake(|team| self.extend_with(team, cache, rows, tokens)).map(Vec::from)
    }

    /// [`Decoder::extend`] on the threads of `team`.
    pub(crate) fn extend_with(
        &self,
        team: Team<'_>,
        cache: &mut KvCache,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<Scratch> {
        self.check_chunks(cache, rows, tokens)?;
        let mut slots: Vec<Slot> =
            rows.iter().map(|&row| std::mem::take(&mut cache.slots[row])).collect();
        let logits = self.run_groups(team, &mut slots, tokens);
        for (&row, slot) in rows.iter().zip(slots) {
            cache.slots[row] = slot;
        }
        let logits = logits?;
        self.check_logits(&logits, rows.len()).map(|()| logits)
    }

    /// Requires the logits of all rows to be numbers.
    fn check_logits(&self, logits: &[f32], rows: usize) -> Result<()> {
        // Scans whole rows: without an early exit, the loop is vectorised.
        let broken = |row: &[f32]| row.iter().fold(false, |nan, x| nan | x.is_nan());
        match logits.chunks(self.config.vocab_size).position(broken) {
            Some(row) => {
                let at = format!("row {row} of {rows}");
                Err(Error::NonFinite { name: "logits".into(), value: f64::NAN, at })
            }
            None => Ok(()),
        }
    }

    /// Runs consecutive rows together as long as they have at most [`TOGETHER`] tokens.
    fn run_groups(
        &self,
        team: Team<'_>,
        mut slots: &mut [Slot],
        mut tokens: &[&[u32]],
    ) -> Result<Scratch> {
        let mut logits: Option<Scratch> = None;
        while !slots.is_empty() {
            let mut count = 0;
            let fitting = slots.iter().zip(tokens).take_while(|(slot, chunk)| {
                count += slot.pending.len() + chunk.len();
                count <= TOGETHER
            });
            let rows = fitting.count().max(1);
            let (group, rest) = slots.split_at_mut(rows);
            let made = self.run(team, group, &tokens[..rows])?;
            logits = Some(match logits {
                None => made,
                Some(before) => [&before[..], &made[..]].concat().into(),
            });
            slots = rest;
            tokens = &tokens[rows..];
        }
        Ok(logits.unwrap_or_else(|| Scratch::new(0)))
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
        let [logits] = Input::new(x, self.config.hidden_size).linear(team, [(&self.head, None)])?;
        Ok(logits)
    }

    pub(crate) fn check_chunks(
        &self,
        cache: &KvCache,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<()> {
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
                "was built for another configuration",
            ));
        }
        for (i, (&row, chunk)) in rows.iter().zip(tokens).enumerate() {
            cache.check_row(row)?;
            if rows[..i].contains(&row) {
                return Err(Error::setting("rows", row, "each row may appear only once per call"));
            }
            if chunk.len() > cache.room(row) {
                let reason =
                    format!("row {row} has room for {} of {} tokens", cache.room(row), cache.limit);
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

    /// Runs one block. With `last`, only the last position of every row is computed, all that the
    /// logits need.
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
        let normed = self.normed(team, &x, &block.input_norm)?;
        let last = last && spans.iter().any(|s| s.count > 1);
        let last_normed = last.then(|| last_rows(&normed, spans, width));
        let input = Input::new(normed, width);
        let [q, k, v] = match last_normed {
            None => project(team, &input, [&block.q, &block.k, &block.v])?,
            Some(normed) => {
                x = last_rows(&x, spans, width);
                let [k, v] = project(team, &input, [&block.k, &block.v])?;
                let [q] = project(team, &Input::new(normed, width), [&block.q])?;
                [q, k, v]
            }
        };
        let (q, k) = match &block.head_norms {
            Some([q_norm, k_norm]) => {
                (self.normed(team, &q, q_norm)?, self.normed(team, &k, k_norm)?)
            }
            None => (q, k),
        };
        let mixed = self.attend_rows(team, [q, k, v], slots, layer, spans, last);
        add_projection(team, &Input::new(mixed, block.o.weight.dims2()?.1), &block.o, &mut x)?;
        self.add_feed_forward(team, block, &mut x)?;
        Ok(x)
    }

    /// Adds the feed-forward branch to the residual stream x.
    fn add_feed_forward(&self, team: Team<'_>, block: &Block, x: &mut [f32]) -> Result<()> {
        let width = self.config.hidden_size;
        let input = Input::new(self.normed(team, x, &block.post_norm)?, width);
        let gated = match [&block.gate, &block.up] {
            plain if plain.iter().all(|p| p.lora.is_none() && p.bias.is_none()) => {
                input.gated(team, plain.map(|projection| &projection.weight))?
            }
            adapted => {
                let [gate, up] = project(team, &input, adapted)?;
                Input::activated(team, gate, &up, self.config.intermediate_size)
            }
        };
        add_projection(team, &gated, &block.down, x)
    }

    /// Appends the new keys and values to every row's cache and computes the attention of its new
    /// tokens or, with `last`, of its last token.
    fn attend_rows(
        &self,
        team: Team<'_>,
        [mut q, mut k, mut v]: [Scratch; 3],
        slots: &mut [Slot],
        layer: usize,
        spans: &[Span],
        last: bool,
    ) -> Scratch {
        let c = &self.config;
        let dims @ (heads, kv_heads, d) =
            (c.num_attention_heads, c.num_key_value_heads, c.head_dim());
        let queries = |span: &Span| if last { 1 } else { span.count };
        let mut out = Scratch::zeros(q.len());
        let of_queries = || spans.iter().map(|span| queries(span) * heads * d);
        let of_tokens = || spans.iter().map(|span| span.count * kv_heads * d);
        let q_and_out = parts(&mut q, of_queries()).zip(parts(&mut out, of_queries()));
        let k_and_v = parts(&mut k, of_tokens()).zip(parts(&mut v, of_tokens()));
        let work = slots.iter_mut().zip(spans).zip(q_and_out.zip(k_and_v)).collect();
        let multiply_adds: usize =
            spans.iter().map(|s| queries(s) * (s.position + s.count)).sum::<usize>() * heads * d;
        team.each(work, multiply_adds, |((slot, span), ((q, out), (k, v)))| {
            let first = span.position + span.count - queries(span);
            rotate_rows(&self.rope, k, span.position, kv_heads * d);
            rotate_rows(&self.rope, q, first, heads * d);
            let (keys, values) = &mut slot.layers[layer];
            keys.extend_from_slice(k);
            values.extend_from_slice(v);
            attend(q, slot.past(layer, kv_heads * d), first, dims, out);
        });
        out
    }
}

/// Splits a slice into consecutive parts of the given lengths.
fn parts(
    mut all: &mut [f32],
    lengths: impl Iterator<Item = usize>,
) -> impl Iterator<Item = &mut [f32]> {
    lengths.map_while(move |len| all.split_off_mut(..len))
}

/// x Wᵀ + b, plus the LoRA adapter's output, for every projection.
fn project<const N: usize>(
    team: Team<'_>,
    x: &Input,
    projections: [&Projection; N],
) -> Result<[Scratch; N]> {
    let mut y = x.linear(team, projections.map(|p| (&p.weight, p.bias.as_ref())))?;
    for (y, projection) in y.iter_mut().zip(projections) {
        add_adapter(team, x, projection, y)?;
    }
    Ok(y)
}

/// y += x Wᵀ + b, plus the LoRA adapter's output.
fn add_projection(team: Team<'_>, x: &Input, projection: &Projection, y: &mut [f32]) -> Result<()> {
    x.add_linear(team, (&projection.weight, projection.bias.as_ref()), y)?;
    add_adapter(team, x, projection, y)
}

/// y += s (x Aᵀ) Bᵀ if the projection has a LoRA adapter.
fn add_adapter(team: Team<'_>, x: &Input, projection: &Projection, y: &mut [f32]) -> Result<()> {
    let Some(LoraAdapter { a, b, scale, .. }) = &projection.lora else { return Ok(()) };
    let [mut inner] = x.linear(team, [(&a.clone().into(), None)])?;
    for u in inner.iter_mut() {
        *u *= *scale as f32;
    }
    Input::new(inner, b.dim(1)?).add_linear(team, (&b.clone().into(), None), y)
}

/// Rotates consecutive rows by the angles of consecutive positions, starting at `position`.
fn rotate_rows(table: &RopeTable, x: &mut [f32], position: usize, width: usize) {
    for (row, position) in x.chunks_exact_mut(width).zip(position..) {
        table.rotate(row, position, false);
    }
}

/// The last position of every span.
fn last_rows(x: &[f32], spans: &[Span], h: usize) -> Scratch {
    let mut out = Scratch::new(spans.len() * h);
    let mut end = 0;
    for (out, span) in out.chunks_exact_mut(h).zip(spans) {
        end += span.count * h;
        out.copy_from_slice(&x[end - h..end]);
    }
    out
}
