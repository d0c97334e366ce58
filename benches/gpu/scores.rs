//! Log-probability and entropy, forward and backward in place, over bf16 logits, next to the
//! device's copy.
//!
//! The copy is the driver's (cuMemcpyDtoD) into memory that the allocator keeps. The forward pass
//! reads the logits once, the gradient reads and writes them: three passes of 2 n v bytes. Reads
//! and writes of the copy are counted the same way. Printed are medians of single calls, each
//! followed by a synchronisation.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use epo::kernels::{evaluate, Evaluation, ScoreOptions};
use std::time::Instant;

const VOCABULARY: usize = 151_936;
const CALLS: usize = 21;

/// Returns the median seconds of a call on the device.
fn median(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = Vec::with_capacity(CALLS);
    for warm_up in [true, true].into_iter().chain([false; CALLS]) {
        device.synchronize()?;
        let start = Instant::now();
        call()?;
        device.synchronize()?;
        if !warm_up {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[CALLS / 2])
}

fn line(what: &str, bytes: f64, seconds: f64, copy: f64) {
    let rate = bytes / seconds / 1e9;
    println!(
        "  {what:<28} {:9.3} ms {rate:8.0} GB/s {:6.1} % of the copy",
        1e3 * seconds,
        100.0 * rate / copy
    );
}

pub(crate) fn bench(device: &Device, n: usize) -> Result<()> {
    let logits =
        (Tensor::randn(0f32, 1f32, (n, VOCABULARY), device)?.to_dtype(DType::BF16)? * 3.0)?;
    let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
    let ids = Tensor::new(ids, device)?;
    let options = ScoreOptions::default();
    let grads = Tensor::ones(n, DType::F32, device)?;
    let pass = (2 * n * VOCABULARY) as f64;
    println!("T = {n}, V = {VOCABULARY}, bf16, {:.2} GB of logits", pass / 1e9);

    let seconds = median(device, || logits.copy().map(drop).map_err(Into::into))?;
    let copy = 2.0 * pass / seconds / 1e9;
    line("device copy", 2.0 * pass, seconds, copy);

    let forward = || Ok::<Evaluation, anyhow::Error>(evaluate(&logits, &ids, &options)?);
    let seconds = median(device, || forward().map(|_| ()))?;
    line("forward", pass, seconds, copy);
    let scores = forward()?;
    // In place: the values shrink from call to call, the bytes stay the same.
    let seconds = median(device, || Ok(scores.gradient_in_place(&logits, &grads, &grads)?))?;
    line("backward in place", 2.0 * pass, seconds, copy);
    let both = || Ok(forward()?.gradient_in_place(&logits, &grads, &grads)?);
    let seconds = median(device, both)?;
    line("forward + backward in place", 3.0 * pass, seconds, copy);
    let share = 300.0 * pass / seconds / 1e9 / copy;
    println!("| log-probability + entropy and gradient, T = {n} | {share:.0} % of the copy |");
    Ok(())
}
