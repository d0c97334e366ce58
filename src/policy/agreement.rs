//! The largest difference between decoding and the training forward pass.
//!
//! Rollouts and updates compute the same log-probabilities by different code. If they drift apart,
//! importance ratios are wrong and training degrades silently, so the gap is measured by tests and
//! can be measured by users.

use crate::kernels::score::logprob_entropy::logprob_entropy;
use crate::kernels::score::softmax::row_statistics;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Computes max |Δ log p| between decoding and the teacher-forced forward pass over the tokens of
/// `rows`, in nats.
///
/// Every row of two or more tokens is decoded as one chunk, its first half, followed by single
/// tokens; all rows are decoded together.
///
/// # Errors
/// No row with two tokens, a row longer than the context, or an id outside the vocabulary.
pub fn max_decode_forward_gap(decoder: &Decoder, rows: &[&[u32]]) -> Result<f64> {
    let rows: Vec<&[u32]> = rows.iter().copied().filter(|row| row.len() > 1).collect();
    if rows.is_empty() {
        return Err(Error::EmptyMask { name: "rows", at: "no row has two tokens".into() });
    }
    let expected = forward_log_probs(decoder, &rows)?;
    let mut cache = KvCache::new(decoder.config(), rows.len());
    let mut gap = 0.0f64;
    let mut step = 0;
    loop {
        let starts = |row: &[u32]| if step == 0 { 0 } else { row.len() / 2 + step - 1 };
        let active: Vec<usize> =
            (0..rows.len()).filter(|&i| rows[i].len() / 2 + step < rows[i].len()).collect();
        if active.is_empty() {
            return Ok(gap);
        }
        let ends: Vec<usize> = active.iter().map(|&i| rows[i].len() / 2 + step).collect();
        let chunks: Vec<&[u32]> =
            active.iter().zip(&ends).map(|(&i, &end)| &rows[i][starts(rows[i])..end]).collect();
        let logits = decoder.extend(&mut cache, &active, &chunks)?;
        for ((&i, &end), logits) in
            active.iter().zip(&ends).zip(logits.chunks_exact(decoder.config.vocab_size))
        {
            let log_prob =
                row_statistics(logits, 1.0).log_prob(f64::from(logits[rows[i][end] as usize]), 1.0);
            gap = gap.max((log_prob - expected[i][end - 1]).abs());
        }
        step += 1;
    }
}

/// log p(row\[j + 1\] | row\[..= j\]) for every row, by the forward pass.
fn forward_log_probs(decoder: &Decoder, rows: &[&[u32]]) -> Result<Vec<Vec<f64>>> {
    let hidden = decoder.forward_packed(rows)?;
    let targets: Vec<u32> =
        rows.iter().flat_map(|row| row[1..].iter().chain(&row[..1])).copied().collect();
    let targets = Tensor::new(targets, decoder.device())?;
    let (log_probs, _) = logprob_entropy(&decoder.logits(&hidden)?, &targets, 1.0)?;
    let mut all = log_probs.to_dtype(DType::F64)?.to_vec1::<f64>()?.into_iter();
    Ok(rows.iter().map(|row| all.by_ref().take(row.len()).collect()).collect())
}
