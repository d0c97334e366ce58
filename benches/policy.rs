//! Medians of the policy's three costs: a decode step, a prefill, and forward + backward, the last
//! also for the same model of differentiable candle operations.
//!
//! `cargo bench --bench policy`

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use epo::kernels;
use epo::kernels::{composed, logprob_entropy, AttentionShape, RopeTable};
use epo::policy::{
    Decoder, DecoderConfig, Gradients, KvCache, Parameters, Request, SamplingParams,
};
use epo::rng::{Purpose, Stream};
use std::time::Instant;

use common::cpu_seconds;

mod common;

fn config(layers: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size: 1500,
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: layers,
        max_position_embeddings: 2048,
        ..DecoderConfig::tiny(1500)
    }
}

fn ids(n: usize, salt: u64) -> Vec<u32> {
    let stream = Stream::new(1, Purpose::Tasks, salt, 0, 0);
    (0..n).map(|i| (stream.uniform(0, i as u64) * 1500.0) as u32).collect()
}

/// Prints the CPU milliseconds per call of every operator, forward and forward + backward, for n
/// tokens.
fn operators(n: usize) -> Result<()> {
    let tensor = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, &Device::Cpu);
    let var = |shape: &[usize]| -> Result<Var> { Ok(Var::from_tensor(&tensor(shape)?)?) };
    let x = var(&[n, 128])?;
    let gate = var(&[n, 384])?;
    let b = var(&[384])?;
    let norm = var(&[128])?;
    let w = var(&[384, 128])?;
    let w2 = var(&[384, 128])?;
    let down = var(&[128, 384])?;
    let k = var(&[n, 64])?;
    let v = var(&[n, 64])?;
    let logits = var(&[n, 1500])?;
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 32, lengths: vec![n / 16; 16] };
    let table = std::sync::Arc::new(RopeTable::new(32, n / 16, 1e4));
    let positions: std::sync::Arc<[u32]> = (0..n).map(|i| (i % (n / 16)) as u32).collect();
    let targets = Tensor::from_vec(ids(n, 7), n, &Device::Cpu)?;
    let embed = var(&[1500, 128])?;
    type Op<'a> = &'a dyn Fn() -> Result<Tensor>;
    let ops: [(&str, Op<'_>); 8] = [
        ("linear 128->384", &|| Ok(kernels::linear(&x, &w, Some(&b))?)),
        ("rms_norm", &|| Ok(kernels::rms_norm(&x, &norm, 1e-6)?)),
        ("rope", &|| Ok(kernels::rope(&x, &table, &positions)?)),
        ("swiglu 128->384", &|| Ok(kernels::swiglu(&x, &w, &w2)?)),
        ("attention", &|| Ok(kernels::attention(&x, &k, &v, &shape)?)),
        ("logprob_entropy", &|| Ok(logprob_entropy(&logits, &targets, 1.0)?.0)),
        ("embedding", &|| Ok(embed.index_select(&targets, 0)?)),
        ("linear_residual", &|| Ok(kernels::linear_residual(&x, &gate, &down)?)),
    ];
    for (name, op) in ops {
        let time = |f: &dyn Fn() -> Result<()>| -> Result<f64> {
            f()?;
            let start = cpu_seconds();
            (0..20).try_for_each(|_| f())?;
            Ok((cpu_seconds() - start) * 50.0)
        };
        let forward = time(&|| op().map(|_| ()))?;
        let both = time(&|| Ok(op()?.sum_all()?.backward().map(|_| ())?))?;
        println!("{name:16} {n} tokens: forward {forward:6.2}, forward+backward {both:6.2} CPU-ms");
    }
    Ok(())
}

