//! A policy loss and an advantage of a user's own, through the library's update.

use candle_core::{DType, Device};
use epo::entropy::EntropyConfig;
use epo::objective::{policy_loss, LossInputs, LossOutput, Metrics};
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{DecoderConfig, Parameters};
use epo::rollout::{Row, RowKind};
use epo::settings::Count;
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch, PolicyLossFn};

/// Advantage-weighted regression: −exp(A/τ)·log π.
fn weighted_regression(inputs: &LossInputs) -> epo::Result<LossOutput> {
    let weight_bt = (inputs.advantages_bt / 0.5)?.exp()?;
    let loss_bt = (inputs.log_probs_bt * weight_bt.detach())?.neg()?;
    let loss = inputs.batch.aggregate(&loss_bt)?;
    Ok(LossOutput { loss, metrics: Metrics::new() })
}

/// One advantage per token: the return of its episode minus the median of all returns.
fn over_the_median(returns: &[f64], tokens: &[usize]) -> Vec<Vec<f32>> {
    let mut sorted = returns.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let rows = returns.iter().zip(tokens);
    rows.map(|(value, &count)| vec![(value - median) as f32; count]).collect()
}

fn learner() -> Learner {
    let config = DecoderConfig::tiny(8);
    let parameters = Parameters::init(&config, 1, DType::F32, &Device::Cpu).unwrap();
    Learner::new(&config, parameters, AdamW::new(AdamWConfig::default()), 1.0).unwrap()
}

/// Three episodes of two turns that answer the same prompts with different tokens.
fn rows(learner: &Learner) -> Vec<Row> {
    let mut rows = Vec::new();
    for episode in 0..3 {
        let action = [episode as u32 + 1, 7];
        let turns: [(&[u32], &[u32]); 2] = [(&[0], &action), (&[5, 6], &action[..1])];
        rows.extend(Row::from_turns(&turns, episode, RowKind::Trajectory).unwrap());
    }
    let log_probs = learner.log_probs(&rows, &UpdateConfig::default()).unwrap();
    for (row, log_probs) in rows.iter_mut().zip(log_probs) {
        row.old_log_probs = log_probs;
    }
    rows
}

/// Ten updates; returns the mean log-probability of every episode's tokens.
fn train(loss: Option<&PolicyLossFn>, steps: u64) -> Vec<f32> {
    let mut learner = learner();
    let rows = rows(&learner);
    // One optimiser step sees all episodes, so that their weights are compared.
    let update = UpdateConfig { mini_batches: Count::literal(1), ..UpdateConfig::default() };
    let mut entropy = EntropyConfig::default().build().unwrap();
    let tokens: Vec<usize> = rows.iter().map(|row| row.positions.len()).collect();
    let advantages = over_the_median(&[0.0, 1.0, 0.5], &tokens);
    for step in 0..steps {
        entropy.begin_step_with(step, epo::entropy::StepEntropy::new()).unwrap();
        let data =
            PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 1, step };
        match loss {
            Some(loss) => learner.policy_step_with(&data, &update, &entropy, 1e-2, loss),
            None => learner.policy_step(&data, &update, &entropy, 1e-2),
        }
        .unwrap();
        entropy.finish_step().unwrap();
    }
    let log_probs = learner.log_probs(&rows, &update).unwrap();
    log_probs.iter().map(|row| row.iter().sum::<f32>() / row.len() as f32).collect()
}

#[test]
fn an_own_loss_and_advantage_go_through_the_learner() {
    let before = train(None, 0);
    let after = train(Some(&weighted_regression), 10);
    let gains: Vec<f32> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let [worst, best, middle] = gains[..] else { panic!("{gains:?}") };
    assert!(best > middle && middle > worst, "{worst} {middle} {best}");
}

#[test]
fn the_built_in_loss_as_a_users_own_gives_the_same_bits() {
    let settings = UpdateConfig::default().policy;
    let same = train(Some(&|inputs: &LossInputs| policy_loss(inputs, &settings)), 10);
    assert_eq!(same, train(None, 10));
    assert_ne!(same, train(Some(&weighted_regression), 10));
}
