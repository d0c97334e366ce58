//! Whole updates of a policy and a critic, compared with those on the CPU.

use super::{assert_near, values};
use candle_core::{DType, Device};
use epo::entropy::{EntropyConfig, EntropyControl, StepEntropy};
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{DecoderConfig, LoraConfig, Parameters};
use epo::rollout::{Row, RowKind};
use epo::run::CheckpointWriter;
use epo::settings::{Count, Limit, NonNegative};
use epo::train::config::UpdateConfig;
use epo::train::learn::{Critic, CriticConfig, Learner, PolicyBatch, ValueBatch};

/// What a learner is built from.
#[derive(Clone, Copy)]
struct Build<'a> {
    dtype: DType,
    device: &'a Device,
    lora: bool,
    checkpointing: bool,
}

impl<'a> Build<'a> {
    fn plain(dtype: DType, device: &'a Device) -> Self {
        Self { dtype, device, lora: false, checkpointing: false }
    }

    /// With a large ε, so that a step is nearly proportional to the gradient.
    fn optimizer() -> AdamWConfig {
        AdamWConfig { eps: NonNegative::literal(1.0), ..AdamWConfig::default() }
    }

    fn learner(&self) -> Learner {
        // Two query heads share a key head.
        let config = DecoderConfig::tiny(20);
        let mut parameters = Parameters::init(&config, 3, self.dtype, self.device).unwrap();
        if self.lora {
            parameters = parameters.with_lora(&config, &LoraConfig::of_rank(2), 1).unwrap();
        }
        let optimizer = AdamW::new(Self::optimizer());
        let mut learner = Learner::new(&config, parameters, optimizer, 0.9).unwrap();
        learner.set_checkpointing(self.checkpointing);
        learner
    }
}

/// Four episodes of two turns behind the same prompt, which is long enough to be shared.
fn rows() -> Vec<Row> {
    let prompt: Vec<u32> = (0..12).map(|i| 7 * i % 20).collect();
    let mut rows = Vec::new();
    for episode in 0..4 {
        let action = [episode as u32 + 1, 7, 19];
        let turns: [(&[u32], &[u32]); 2] = [(&prompt, &action), (&[5, 6], &action[..2])];
        rows.extend(Row::from_turns(&turns, episode, RowKind::Trajectory).unwrap());
    }
    for row in &mut rows {
        row.old_log_probs = row.positions.iter().map(|&at| -2.9 - 0.01 * at as f32).collect();
    }
    rows
}

/// Two optimiser steps of two micro-batches each.
fn update() -> UpdateConfig {
    UpdateConfig {
        mini_batches: Count::literal(2),
        micro_batch_tokens: Limit::literal(20),
        ..UpdateConfig::default()
    }
}

fn entropy(step: u64) -> EntropyControl {
    let mut entropy = EntropyConfig::default().build().unwrap();
    entropy.begin_step_with(step, StepEntropy::new()).unwrap();
    entropy
}

/// One training step; returns the loss, the norm of the gradient and the decode-forward gap.
fn policy_step(learner: &mut Learner, step: u64) -> [f64; 3] {
    let rows = rows();
    let advantage = |row: &Row| vec![row.trajectory as f32 - 1.5; row.positions.len()];
    let advantages: Vec<Vec<f32>> = rows.iter().map(advantage).collect();
    let data = PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 1, step };
    let metrics = learner.policy_step(&data, &update(), &entropy(step), 0.5).unwrap();
    ["loss", "grad_norm", "decode_forward_gap"].map(|name| metrics.get(name).unwrap())
}

/// Runs `f` on a thread of its own: there the CPU is the CPU, also in tests that run the device
/// kernels on the host.
pub fn on_the_cpu<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(f).join().unwrap())
}

