//! Every differentiable term of the method against central differences in f64, and the one that has
//! no gradient.

use super::support::*;
use candle_core::{Device, Result as CandleResult, Tensor};
use epo::entropy::{
    Band, EntropyBonus, EntropyInputs, EntropyRegularizer, EpoHinge, EpoIndicator, Granularity,
    NoEntropy,
};
use epo::objective::{
    kl_penalty, policy_loss, value_loss, Aggregation, KlKind, KlLoss, LossInputs, PolicyLoss,
    PolicyLossKind, TokenBatch, TokenLayout, ValueInputs,
};
use epo::Result;

const ROWS: usize = 3;
const TOKENS: usize = 4;
const VOCAB: usize = 6;
const MODES: [Aggregation; 5] = [
    Aggregation::TokenMean,
    Aggregation::SeqMeanTokenSum,
    Aggregation::SeqMeanTokenMean,
    Aggregation::SeqMeanTokenSumNorm,
    Aggregation::TurnMean,
];

/// Two turns in row 0, one in the others; two trajectories; ragged.
fn batch(aggregation: Aggregation) -> TokenBatch {
    let mask = [1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0].map(|m| m == 1).to_vec();
    let turns = vec![0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0];
    TokenBatch::new(TokenLayout::new(TOKENS, mask, turns, vec![0, 0, 1]).unwrap(), aggregation)
}

fn history() -> Fixed {
    Fixed(vec![Some(1.5), Some(1.1), Some(0.8)])
}

fn tensor_bt(seed: u64, low: f64, high: f64) -> Tensor {
    let values = random(seed, ROWS * TOKENS, low, high);
    Tensor::from_vec(values, (ROWS, TOKENS), &Device::Cpu).unwrap()
}

fn ids() -> Tensor {
    let ids: Vec<u32> =
        random(11, ROWS * TOKENS, 0.0, VOCAB as f64).iter().map(|&x| x as u32).collect();
    Tensor::from_vec(ids, (ROWS, TOKENS), &Device::Cpu).unwrap()
}

/// The gradient with respect to the logits of a function of log-probs and entropies.
fn check_logits(what: &str, f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) {
    let logits = random(3, ROWS * TOKENS * VOCAB, -2.0, 2.0);
    let of_logits = |logits: &Tensor| {
        let (log_probs_bt, entropy_bt) = logprob_entropy(logits, &ids(), 0.8)?;
        f(&log_probs_bt, &entropy_bt)
    };
    assert_gradient(what, &logits, &[ROWS, TOKENS, VOCAB], &of_logits);
}

fn check_term(what: &str, regularizer: &dyn EntropyRegularizer, aggregation: Aggregation) {
    let (batch, history) = (batch(aggregation), history());
    check_logits(&format!("{what} {aggregation:?}"), |_, entropy_bt| {
        let inputs = EntropyInputs::new(entropy_bt, &batch, &history, 1.7)?;
        Ok(regularizer.term(&inputs)?.loss)
    });
}

#[test]
fn entropy_terms_agree_with_differences() {
    // κ such that tokens and turns lie below, inside and above the band.
    let band = Band::new(0.9, 1.1).unwrap();
    for aggregation in MODES {
        check_term("bonus", &EntropyBonus::new(0.7).unwrap(), aggregation);
        for granularity in [Granularity::Token, Granularity::Sequence] {
            let hinge = EpoHinge::new(0.7, 0.9, band, granularity).unwrap();
            check_term(&format!("hinge {granularity:?}"), &hinge, aggregation);
        }
    }
}

#[test]
fn the_hinge_alone_pushes_entropy_back_into_the_band() {
    let band = Band::new(0.5, 1.5).unwrap();
    let layout = TokenLayout::per_turn(4, vec![true; 4], &[0], vec![0]).unwrap();
    let (batch, history) =
        (TokenBatch::new(layout, Aggregation::TokenMean), Fixed(vec![Some(1.0)]));
    let loss = |granularity| {
        let hinge = EpoHinge::new(1.0, 0.2, band, granularity).unwrap();
        let (batch, history) = (&batch, &history);
        move |entropy_bt: &Tensor| {
            hinge.smoothing(&EntropyInputs::new(entropy_bt, batch, history, 1.0)?)
        }
    };
    // Below, on the edge, inside, above: descending the loss raises the first and lowers the last.
    let token = gradient(&[0.4, 0.5, 1.0, 1.6], &[1, 4], &loss(Granularity::Token));
    assert_close("token", &token, &[-0.05, 0.0, 0.0, 0.05], F64);
    // The mean, 2.0, is above: every token is lowered alike.
    let sequence = gradient(&[0.4, 1.6, 3.0, 3.0], &[1, 4], &loss(Granularity::Sequence));
    assert_close("sequence", &sequence, &[0.05; 4], F64);
    let inside = gradient(&[0.4, 1.6, 1.0, 1.0], &[1, 4], &loss(Granularity::Sequence));
    assert_eq!(inside, [0.0; 4]);
}

