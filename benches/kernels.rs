//! Log-probability and entropy, forward and backward, compared with PyTorch and with this machine's
//! memory bandwidth and matrix multiplication.
//!
//! `EPO_PYTHON=python3 cargo bench --bench kernels [-- WORDS]`
//!
//! Each case runs in its own process, ours and PyTorch's in turn, `EPO_BENCH_ROUNDS` (3) times.
//! Medians of wall and CPU time are printed, and the peak memory in addition to the inputs. WORDS
//! select cases by parts of their names. `graph` uses candle's autograd, as a trainer does; `copy`
//! is the time to move three times the logits (12 bytes each in f32); `products` are the four
//! matrix multiplications of a head.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use epo::kernels::{
    evaluate, evaluate_linear, linear_logprob_entropy, logprob_entropy, LmHead, ScoreOptions,
};
use rayon::prelude::*;

use common::{cpu_seconds, figures, forget_peak, memory, python};

mod common;

const V: usize = 151_936;
const H: usize = 896;

/// (group, tokens, element type, our variants, PyTorch's variants); times are relative to our first
/// variant.
type Group = (&'static str, usize, DType, &'static [&'static str], &'static [&'static str]);

const GROUPS: [Group; 6] = [
    (
        "logits",
        1024,
        DType::F32,
        &["in-place", "apart", "graph", "copy"],
        &["naive", "naive-kept", "verl"],
    ),
    ("logits", 1024, DType::BF16, &["in-place", "apart", "copy"], &["naive", "naive-kept", "verl"]),
    (
        "linear",
        256,
        DType::F32,
        &["evaluate", "graph", "products"],
        &["naive", "naive-kept", "verl", "trl"],
    ),
    (
        "linear",
        1024,
        DType::F32,
        &["evaluate", "graph", "products"],
        &["naive", "naive-kept", "verl", "trl"],
    ),
    ("linear", 256, DType::BF16, &["evaluate"], &["naive", "naive-kept", "verl", "trl"]),
    ("linear", 1024, DType::BF16, &["evaluate"], &["naive", "naive-kept", "verl", "trl"]),
];

/// Wall and CPU milliseconds, and peak MB in addition to the inputs.
type Figures = [f64; 3];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, rest @ ..] = arguments.as_slice() {
        if flag == "--case" {
            return case(rest);
        }
    }
    let rounds: usize = std::env::var("EPO_BENCH_ROUNDS").map_or(Ok(3), |text| text.parse())?;
    for (group, tokens, dtype, own, torch) in GROUPS {
        let name = format!("{group} {} T={tokens}", dtype.as_str());
        if !arguments.is_empty() && !arguments.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        if group == "linear" && dtype == DType::BF16 && !multiplies_bf16() {
            println!(
                "{name}: skipped, this processor has no AVX512_BF16, \
                 without which PyTorch takes minutes per product"
            );
        } else {
            compare(&name, rounds, &[group, &tokens.to_string(), dtype.as_str()], own, torch)?;
        }
    }
    Ok(())
}

fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn compare(name: &str, rounds: usize, shape: &[&str], own: &[&str], torch: &[&str]) -> Result<()> {
    let mut all = vec![Vec::new(); own.len() + torch.len()];
    for _ in 0..rounds {
        for (i, variant) in own.iter().enumerate() {
            let mut command = Command::new(std::env::current_exe()?);
            all[i].push(figures(command.arg("--case").args(shape).arg(variant))?);
        }
        for (i, variant) in torch.iter().enumerate() {
            match figures(torch_command(variant).args(shape).arg(variant)) {
                Ok(new) => all[own.len() + i].push(new),
                Err(reason) => println!("PyTorch {variant} does not run: {reason:#}"),
            }
        }
    }
    let medians: Vec<Option<Figures>> = all.iter().map(|rounds| median(rounds)).collect();
    println!("{name}, V={V}, H={H}: forward + backward");
    let base = medians[0].context("no figures")?;
    let sides =
        own.iter().map(|v| format!("epo {v}")).chain(torch.iter().map(|v| format!("PyTorch {v}")));
    for (side, [wall, cpu, memory]) in
        sides.zip(&medians).filter_map(|(side, m)| Some((side, (*m)?)))
    {
        let times = [wall / base[0], cpu / base[1]];
        println!(
            "  {side:20} wall {wall:8.0} ms ({:6.2} x), \
             CPU {cpu:8.0} ms ({:6.2} x), {memory:6.0} MB",
            times[0], times[1]
        );
    }
    Ok(())
}

fn torch_command(variant: &str) -> Command {
    let mut command = python("kernels_torch.py");
    if variant.ends_with("-kept") {
        command
            .env("MALLOC_MMAP_THRESHOLD_", "17179869184")
            .env("MALLOC_TRIM_THRESHOLD_", "17179869184");
    }
    command
}

fn median(rounds: &[Figures]) -> Option<Figures> {
    let middle = |which: usize| {
        let mut values: Vec<f64> = rounds.iter().map(|figures| figures[which]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some([middle(0)?, middle(1)?, middle(2)?])
}

/// Runs one of our cases in this process and prints the median of three runs after a warm-up.
fn case(arguments: &[String]) -> Result<()> {
    let [group, tokens, dtype, variant] = arguments else {
        anyhow::bail!("--case GROUP TOKENS TYPE VARIANT")
    };
    let tokens = tokens.parse::<usize>()?;
    let dtype = if dtype == "bf16" { DType::BF16 } else { DType::F32 };
    match group.as_str() {
        "logits" => logits(tokens, dtype, variant),
        _ => linear(tokens, dtype, variant),
    }
}

/// Prints the medians of three runs after a warm-up; `prepare` restores inputs that a run
/// overwrites.
fn measure(prepare: impl Fn() -> Result<()>, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let mut figures = Vec::new();
    for _ in 0..4 {
        prepare()?;
        forget_peak();
        let base = memory("VmRSS");
        let start = Instant::now();
        let cpu = cpu_seconds();
        run()?;
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let cpu = (cpu_seconds() - cpu) * 1e3;
        figures.push([wall, cpu, memory("VmHWM") - base]);
    }
    let [wall, cpu, peak] = median(&figures[1..]).context("no run")?;
    println!("{wall} {cpu} {peak}");
    Ok(())
}

fn nothing() -> Result<()> {
    Ok(())
}

fn ids(tokens: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        (0..tokens).map(|i| (i * 7919 % V) as u32).collect(),
        tokens,
        &Device::Cpu,
    )?)
}

fn logits(tokens: usize, dtype: DType, variant: &str) -> Result<()> {
    if variant == "copy" {
        return copy(tokens * V * 3 / 8 * dtype.size_in_bytes());
    }
    let ids = ids(tokens)?;
    let options = ScoreOptions::default();
    let fresh = || Tensor::randn(0f32, 2.0, (tokens, V), &Device::Cpu)?.to_dtype(dtype);
    let z = Var::from_tensor(&fresh()?)?;
    let g = Tensor::ones(tokens, DType::F32, &Device::Cpu)?;
    let h = Tensor::full(0.1f32, tokens, &Device::Cpu)?;
    let prepare = || match variant {
        "in-place" => Ok(z.set(&fresh()?)?),
        _ => Ok(()),
    };
    measure(prepare, || {
        if variant == "graph" {
            let (p, e) = logprob_entropy(&z, &ids, 1.0)?;
            ((p * &g)? + (e * &h)?)?.sum_all()?.backward()?;
            return Ok(());
        }
        let scores = evaluate(&z, &ids, &options)?;
        if variant == "in-place" {
            return Ok(scores.gradient_in_place(&z, &g, &h)?);
        }
        scores.gradient(&z, &g, &h)?;
        Ok(())
    })
}

/// Copies one and a half times the logits: the traffic of three passes over them.
fn copy(numbers: usize) -> Result<()> {
    let from = vec![1f32; numbers];
    let mut to = vec![2f32; from.len()];
    measure(nothing, || {
        to.par_chunks_mut(1 << 16)
            .zip(from.par_chunks(1 << 16))
            .for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    })
}

fn linear(tokens: usize, dtype: DType, variant: &str) -> Result<()> {
    let x = Tensor::randn(0f32, 1.0, (tokens, H), &Device::Cpu)?.to_dtype(dtype)?;
    let w = Tensor::randn(0f32, 2.0 / (H as f32).sqrt(), (V, H), &Device::Cpu)?.to_dtype(dtype)?;
    let ids = ids(tokens)?;
    let head = LmHead::new(&w);
    let options = ScoreOptions::default();
    let g = Tensor::ones(tokens, DType::F32, &Device::Cpu)?;
    let h = Tensor::full(0.1f32, tokens, &Device::Cpu)?;
    let variables = match variant {
        "graph" => Some((Var::from_tensor(&x)?, Var::from_tensor(&w)?)),
        _ => None,
    };
    measure(nothing, || {
        if let Some((x, w)) = &variables {
            let head = LmHead::new(w);
            let (log_probs, entropies) = linear_logprob_entropy(x, &head, &ids, &options)?;
            ((log_probs * &g)? + (entropies * &h)?)?.sum_all()?.backward()?;
            return Ok(());
        }
        if variant == "products" {
            return products(&x, &w);
        }
        evaluate_linear(&x, &head, &ids, &options)?.gradient(&g, &h)?;
        Ok(())
    })
}

/// The four matrix multiplications of a head: logits, logits again, dX and dW.
fn products(x: &Tensor, w: &Tensor) -> Result<()> {
    drop(x.matmul(&w.t()?)?);
    let z = x.matmul(&w.t()?)?;
    let dx = z.matmul(w)?;
    let dw = z.t()?.matmul(x)?;
    drop((dx, dw));
    Ok(())
}
