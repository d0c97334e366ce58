//! This crate's side.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use epo::entropy::EntropyConfig;
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{
    Decoder, DecoderConfig, KvCache, LoraConfig, Parameters, Pretrained, Request, SamplingParams,
    Source,
};
use epo::rng::{Purpose, Stream};
use epo::rollout::Row;
use epo::settings::{Count, Limit};
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch};
use serde_json::json;

use crate::common::setting;
use crate::format::Format;
use crate::task::CONTEXT;

/// Does the work of one line, given rows and new tokens per row, and returns the number of tokens.
type Work = dyn FnMut(&[Vec<u32>], usize) -> Result<usize>;

/// Does a task's work for every line on stdin.
pub(crate) fn own_side(work: &str, format: Format, folder: &Path) -> Result<()> {
    let model = Pretrained::open(Source::Folder(folder.to_owned()))?.with_context(CONTEXT)?;
    let config = model.config().clone();
    let parameters = format.parameters(&model)?;
    drop(model);
    let mut run: Box<Work> = if work == "update" {
        let lean = setting("EPO_BENCH_LEAN", 0)? == 1;
        let mut learner = learner(&config, parameters)?;
        learner.set_checkpointing(lean);
        Box::new(move |rows, _| update(&mut learner, rows, lean))
    } else {
        let decoder = Decoder::new(&config, &parameters)?;
        Box::new(move |prompts, new| sample(&decoder, prompts, new))
    };
    println!("{}", json!({ "ready": concat!("epo ", env!("CARGO_PKG_VERSION")) }));
    for line in std::io::stdin().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [round, rows, length, new] = numbers[..] else { anyhow::bail!("{line:?}") };
        let first = round * rows * length;
        let id = |i: usize| (i * 7919 % config.vocab_size) as u32;
        let ids: Vec<u32> = (first..first + rows * length).map(id).collect();
        let rows: Vec<Vec<u32>> = ids.chunks(length).map(<[u32]>::to_vec).collect();
        let start = Instant::now();
        let tokens = run(&rows, new)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", json!({ "seconds": seconds, "tokens": tokens }));
    }
    Ok(())
}

/// Samples `max_tokens` tokens after each prompt.
fn sample(decoder: &Decoder, prompts: &[Vec<u32>], max_tokens: usize) -> Result<usize> {
    let request = |(row, prompt)| {
        let stream = Stream::new(0, Purpose::Rollout, 0, 0, row as u32);
        Request { row, prompt, stream, turn: 0, choices: None }
    };
    let requests: Vec<Request> =
        prompts.iter().map(Vec::as_slice).enumerate().map(request).collect();
    let mut cache = KvCache::new(decoder.config(), prompts.len());
    cache.reserve(prompts[0].len() + max_tokens);
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    let out = decoder.generate(&mut cache, &requests, &sampling)?;
    Ok(out.iter().map(|row| row.ids.len()).sum())
}

fn learner(config: &DecoderConfig, parameters: Parameters) -> Result<Learner> {
    let parameters = parameters.with_lora(config, &LoraConfig::default(), 0)?;
    Ok(Learner::new(config, parameters, AdamW::new(AdamWConfig::default()), 1.0)?)
}

/// One optimiser step with the clipped loss and EPO's entropy term; micro-batches of one row if
/// `lean`.
fn update(learner: &mut Learner, rows: &[Vec<u32>], lean: bool) -> Result<usize> {
    let length = rows[0].len();
    let row = |(trajectory, ids): (usize, &Vec<u32>)| Row {
        ids: ids.clone(),
        positions: (1..length as u32).collect(),
        turns: vec![0; length - 1],
        old_log_probs: vec![-12.0; length - 1],
        trajectory,
        ..Row::default()
    };
    let rows: Vec<Row> = rows.iter().enumerate().map(row).collect();
    let sign = |row: usize| if row.is_multiple_of(2) { 1.0 } else { -1.0 };
    let advantages: Vec<Vec<f32>> =
        (0..rows.len()).map(|row| vec![sign(row); length - 1]).collect();
    let mut settings = UpdateConfig { mini_batches: Count::literal(1), ..UpdateConfig::default() };
    if lean {
        settings.micro_batch_tokens = Limit::literal(length);
    }
    let entropy = EntropyConfig::paper_v2().build()?;
    let batch =
        PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 0, step: 0 };
    learner.policy_step(&batch, &settings, &entropy, 1e-6)?;
    Ok(rows.len() * length)
}