#[test]
fn the_indicator_has_no_gradient() {
    let band = Band::new(0.9, 1.1).unwrap();
    let logits = random(3, ROWS * TOKENS * VOCAB, -2.0, 2.0);
    let (batch, history) = (batch(Aggregation::TokenMean), history());
    for granularity in [Granularity::Token, Granularity::Sequence] {
        let with = |alpha: f64| {
            let (batch, history) = (&batch, &history);
            move |logits: &Tensor| {
                let (_, entropy_bt) = logprob_entropy(logits, &ids(), 1.0)?;
                let inputs = EntropyInputs::new(&entropy_bt, batch, history, 1.7)?;
                Ok(EpoIndicator::new(0.7, alpha, band, granularity)?.term(&inputs)?.loss)
            }
        };
        let value = |alpha: f64| {
            let logits = Tensor::from_slice(&logits, (ROWS, TOKENS, VOCAB), &Device::Cpu).unwrap();
            with(alpha)(&logits).unwrap().to_scalar::<f64>().unwrap()
        };
        let shape = [ROWS, TOKENS, VOCAB];
        assert!(value(0.5) > value(0.0), "the penalty is in the loss");
        let (on, off) =
            (gradient(&logits, &shape, &with(0.5)), gradient(&logits, &shape, &with(0.0)));
        assert_eq!(on, off, "and nowhere in the gradient");
        assert!(off.iter().any(|g| g.abs() > 1e-3), "while the bonus has one");
    }
}

#[test]
fn no_entropy_term_leaves_the_graph_alone() {
    let (batch, history) = (batch(Aggregation::TurnMean), history());
    let term = |entropy_bt: &Tensor| {
        let inputs = EntropyInputs::new(entropy_bt, &batch, &history, 1.0)?;
        Ok(NoEntropy.term(&inputs)?.loss)
    };
    assert_eq!(gradient(&random(1, 12, 0.1, 2.0), &[ROWS, TOKENS], &term), [0.0; 12]);
}

fn check_policy(what: &str, settings: PolicyLoss, drift: f64, aggregation: Aggregation) {
    let batch = batch(aggregation);
    let old_bt = tensor_bt(5, -1.8 - drift, -1.8 + drift);
    let (ref_bt, advantages_bt) = (tensor_bt(6, -3.0, -0.5), tensor_bt(7, -1.0, 1.0));
    check_logits(what, |log_probs_bt, _| {
        let inputs = LossInputs {
            log_probs_bt,
            old_log_probs_bt: &old_bt,
            ref_log_probs_bt: Some(&ref_bt),
            advantages_bt: &advantages_bt,
            weights_bt: None,
            batch: &batch,
        };
        Ok(policy_loss(&inputs, &settings)?.loss)
    });
}

#[test]
fn policy_loss_agrees_with_differences() {
    for aggregation in MODES {
        let plain = PolicyLoss {
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: None,
            kl: None,
            ..PolicyLoss::default()
        };
        check_policy(&format!("clip {aggregation:?}"), plain, 0.5, aggregation);
        let dual = PolicyLoss { dual_clip: Some(1.5), ..plain };
        check_policy(&format!("dual clip {aggregation:?}"), dual, 2.5, aggregation);
        for kind in [KlKind::K1, KlKind::Abs, KlKind::K2, KlKind::K3] {
            let settings = PolicyLoss { kl: Some(KlLoss { estimator: kind, coef: 0.5 }), ..plain };
            check_policy(&format!("{kind:?} {aggregation:?}"), settings, 0.5, aggregation);
        }
    }
}

