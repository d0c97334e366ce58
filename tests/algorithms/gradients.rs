//! Central differences where nothing stands under a stop-gradient, closed forms where something
//! does.

use candle_core::{Device, Tensor};
use epo::entropy::{Band, EntropyInputs, EntropyRegularizer, EpoHinge, Granularity};
use epo::objective::*;

use crate::support::*;
use crate::Golden;

fn loss_of(
    settings: PolicyLoss,
    log_probs_bt: &Tensor,
    [old, advantages]: [&Tensor; 2],
    weights_bt: Option<&Tensor>,
    batch: &TokenBatch,
) -> epo::Result<LossOutput> {
    let inputs = LossInputs {
        log_probs_bt,
        old_log_probs_bt: old,
        ref_log_probs_bt: None,
        advantages_bt: advantages,
        weights_bt,
        batch,
    };
    policy_loss(&inputs, &settings)
}

/// With one advantage and one weight a turn, the token form of GSPO is the plain derivative of the
/// turn's ratio.
#[test]
fn gspo_is_the_derivative_of_the_turns_ratio() {
    let golden = Golden::read();
    let layout = golden.layout();
    let sign = |(i, &turn): (usize, &usize)| {
        let unit = layout.trajectories()[i / layout.tokens()] + 2 * turn;
        [0.7, -1.1, 0.4, -0.6][unit % 4]
    };
    let constant: Vec<f64> = layout.turns().iter().enumerate().map(sign).collect();
    let advantages = Tensor::from_slice(&constant, (5, 6), &Device::Cpu).unwrap();
    let weights = (advantages.abs().unwrap() + 0.5).unwrap();
    let old = golden.tensor("old_log_probs");
    for aggregation in [Aggregation::TokenMean, Aggregation::SeqMeanTokenSum, Aggregation::TurnMean]
    {
        for clip_low in [0.9, 0.02] {
            let settings =
                PolicyLoss { clip_low, clip_high: 0.1, ..PolicyLoss::of(PolicyLossKind::Gspo) };
            let batch = golden.batch(aggregation);
            let loss = |x: &Tensor| {
                Ok(loss_of(settings, x, [&old, &advantages], Some(&weights), &batch)?.loss)
            };
            let what = format!("gspo {aggregation:?} {clip_low}");
            assert_gradient(&what, &golden.list("log_probs"), &[5, 6], &loss);
        }
    }
}

#[test]
fn reinforce_is_the_gradient_of_the_log_prob() {
    let golden = Golden::read();
    let (old, advantages) = (golden.tensor("old_log_probs"), golden.tensor("advantages"));
    let settings = PolicyLoss::of(PolicyLossKind::Reinforce);
    for aggregation in [Aggregation::TokenMean, Aggregation::TurnMean] {
        let batch = golden.batch(aggregation);
        let loss = |x: &Tensor| Ok(loss_of(settings, x, [&old, &advantages], None, &batch)?.loss);
        assert_gradient("reinforce", &golden.list("log_probs"), &[5, 6], &loss);
        let got = gradient(&golden.list("log_probs"), &[5, 6], &loss);
        let want: Vec<f64> =
            batch.weights().iter().zip(golden.list("advantages")).map(|(w, a)| -w * a).collect();
        assert_close("closed form", &got, &want, F64);
    }
}

/// On the samples' own policy every ratio is 1, and all losses have the gradient of REINFORCE.
#[test]
fn all_losses_start_alike() {
    let golden = Golden::read();
    let (same, advantages) = (golden.tensor("log_probs"), golden.tensor("advantages"));
    let batch = golden.batch(Aggregation::TurnMean);
    let of = |kind| {
        let settings = PolicyLoss { kl: None, ..PolicyLoss::of(kind) };
        let loss = |x: &Tensor| Ok(loss_of(settings, x, [&same, &advantages], None, &batch)?.loss);
        gradient(&golden.list("log_probs"), &[5, 6], &loss)
    };
    let want = of(PolicyLossKind::Reinforce);
    for kind in [PolicyLossKind::Ppo, PolicyLossKind::Gspo, PolicyLossKind::Cispo] {
        assert_close(&format!("{kind:?}"), &of(kind), &want, F64);
    }
}

