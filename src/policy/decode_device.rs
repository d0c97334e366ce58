//! Decoding on a GPU: weights, keys and values, logits and draws stay there. Each token step reads
//! back three numbers a row.

use crate::kernels::decode::paged::{attend_pages, rope_at, sample_rows, wide_logits, Draws};
use crate::kernels::layers::attention_rows::AttentionShape;
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::rows_at::rows_at;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::policy::generate::{share_prompts, Prompts, Turn};
use crate::policy::pages::Pages;
use crate::policy::sampling::SamplingParams;
use crate::{Error, Result};
use candle_core::Tensor;
use std::ops::Range;

/// Tokens that are computed together; bounds the memory of activations.
const TOGETHER: usize = if cfg!(test) { 24 } else { 16_384 };

impl Decoder {
    /// Appends tokens to rows and returns the logits f32 `[r, v]` at the last position of each, for
    /// arguments that have been checked.
    pub(crate) fn extend_on_device(
        &self,
        cache: &mut KvCache,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<Tensor> {
        let mut pages = match cache.pages.take() {
            Some(pages) if pages.fits(&self.norm) => pages,
            _ if cache.is_empty() => {
                Pages::new(self.blocks.len(), cache.width, cache.rows(), &self.norm)?
            }
            other => {
                cache.pages = other;
                return Err(moved());
            }
        };
        let logits = self.run_on_device(cache, &mut pages, rows, tokens);
        cache.pages = Some(pages);
        logits
    }

    /// Runs consecutive rows together as long as they have at most [`TOGETHER`] tokens.
    fn run_on_device(
        &self,
        cache: &mut KvCache,
        pages: &mut Pages,
        rows: &[usize],
        tokens: &[&[u32]],
    ) -> Result<Tensor> {
        let mut logits = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let mut spans = Vec::new();
            let mut ids = Vec::new();
            for (&row, chunk) in rows[first..].iter().zip(&tokens[first..]) {
                let slot = &mut cache.slots[row];
                let count = slot.pending.len() + chunk.len();
                if !spans.is_empty() && ids.len() + count > TOGETHER {
                    break;
                }
                ids.append(&mut slot.pending);
                ids.extend_from_slice(chunk);
                spans.push((row, slot.len..slot.len + count));
            }
            first += spans.len();
            logits.push(self.run_spans(pages, &spans, ids)?);
            for (row, span) in spans {
                cache.slots[row].len = span.end;
            }
        }
        Ok(Tensor::cat(&logits, 0)?)
    }

    fn run_spans(
        &self,
        pages: &mut Pages,
        spans: &[(usize, Range<usize>)],
        ids: Vec<u32>,
    ) -> Result<Tensor> {
        let Some(embedding) = self.embedding.dense() else {
            let reason = "quantised weights are computed with on the CPU only";
            return Err(Error::setting("model.device", "another than cpu", reason));
        };
        pages.prepare(spans)?;
        let places: Vec<u32> =
            spans.iter().flat_map(|(row, span)| pages.places(*row, span.clone())).collect();
        let places = Tensor::new(places, self.device())?;
        let queries = pages.queries(spans)?;
        let c = &self.config;
        let shape = AttentionShape {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim(),
            lengths: vec![],
        };
        let mut x = rows_at(&embedding.detach(), &ids.into())?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let block = block.detached()?;
            let rotated = |x: &Tensor| rope_at(x, &self.rope, &queries.positions);
            let [q, k, v] = block.queries_keys_values(&x, c.rms_norm_eps, &rotated)?;
            pages.write(layer, [&k, &v], &places)?;
            let mixed = attend_pages(&q, pages.layer(layer), &queries, &shape)?;
            x = block.after_attention(&x, &mixed, c.rms_norm_eps)?;
        }
        let mut end = 0;
        let mut last = Vec::with_capacity(spans.len());
        for (_, span) in spans {
            end += span.len() as u32;
            last.push(end - 1);
        }
        let x = rms_norm(&rows_at(&x, &last.into())?, &self.norm.detach(), c.rms_norm_eps)?;
        match self.head.dense() {
            Some(head) => Ok(wide_logits(&x, &head.detach())?),
            None => {
                Err(Error::setting("model.device", "another than cpu", "the head is quantised"))
            }
        }
    }

    /// [`Decoder::generate`] for requests that have been checked and fit.
    pub(crate) fn generate_on_device(
        &self,
        cache: &mut KvCache,
        mut active: Vec<&mut Turn<'_>>,
        sampling: &SamplingParams,
    ) -> Result<()> {
        let Prompts { rows, prompts, source } = Prompts::of(cache, &mut active);
        self.check_chunks(cache, &rows, &prompts)?;
        let read = self.extend_on_device(cache, &rows, &prompts)?;
        share_prompts(cache, &active, &rows, &source);
        let source: Vec<u32> = source.iter().map(|&place| place as u32).collect();
        let mut logits = rows_at(&read, &source.into())?;
        loop {
            sample(&logits, &mut active, sampling)?;
            active.retain_mut(|turn| {
                let row = turn.request.row;
                cache.slots[row].pending.extend(turn.out.ids.last());
                !turn.finished(cache.room(row), sampling)
            });
            if active.is_empty() {
                return Ok(());
            }
            let rows: Vec<usize> = active.iter().map(|turn| turn.request.row).collect();
            let chunks = vec![&[][..]; rows.len()];
            self.check_chunks(cache, &rows, &chunks)?;
            logits = self.extend_on_device(cache, &rows, &chunks)?;
        }
    }
}

/// Samples the next token of every turn: on the device, or on the host if the support depends on
/// the probabilities.
fn sample(logits: &Tensor, turns: &mut [&mut Turn<'_>], sampling: &SamplingParams) -> Result<()> {
    if sampling.truncates() {
        let rows = turns.len();
        let mut host = logits.to_vec2::<f32>()?;
        for (i, (turn, logits)) in turns.iter_mut().zip(&mut host).enumerate() {
            if logits.iter().any(|x| x.is_nan()) {
                return Err(not_finite(i, rows));
            }
            turn.sample(logits, sampling);
        }
        return Ok(());
    }
    let mut draws = Draws {
        uniform: Vec::new(),
        start: Vec::new(),
        count: Vec::new(),
        allowed: Vec::new(),
        inverse_temperature: (1.0 / sampling.temperature) as f32,
    };
    let mut supports = Vec::new();
    for turn in turns.iter() {
        let support = turn.allowed();
        draws.start.push(draws.allowed.len() as u32);
        draws.count.push(support.as_ref().map_or(Draws::WHOLE, |ids| ids.len() as u32));
        draws.allowed.extend(support.iter().flatten());
        draws.uniform.push(if sampling.greedy { -1.0 } else { turn.uniform() as f32 });
        supports.push(support);
    }
    let sampled = sample_rows(logits, &draws)?;
    let rows = turns.len();
    for (i, (turn, ([id, log_prob, entropy], support))) in
        turns.iter_mut().zip(sampled.into_iter().zip(supports)).enumerate()
    {
        if id < 0.0 {
            return Err(not_finite(i, rows));
        }
        turn.record(id as u32, log_prob, entropy, support);
    }
    Ok(())
}

/// The error of a cache that another kind of device has filled.
pub(crate) fn moved() -> Error {
    let reason = "was filled on another device or in another type; reset all rows first";
    Error::setting("cache", "keys and values", reason)
}

fn not_finite(row: usize, rows: usize) -> Error {
    let at = format!("row {row} of {rows}");
    Error::NonFinite { name: "logits".into(), value: f64::NAN, at }
}