#[test]
fn a_ratio_that_overflows_is_an_error_or_limited() {
    let layout = TokenLayout::per_turn(3, vec![true; 3], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::SeqMeanTokenSum);
    let old = Tensor::new(&[[-900f32, -1.0, -30.0]], &Device::Cpu).unwrap();
    let advantages = Tensor::new(&[[-1f32, -1.0, -1.0]], &Device::Cpu).unwrap();
    let log_probs = candle_core::Var::new(&[[-1f32, -0.5, -0.5]], &Device::Cpu).unwrap();
    let inputs = LossInputs::new(&log_probs, &old, &advantages, &batch);
    for kind in [PolicyLossKind::Ppo, PolicyLossKind::Cispo] {
        let open = PolicyLoss { kl: None, dual_clip: None, ..PolicyLoss::of(kind) };
        let error = policy_loss(&inputs, &open).unwrap_err();
        assert!(matches!(&error, epo::Error::NonFinite { name, .. } if name == "ratio"), "{error}");
        let limited = PolicyLoss { max_log_ratio: Some(20.0), ..open };
        let output = policy_loss(&inputs, &limited).unwrap();
        assert_eq!(output.metrics.get("ratio_max").unwrap() as f32, 20f32.exp(), "{kind:?}");
        if kind == PolicyLossKind::Ppo {
            let gradients = output.loss.backward().unwrap();
            let got: Vec<f32> =
                gradients.get(&log_probs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            // −A·r with r = e^0.5 in the middle; the others are beyond the limit.
            assert_eq!(got, [0.0, 0.5f32.exp(), 0.0]);
        }
    }
}

#[test]
fn clipping_stops_the_gradient_where_it_should() {
    // log r: 0.3 up, 0.3 down, 2 up; the first two beyond ε = 0.2 or not by the sign of A.
    let layout = TokenLayout::per_turn(5, vec![true; 5], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::SeqMeanTokenSum);
    let zeros = Tensor::zeros((1, 5), candle_core::DType::F64, &Device::Cpu).unwrap();
    let advantages_bt = Tensor::new(&[[1.0, -1.0, 1.0, -1.0, -1.0]], &Device::Cpu).unwrap();
    let settings = PolicyLoss { clip_low: 0.2, clip_high: 0.2, kl: None, ..PolicyLoss::default() };
    let log_ratio = [0.3, 0.3, -0.3, -0.3, 2.0];
    let loss = |log_probs_bt: &Tensor| {
        let inputs = LossInputs {
            log_probs_bt,
            old_log_probs_bt: &zeros,
            ref_log_probs_bt: None,
            advantages_bt: &advantages_bt,
            weights_bt: None,
            batch: &batch,
        };
        Ok(policy_loss(&inputs, &settings)?.loss)
    };
    let got = gradient(&log_ratio, &[1, 5], &loss);
    let (up, down) = (0.3f64.exp(), (-0.3f64).exp());
    assert_close("gradient", &got, &[0.0, up, -down, 0.0, 0.0], F64);
}

#[test]
fn k3_is_cut_at_ten_without_a_gradient_and_abs_is_flat_at_zero() {
    let reference = Tensor::zeros(4, candle_core::DType::F64, &Device::Cpu).unwrap();
    let sum = |kind| {
        let reference = reference.clone();
        move |x: &Tensor| Ok(kl_penalty(x, &reference, kind)?.sum_all()?)
    };
    // d = −x: 800 would overflow e^d.
    let got = gradient(&[-800.0, -1.0, 1.0, 800.0], &[4], &sum(KlKind::K3));
    assert_close("k3", &got, &[0.0, 1.0 - 1f64.exp(), 1.0 - (-1f64).exp(), 0.0], F64);
    let got = gradient(&[-0.5, 0.0, 0.0, 0.5], &[4], &sum(KlKind::Abs));
    assert_eq!(got, [-1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn value_loss_agrees_with_differences() {
    for aggregation in MODES {
        let batch = batch(aggregation);
        let (old_bt, returns_bt) = (tensor_bt(8, -1.0, 1.0), tensor_bt(9, -1.0, 1.0));
        let loss = |values_bt: &Tensor| {
            let inputs = ValueInputs {
                values_bt,
                old_values_bt: &old_bt,
                returns_bt: &returns_bt,
                batch: &batch,
            };
            Ok(value_loss(&inputs, 0.5)?.loss)
        };
        let values = random(10, ROWS * TOKENS, -1.5, 1.5);
        assert_gradient(&format!("value {aggregation:?}"), &values, &[ROWS, TOKENS], &loss);
    }
}

#[test]
fn padding_of_any_value_reaches_neither_loss_nor_gradient() -> CandleResult<()> {
    let (batch, history) = (batch(Aggregation::TurnMean), history());
    let hinge =
        EpoHinge::new(0.7, 0.9, Band::new(0.9, 1.1).unwrap(), Granularity::Sequence).unwrap();
    let loss = |x_bt: &Tensor| {
        let zeros = x_bt.zeros_like()?;
        let inputs = EntropyInputs::new(x_bt, &batch, &history, 1.7)?;
        let policy = LossInputs {
            log_probs_bt: x_bt,
            old_log_probs_bt: &zeros,
            ref_log_probs_bt: Some(&zeros),
            advantages_bt: &x_bt.detach(),
            weights_bt: None,
            batch: &batch,
        };
        Ok(policy_loss(&policy, &PolicyLoss::default())?.plus(hinge.term(&inputs)?)?.loss)
    };
    let clean = random(12, ROWS * TOKENS, 0.1, 1.9);
    let want = gradient(&clean, &[ROWS, TOKENS], &loss);
    for junk in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        let fill = |(&x, &m): (&f64, &bool)| if m { x } else { junk };
        let dirty: Vec<f64> = clean.iter().zip(batch.layout().mask()).map(fill).collect();
        assert_eq!(gradient(&dirty, &[ROWS, TOKENS], &loss), want, "{junk}");
    }
    Ok(())
}