/// CISPO's weight is a constant: beyond the clip PPO is silent and CISPO is not.
#[test]
fn a_clipped_weight_still_teaches() {
    let layout = TokenLayout::per_turn(3, vec![true; 3], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::SeqMeanTokenSum);
    let zeros = Tensor::zeros((1, 3), candle_core::DType::F64, &Device::Cpu).unwrap();
    let advantages = Tensor::new(&[[1.0, 2.0, -1.0]], &Device::Cpu).unwrap();
    let log_ratio = [1.0, -1.0, 0.1];
    let of = |settings: PolicyLoss| {
        let loss = |x: &Tensor| Ok(loss_of(settings, x, [&zeros, &advantages], None, &batch)?.loss);
        gradient(&log_ratio, &[1, 3], &loss)
    };
    let cispo =
        PolicyLoss { clip_low: 0.2, clip_high: 0.3, ..PolicyLoss::of(PolicyLossKind::Cispo) };
    let (low, inside) = (-2.0 * 0.8, 0.1f64.exp());
    assert_close("both bounds", &of(cispo), &[-1.3, low, inside], F64);
    let unbounded = of(PolicyLoss { clip_low: 1.0, ..cispo });
    assert_close("no lower bound", &unbounded, &[-1.3, -2.0 * (-1f64).exp(), inside], F64);
    let ppo = of(PolicyLoss { clip_low: 0.2, clip_high: 0.3, kl: None, ..PolicyLoss::default() });
    assert_close("ppo", &ppo, &[0.0, -2.0 * (-1f64).exp(), inside], F64);
}

/// Weights scale the policy gradient and leave the KL term alone; what is masked out may hold
/// anything.
#[test]
fn weights_belong_to_the_policy_loss_alone() {
    let golden = Golden::read();
    let batch = golden.batch(Aggregation::TokenMean);
    let names = ["log_probs", "old_log_probs", "ref_log_probs", "advantages", "weights"];
    let [log_probs, old, reference, advantages, weights] = names.map(|name| golden.tensor(name));
    let kl = Some(KlLoss { estimator: KlKind::K2, coef: 0.3 });
    let run = |kind, kl, weights_bt: Option<&Tensor>| {
        let inputs = LossInputs {
            log_probs_bt: &log_probs,
            old_log_probs_bt: &old,
            ref_log_probs_bt: Some(&reference),
            advantages_bt: &advantages,
            weights_bt,
            batch: &batch,
        };
        policy_loss(&inputs, &PolicyLoss { kl, ..PolicyLoss::of(kind) })
    };
    let mask: Vec<f64> = batch.layout().mask().iter().map(|&m| f64::from(u8::from(m))).collect();
    let mask = Tensor::from_vec(mask, (5, 6), &Device::Cpu).unwrap();
    let nan_where_masked = ((&weights / &mask).unwrap() * &mask).unwrap();
    for kind in [
        PolicyLossKind::Ppo,
        PolicyLossKind::Gspo,
        PolicyLossKind::Cispo,
        PolicyLossKind::Reinforce,
    ] {
        let value = |kl, weights| host(&run(kind, kl, weights).unwrap().loss)[0];
        let term = value(kl, None) - value(None, None);
        assert!(term > 1e-3);
        assert_close(
            "KL",
            &[value(kl, Some(&weights)) - value(None, Some(&weights))],
            &[term],
            F64,
        );
        assert_eq!(value(None, Some(&nan_where_masked)), value(None, Some(&weights)));
        let zero = weights.zeros_like().unwrap();
        assert_eq!(value(None, Some(&zero)), 0.0);
    }
    let infinite = (&weights / 0.0).unwrap();
    let error = run(PolicyLossKind::Ppo, None, Some(&infinite)).unwrap_err();
    assert!(error.to_string().contains("weights_bt"), "{error}");
}

/// EPO's term and any policy loss are a sum: value and gradient.
#[test]
fn epo_composes_with_every_policy_loss() {
    let golden = Golden::read();
    let (old, advantages) = (golden.tensor("old_log_probs"), golden.tensor("advantages"));
    let batch = golden.batch(Aggregation::TurnMean);
    let band = Band::new(0.8, 1.2).unwrap();
    let history = Fixed(vec![Some(1.1), Some(0.7)]);
    let hinge = EpoHinge::new(0.5, 0.9, band, Granularity::Token).unwrap();
    // One tensor stands for log-probs and entropies, so that both terms reach its gradient.
    let term = |x: &Tensor| {
        let entropy_bt = x.neg()?;
        let inputs = EntropyInputs::new(&entropy_bt, &batch, &history, 1.5)?;
        hinge.term(&inputs)
    };
    let x = golden.list("log_probs");
    let of_term = gradient(&x, &[5, 6], &|x| Ok(term(x)?.loss));
    for kind in [
        PolicyLossKind::Ppo,
        PolicyLossKind::Gspo,
        PolicyLossKind::Cispo,
        PolicyLossKind::Reinforce,
    ] {
        let settings = PolicyLoss { kl: None, ..PolicyLoss::of(kind) };
        let policy = |x: &Tensor| loss_of(settings, x, [&old, &advantages], None, &batch);
        let of_policy = gradient(&x, &[5, 6], &|x| Ok(policy(x)?.loss));
        let got = gradient(&x, &[5, 6], &|x| Ok(policy(x)?.plus(term(x)?)?.loss));
        let want: Vec<f64> = of_policy.iter().zip(&of_term).map(|(a, b)| a + b).collect();
        assert_close(&format!("{kind:?}"), &got, &want, F64);
        let differ = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
        assert!(differ(&got, &of_policy) && differ(&got, &of_term), "{kind:?}");
    }
}