/// Checks metrics and trained parameters after a training step.
fn follows(build: Build<'_>, tolerance: f64) {
    let mut got = build.learner();
    let metrics = policy_step(&mut got, 0);
    let (want, want_metrics) = on_the_cpu(|| {
        let mut want = Build { dtype: DType::F32, device: &Device::Cpu, ..build }.learner();
        let metrics = policy_step(&mut want, 0);
        (want, metrics)
    });
    let Build { dtype, lora, checkpointing, .. } = build;
    let what = format!("{dtype:?}, LoRA {lora}, checkpointing {checkpointing}");
    assert_near(&what, &metrics, &want_metrics, tolerance);
    let trained = want.parameters.trainable().zip(got.parameters.trainable());
    for ((name, want), (_, got)) in trained {
        assert_near(&format!("{name}, {what}"), &values(got), &values(want), tolerance);
    }
}

pub fn a_policy_step_follows_the_cpu(device: &Device) {
    for lora in [false, true] {
        for checkpointing in [false, true] {
            let build = Build { lora, checkpointing, ..Build::plain(DType::F32, device) };
            follows(build, 1e-4);
            follows(Build { dtype: DType::BF16, ..build }, 3e-2);
        }
    }
}

pub fn a_step_has_the_same_bits_in_every_run(device: &Device) {
    let run = || {
        let mut learner =
            Build { checkpointing: true, ..Build::plain(DType::BF16, device) }.learner();
        policy_step(&mut learner, 0);
        policy_step(&mut learner, 1);
        learner.parameters.iter().flat_map(|(_, var)| values(var)).collect::<Vec<f64>>()
    };
    assert_eq!(run(), run());
}

pub fn a_critic_follows_the_cpu(device: &Device) {
    let rows = rows();
    let step = |device: &Device| {
        let policy = Build::plain(DType::F32, device).learner();
        let config = CriticConfig { optimizer: Build::optimizer(), ..CriticConfig::default() };
        let mut critic = Critic::new(&config, &policy, 1).unwrap();
        let values = critic.row_values(&rows, 20).unwrap();
        let target = |row: &Row| vec![row.trajectory as f32; row.positions.len()];
        let returns: Vec<Vec<f32>> = rows.iter().map(target).collect();
        let batch =
            ValueBatch { rows: &rows, values: &values, returns: &returns, seed: 1, step: 0 };
        let metrics = critic.value_step(&batch, &update()).unwrap();
        let after = critic.row_values(&rows, 20).unwrap().concat();
        let numbers = ["value_loss", "critic_grad_norm"].map(|name| metrics.get(name).unwrap());
        numbers.into_iter().chain(after.into_iter().map(f64::from)).collect::<Vec<f64>>()
    };
    let want = on_the_cpu(|| step(&Device::Cpu));
    assert_near("critic", &step(device), &want, 1e-4);
}

/// Runs `f` with the device, or with the CPU for `None`.
fn at<T: Send>(device: Option<&Device>, f: impl FnOnce(&Device) -> T + Send) -> T {
    match device {
        Some(device) => f(device),
        None => on_the_cpu(|| f(&Device::Cpu)),
    }
}

/// Trains a step on `first`, saves, loads on `second` and trains another step there; `None` is the
/// CPU.
fn moved(dtype: DType, first: Option<&Device>, second: Option<&Device>) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = at(first, |device| {
        let mut learner = Build::plain(dtype, device).learner();
        policy_step(&mut learner, 0);
        let mut writer = CheckpointWriter::new(dir.path(), 1).unwrap();
        learner.save(&mut writer).unwrap();
        writer.finish(&()).unwrap()
    });
    at(second, |device| {
        let optimizer = Build::optimizer();
        let mut learner = Learner::restore(&checkpoint, optimizer, 0.9, dtype, device).unwrap();
        policy_step(&mut learner, 1);
        learner.parameters.iter().flat_map(|(_, var)| values(var)).collect()
    })
}

pub fn a_run_moves_between_devices(device: &Device) {
    let device = Some(device);
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, 3e-2)] {
        let stays = moved(dtype, device, device);
        assert_near("to the CPU", &moved(dtype, device, None), &stays, tolerance);
        assert_near("from the CPU", &moved(dtype, None, device), &stays, tolerance);
    }
}
