//! A step's selection: independent of padding and of the form of its rows, drawn anew each step.

use candle_core::{Device, Tensor};
use epo::entropy::*;
use epo::objective::{Aggregation, TokenBatch, TokenLayout};
use epo::settings::{Finite, Positive, Share};
use epo::Error;

use crate::stream;
use crate::support::*;

fn config(method: EntropyMethod) -> EntropyConfig {
    EntropyConfig { method, ..EntropyConfig::default() }
}

const SHARE: Share = Share::literal(0.2);
const CLIP_COV: EntropyMethod = EntropyMethod::ClipCov(ClipCov {
    share: SHARE,
    low: Finite::literal(0.0),
    high: Finite::literal(5.0),
});
const KL_COV: EntropyMethod =
    EntropyMethod::KlCov(KlCov { share: SHARE, coef: Positive::literal(1.0) });
const TOP_ENTROPY: EntropyMethod = EntropyMethod::TopEntropy(TopEntropy { share: SHARE });
const SELECTING: [EntropyMethod; 3] = [CLIP_COV, KL_COV, TOP_ENTROPY];
const ADAPTIVE: EntropyMethod = EntropyMethod::Adaptive(AdaptiveConfig {
    lambda: Positive::literal(0.001),
    goal: AdaptiveTarget {
        target: Positive::literal(1.0),
        rate: Positive::literal(0.1),
        max: Positive::literal(1.0),
        rule: AdaptiveRule::Sac,
    },
});

/// 40 tokens in rows of `width` with junk after each `used` of them; which were chosen, in order.
fn chosen(method: EntropyMethod, used: usize, width: usize, step: u64) -> Vec<bool> {
    let rows = 40 / used;
    let spread = |seed: u64, low: f64, high: f64| -> Vec<f64> {
        let values = random(seed, 40, low, high);
        values
            .chunks(used)
            .flat_map(|row| [row, &vec![f64::NAN; width - used][..]].concat())
            .collect()
    };
    let mask: Vec<bool> = (0..rows * width).map(|i| i % width < used).collect();
    let turns: Vec<usize> = (0..rows).collect();
    let layout = TokenLayout::per_turn(width, mask.clone(), &turns, vec![0; rows]).unwrap();
    let (log_probs, entropies) = (spread(1, -3.0, 0.0), spread(2, 0.0, 2.0));
    let advantages = spread(3, -1.0, 1.0);
    let tokens = StepTokens {
        log_probs: &log_probs,
        entropies: Some(&entropies),
        advantages: &advantages,
        layout: &layout,
        stream: stream(step),
    };
    let selection = config(method).build().unwrap().select(&tokens).unwrap().unwrap();
    selection.chosen.into_iter().zip(mask).filter(|(_, m)| *m).map(|(chosen, _)| chosen).collect()
}

#[test]
fn a_selection_sees_neither_padding_nor_the_form_of_rows() {
    for method in SELECTING {
        let want = chosen(method, 8, 8, 0);
        assert_eq!(want.iter().filter(|&&c| c).count(), 8, "{method:?}: a fifth of 40");
        for (used, width) in [(8, 11), (10, 10), (40, 41), (1, 2)] {
            assert_eq!(chosen(method, used, width, 0), want, "{method:?}, rows of {used}");
        }
        let again = chosen(method, 8, 8, 1);
        assert_eq!(again == want, method != CLIP_COV, "{method:?}: only Clip-Cov draws");
    }
}

#[test]
fn methods_without_a_selection_leave_every_token_alone() {
    let layout = TokenLayout::per_turn(2, vec![true; 2], &[0], vec![0]).unwrap();
    let tokens = |log_probs, entropies| StepTokens {
        log_probs,
        entropies,
        advantages: &[1.0, -1.0],
        layout: &layout,
        stream: stream(0),
    };
    let plain = ["none", "bonus", "epo", "epo-official", "decayed-bonus", "adaptive"];
    for method in plain.map(|kind| EntropyMethod::of_kind(kind).unwrap()) {
        let control = config(method).build().unwrap();
        assert_eq!(control.select(&tokens(&[-1.0; 2], None)).unwrap(), None, "{method:?}");
        let short = control.select(&tokens(&[-1.0], None));
        assert!(matches!(short, Err(Error::Shape { name: "log_probs", .. })));
        let bad = control.select(&tokens(&[-1.0; 2], Some(&[f64::NAN; 2])));
        assert!(matches!(bad, Err(Error::NonFinite { name, .. }) if name == "entropies"));
    }
    let top = config(TOP_ENTROPY).build().unwrap().select(&tokens(&[-1.0; 2], None));
    assert!(top.unwrap_err().to_string().contains("needs the rollouts' entropies"));
}

#[test]
fn kl_cov_says_what_it_needs_and_reports_its_share() {
    let layout = TokenLayout::per_turn(2, vec![true; 2], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::TokenMean);
    let tensor = |values: [f64; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
    let control = config(KL_COV).build().unwrap();
    let entropy_bt = tensor([1.0; 2]);
    assert!(control.term(&entropy_bt, &batch).unwrap_err().to_string().contains("term_with"));
    let policy = PolicyInputs {
        log_probs_bt: &tensor([-1.0, -3.0]),
        old_log_probs_bt: &tensor([-1.5, -2.0]),
        advantages_bt: &tensor([1.0, 1.0]),
        chosen_bt: Some(&tensor([0.0, 1.0])),
    };
    let output = control.term_with(&entropy_bt, &batch, Some(policy)).unwrap();
    assert_close("term", &host(&output.loss), &[0.5], F64);
    assert_eq!(output.metrics.get("entropy/chosen"), Some(0.5));
}

#[test]
fn an_adaptive_weight_is_in_the_checkpoint() {
    let mut original = config(ADAPTIVE).build().unwrap();
    let layout = TokenLayout::per_turn(2, vec![true; 2], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::TokenMean);
    let entropy_bt = Tensor::new(&[[0.5f64, 0.7]], &Device::Cpu).unwrap();
    let run = |control: &mut EntropyControl, k: u64| {
        let mut step = StepEntropy::new();
        step.add_turn(0, &[0.2 * k as f64]).unwrap();
        control.begin_step(k, step).unwrap();
        let term = control.term(&entropy_bt, &batch).unwrap();
        control.finish_step().unwrap();
        (host(&term.loss)[0], term.metrics.get("entropy/lambda").unwrap())
    };
    for k in 0..3 {
        run(&mut original, k);
    }
    let mut restored = config(ADAPTIVE).build().unwrap();
    restored.load_state(&serde_json::from_str(&original.state().to_string()).unwrap()).unwrap();
    for k in 3..6 {
        let (got, want) = (run(&mut restored, k), run(&mut original, k));
        assert_eq!(got, want);
        assert!(got.1 > 0.001, "below the target λ has risen: {}", got.1);
    }
    assert!(config(EntropyMethod::of_kind("bonus").unwrap())
        .build()
        .unwrap()
        .load_state(&original.state())
        .is_err());
}