/// Returns the median milliseconds of `n` calls after two warm-up calls.
fn median(n: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(n);
    let cpu = cpu_seconds();
    for i in 0..n + 2 {
        let start = Instant::now();
        f()?;
        if i >= 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    print!("[{:.1} CPU-ms] ", (cpu_seconds() - cpu) * 1e3 / (n + 2) as f64);
    times.sort_by(f64::total_cmp);
    Ok(times[n / 2])
}

fn decoding(rows: usize, context: usize) -> Result<()> {
    let config = config(2);
    let decoder = Decoder::new(&config, &Parameters::init(&config, 1, DType::F32, &Device::Cpu)?)?;
    let prompts: Vec<Vec<u32>> = (0..rows).map(|i| ids(context, i as u64)).collect();
    let all: Vec<usize> = (0..rows).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut cache = KvCache::new(&config, rows);
    let prefill = median(9, || {
        all.iter().try_for_each(|&row| cache.reset(row))?;
        decoder.extend(&mut cache, &all, &prompts)?;
        Ok(())
    })?;
    let sampling = SamplingParams { max_tokens: 32, ..SamplingParams::default() };
    let generate = median(9, || {
        all.iter().try_for_each(|&row| cache.truncate(row, context))?;
        let request = |row| Request {
            row,
            prompt: &[1],
            stream: Stream::new(1, Purpose::Rollout, 0, 0, row as u32),
            turn: 0,
            choices: None,
        };
        let requests: Vec<Request> = all.iter().map(|&row| request(row)).collect();
        decoder.generate(&mut cache, &requests, &sampling)?;
        Ok(())
    })?;
    let tokens = (rows * context) as f64;
    println!(
        "2 layers, {rows:2} rows, context {context:3}: decode step {:.3} ms (with sampling), \
         prefill {prefill:.2} ms = {:.0} tokens/s",
        generate / 32.0,
        tokens / prefill * 1e3
    );
    Ok(())
}

/// Returns the mean of log p plus a tenth of the entropy over every `every`-th position.
fn loss(
    hidden: &Tensor,
    every: usize,
    logits: impl Fn(&Tensor) -> Result<Tensor>,
    own: bool,
) -> Result<Tensor> {
    let n = hidden.dim(0)? / every;
    let index = Tensor::from_vec((0..n).map(|i| (i * every) as u32).collect(), n, &Device::Cpu)?;
    let logits = logits(&hidden.index_select(&index, 0)?)?;
    let targets = Tensor::from_vec(ids(n, 77), n, &Device::Cpu)?;
    let (log_probs, entropies) = if own {
        logprob_entropy(&logits, &targets, 1.0)?
    } else {
        let both = composed::logprob_entropy(&logits, &targets, 1.0)?;
        (both.get(0)?, both.get(1)?)
    };
    Ok((log_probs + (entropies * 0.1)?)?.mean_all()?)
}

/// The same model of differentiable candle operations.
fn rival(
    config: &DecoderConfig,
    p: &Parameters,
    rows: &[&[u32]],
    table: &RopeTable,
) -> Result<Tensor> {
    let lengths: Vec<usize> = rows.iter().map(|r| r.len()).collect();
    let positions: Vec<u32> = lengths.iter().flat_map(|&l| 0..l as u32).collect();
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: config.head_dim(), lengths };
    let ids = Tensor::from_vec(rows.concat(), positions.len(), &Device::Cpu)?;
    let mut x = p.get("model.embed_tokens.weight")?.index_select(&ids, 0)?;
    for i in 0..config.num_hidden_layers {
        let get = |name: &str| p.get(&format!("model.layers.{i}.{name}")).map(|v| v.as_tensor());
        let y = composed::rms_norm(&x, get("input_layernorm.weight")?, config.rms_norm_eps)?;
        let project = |x: &str| -> Result<Tensor> {
            let w = get(&format!("self_attn.{x}_proj.weight"))?;
            let b = get(&format!("self_attn.{x}_proj.bias"))?;
            Ok(composed::linear(&y, w, Some(b))?)
        };
        let q = composed::rope(&project("q")?, table, &positions)?;
        let k = composed::rope(&project("k")?, table, &positions)?;
        let mixed = composed::attention(&q, &k, &project("v")?, &shape)?;
        x = (x + composed::linear(&mixed, get("self_attn.o_proj.weight")?, None)?)?;
        let y =
            composed::rms_norm(&x, get("post_attention_layernorm.weight")?, config.rms_norm_eps)?;
        let y = composed::swiglu(&y, get("mlp.gate_proj.weight")?, get("mlp.up_proj.weight")?)?;
        x = (x + composed::linear(&y, get("mlp.down_proj.weight")?, None)?)?;
    }
    Ok(composed::rms_norm(&x, p.get("model.norm.weight")?, config.rms_norm_eps)?)
}

fn training(every: usize, with_rival: bool) -> Result<()> {
    let config = config(3);
    let parameters = Parameters::init(&config, 1, DType::F32, &Device::Cpu)?;
    let decoder = Decoder::new(&config, &parameters)?;
    let rows: Vec<Vec<u32>> = (0..16).map(|i| ids(400, i)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let whole = median(5, || {
        let loss = loss(&decoder.forward_packed(&rows)?, every, |x| Ok(decoder.logits(x)?), true)?;
        Gradients::of(&loss, &parameters)?;
        Ok(())
    })?;
    let halves = median(5, || {
        let half = |rows: &[&[u32]]| -> Result<Gradients> {
            let loss =
                loss(&decoder.forward_packed(rows)?, every, |x| Ok(decoder.logits(x)?), true)?;
            Ok(Gradients::of(&loss, &parameters)?)
        };
        let (first, second) = rayon::join(|| half(&rows[..8]), || half(&rows[8..]));
        let mut sum = first?;
        sum.add(second?)?;
        Ok(())
    })?;
    let rate = |ms: f64| 16.0 * 400.0 / ms * 1e3;
    println!(
        "3 layers, 16 x 400 tokens, head on 1/{every}: forward+backward {whole:.0} ms \
         = {:.0} tokens/s; as two micro-batches on two threads {halves:.0} ms = {:.0} tokens/s",
        rate(whole),
        rate(halves)
    );
    if with_rival {
        let table = RopeTable::new(config.head_dim(), 2048, config.rope_theta);
        let composed = median(1, || {
            let hidden = rival(&config, &parameters, &rows, &table)?;
            let head = parameters.get("model.embed_tokens.weight")?;
            let loss = loss(&hidden, every, |x| Ok(composed::linear(x, head, None)?), false)?;
            Gradients::of(&loss, &parameters)?;
            Ok(())
        })?;
        println!(
            "  the same model of candle operations: {composed:.0} ms = {:.0} tokens/s, \
             {:.1} times slower",
            rate(composed),
            composed / whole
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    println!("{} threads", rayon::current_num_threads());
    operators(6400)?;
    for (rows, context) in [(1, 200), (4, 200), (8, 200), (8, 600), (16, 200)] {
        decoding(rows, context)?;
    }
    training(1, true)?;
    training(4, false)
}
