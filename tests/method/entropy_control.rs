//! The holder of regulariser, history and β: order of events, configuration, checkpoints, bad
//! input.

use super::support::*;
use candle_core::{Device, Tensor};
use epo::entropy::{
    Band, BetaSchedule, EntropyConfig, EntropyControl, EntropyMethod, EpoConfig, EpoOfficialConfig,
    HistoryConfig, StepEntropy,
};
use epo::objective::{
    policy_loss, Aggregation, KlKind, KlLoss, LossInputs, PolicyLoss, TokenBatch, TokenLayout,
};
use epo::settings::{AtLeast, Count, Decay, Positive};
use epo::Error;

fn layout() -> TokenLayout {
    TokenLayout::per_turn(2, vec![true, true, true, false], &[0, 1], vec![0, 0]).unwrap()
}

fn batch() -> TokenBatch {
    TokenBatch::new(layout(), Aggregation::TokenMean)
}

fn entropies(values: [[f64; 2]; 2]) -> Tensor {
    Tensor::new(&values, &Device::Cpu).unwrap()
}

fn step(values: &[f64]) -> StepEntropy {
    let mut step = StepEntropy::new();
    for (turn, value) in values.iter().enumerate() {
        step.add_turn(turn, &[*value]).unwrap();
    }
    step
}

fn run(control: &mut EntropyControl, k: u64) -> Vec<(String, f64)> {
    let x = 0.3 + 0.1 * k as f64;
    control.begin_step_with(k, step(&[x, 2.0 * x])).unwrap();
    let output = control.term(&entropies([[0.2, 1.3], [0.9, f64::NAN]]), &batch()).unwrap();
    let mut metrics = output.metrics;
    metrics.merge(&control.report().unwrap());
    metrics.add("loss", host(&output.loss)[0]);
    control.finish_step().unwrap();
    metrics.iter().map(|(name, value)| (name.to_string(), value)).collect()
}

#[test]
fn the_paper_excludes_the_current_step_and_the_published_code_includes_it() {
    let mut paper = EntropyConfig::paper_v2().build().unwrap();
    paper.begin_step_with(0, step(&[1.0, 3.0])).unwrap();
    assert_eq!(paper.reference(0).unwrap(), None);
    let first = paper.term(&entropies([[9.0; 2]; 2]), &batch()).unwrap();
    // No history, no penalty: the plain bonus is left.
    assert_close("first step", &host(&first.loss), &[-0.009], F64);
    paper.finish_step().unwrap();
    assert_eq!(paper.reference(7).unwrap(), Some(2.0));

    let mut official = EntropyConfig::official_code().build().unwrap();
    official.begin_step_with(0, step(&[1.0, 3.0])).unwrap();
    assert_eq!(official.reference(49).unwrap(), Some(3.0));
    assert_eq!(official.reference(0).unwrap(), Some(0.0));
    official.finish_step().unwrap();
    assert_eq!(official.reference(49).unwrap(), Some(3.0));
    assert!(official.reference(50).is_err());
}

#[test]
fn diagnostics_do_not_depend_on_the_regulariser() {
    for kind in ["none", "bonus", "epo", "epo-official"] {
        let method = EntropyMethod::of_kind(kind).unwrap();
        let mut control = EntropyConfig { method, ..EntropyConfig::default() }.build().unwrap();
        run(&mut control, 7); // H̄ = 1.5 nats, the band is [0.75, 2.25]
        let metrics = run(&mut control, 8);
        let get = |name: &str| metrics.iter().find(|(n, _)| n == name).unwrap().1;
        assert_close("mean", &[get("entropy/mean")], &[0.8], F64);
        let shares = ["below_band", "in_band", "above_band"].map(|s| get(&format!("entropy/{s}")));
        assert_close("shares", &shares, &[1.0 / 3.0, 2.0 / 3.0, 0.0], F64);
        assert_close("turn", &[get("entropy/turn_001")], &[2.2], F64);
        assert_close("reference", &[get("entropy/reference_001")], &[1.5], F64);
        assert_eq!(get("loss") == 0.0, method == EntropyMethod::None);
    }
}

#[test]
fn a_restored_control_continues_as_the_original() {
    let histories = [
        HistoryConfig::Cumulative { per_turn: true },
        HistoryConfig::Window { steps: Count::literal(2), per_turn: false },
        HistoryConfig::Ema { decay: Decay::literal(0.9), per_turn: true },
        HistoryConfig::Anchored { steps: Count::literal(2), per_turn: false },
        HistoryConfig::Official { max_steps: Count::literal(3) },
    ];
    for history in histories {
        let config = EntropyConfig { history, ..EntropyConfig::paper_v2() };
        let mut original = config.build().unwrap();
        (0..3).for_each(|k| drop(run(&mut original, k)));
        let text = original.state().to_string();
        let mut restored = config.build().unwrap();
        restored.load_state(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(restored.beta(), original.beta());
        for k in 3..6 {
            assert_eq!(run(&mut restored, k), run(&mut original, k), "{history:?}");
        }
        let history = HistoryConfig::Official { max_steps: Count::literal(9) };
        let other = EntropyConfig { history, ..config };
        let error = other.build().unwrap().load_state(&original.state()).unwrap_err();
        assert!(error.to_string().contains("entropy.history"), "{error}");
        assert!(config.build().unwrap().load_state(&serde_json::json!({})).is_err());
    }
}

#[test]
fn steps_are_begun_and_finished_in_turn() {
    let mut control = EntropyConfig::default().build().unwrap();
    assert!(matches!(control.finish_step(), Err(Error::Setting { .. })));
    control.begin_step_with(0, step(&[1.0])).unwrap();
    assert!(matches!(control.begin_step_with(1, step(&[1.0])), Err(Error::Setting { .. })));
}

#[test]
fn presets_hold_the_papers_numbers() {
    let science = EntropyConfig::paper_v2().scienceworld();
    let beta =
        BetaSchedule::PaperV2 { gamma: Positive::literal(3.0), total_steps: AtLeast::literal(125) };
    let epo = EpoConfig {
        lambda: Positive::literal(0.001),
        alpha: Positive::literal(0.05),
        beta,
        ..EpoConfig::default()
    };
    assert_eq!(science.method, EntropyMethod::Epo(epo));
    assert_eq!(science.band, Band::literal(0.0, 2.0));
    let alf = EntropyConfig::official_code().alfworld();
    let official = EpoOfficialConfig {
        alpha: Positive::literal(0.1),
        gate: Some(25),
        beta: BetaSchedule::OfficialTwoPhase { total_steps: Count::literal(150) },
        ..EpoOfficialConfig::default()
    };
    assert_eq!(alf.method, EntropyMethod::EpoOfficial(official));
    assert_eq!(alf.band, Band::literal(0.0, 2.0));
    let default = EntropyConfig::default();
    assert_eq!(default.method, EntropyMethod::Epo(EpoConfig::default()));
    assert_eq!(default.band, Band::literal(0.5, 1.5));
}

#[test]
fn bad_configurations_are_refused_when_they_are_read() {
    for text in [
        r#"{ "band": { "kappa_low": -0.1, "kappa_high": 1.0 } }"#,
        r#"{ "band": { "kappa_low": 2.0, "kappa_high": 1.0 } }"#,
        r#"{ "band": { "kapa_low": 0.5, "kappa_high": 1.0 } }"#,
        r#"{ "method": { "kind": "epo", "lambda": -1.0 } }"#,
        r#"{ "method": { "kind": "epo", "gate": 3 } }"#,
        r#"{ "method": { "kind": "epo-v3" } }"#,
        r#"{ "method": { "kind": "epo",
             "beta": { "kind": "paper-v2", "gamma": 3.0, "total_steps": 1 } } }"#,
        r#"{ "method": { "kind": "epo",
             "beta": { "kind": "constant", "value": 1.0, "gamma": 3.0 } } }"#,
        r#"{ "history": { "kind": "window", "steps": 0 } }"#,
        r#"{ "history": { "kind": "ema", "decay": 1.0 } }"#,
        r#"{ "history": { "kind": "official", "max_steps": 0 } }"#,
        r#"{ "history": { "kind": "cumulative", "steps": 3 } }"#,
        r#"{ "history": { "kind": "official", "max_steps": 30, "per_turn": false } }"#,
        r#"{ "history": { "kind": "window" } }"#,
    ] {
        assert!(serde_json::from_str::<EntropyConfig>(text).is_err(), "{text}");
    }
    let official = EntropyConfig::official_code();
    let text = serde_json::to_string(&official).unwrap();
    assert_eq!(serde_json::from_str::<EntropyConfig>(&text).unwrap(), official);
}

#[test]
fn bad_tensors_are_named_with_their_place() {
    let control = EntropyConfig::default().build().unwrap();
    let error = control.term(&entropies([[0.1, f64::NAN], [0.2, 0.3]]), &batch()).unwrap_err();
    assert_eq!(error.to_string(), "`entropy_bt` is NaN at row 0, token 1");
    let error =
        control.term(&Tensor::zeros(3, candle_core::DType::F64, &Device::Cpu).unwrap(), &batch());
    assert!(matches!(error.unwrap_err(), Error::Shape { name: "entropy_bt", .. }));

    let loss = |log_prob: f64, settings: PolicyLoss| {
        let log_probs_bt = entropies([[-1.0, log_prob], [-1.0, -1.0]]);
        let zeros = entropies([[0.0; 2]; 2]);
        let batch = batch();
        let inputs = LossInputs::new(&log_probs_bt, &zeros, &zeros, &batch);
        policy_loss(&inputs, &settings).map(|output| output.metrics)
    };
    let plain = PolicyLoss { kl: None, ..PolicyLoss::default() };
    assert_close(
        "ratio_max",
        &[loss(0.5, plain).unwrap().get("ratio_max").unwrap()],
        &[0.5f64.exp()],
        F64,
    );
    let error = loss(f64::NEG_INFINITY, plain).unwrap_err();
    assert_eq!(error.to_string(), "`log_probs_bt` is -inf at row 0, token 1");
    assert_eq!(loss(800.0, plain).unwrap_err().to_string(), "`ratio` is inf at row 0, token 1");
    let kl = Some(KlLoss { estimator: KlKind::K3, coef: 0.1 });
    for (settings, name) in [
        (PolicyLoss { clip_low: 1.5, ..plain }, "update.policy.clip_low"),
        (PolicyLoss { clip_high: -0.1, ..plain }, "update.policy.clip_high"),
        (PolicyLoss { dual_clip: Some(1.0), ..plain }, "update.policy.dual_clip"),
        (
            PolicyLoss { kl: Some(KlLoss { estimator: KlKind::K1, coef: -1.0 }), ..plain },
            "update.policy.kl.coef",
        ),
        (PolicyLoss { kl, ..plain }, "update.policy.kl"),
    ] {
        assert!(
            matches!(loss(0.0, settings), Err(Error::Setting { field, .. }) if field == name),
            "{name}"
        );
    }
}

#[test]
fn an_all_masked_batch_is_an_error_and_an_all_masked_row_weighs_nothing() {
    let empty = TokenLayout::per_turn(2, vec![false; 4], &[0, 1], vec![0, 1]);
    assert!(matches!(empty, Err(Error::EmptyMask { .. })));
    let layout =
        TokenLayout::per_turn(2, vec![true, true, false, false], &[0, 1], vec![0, 1]).unwrap();
    for mode in [Aggregation::TokenMean, Aggregation::SeqMeanTokenMean, Aggregation::TurnMean] {
        let batch = TokenBatch::new(layout.clone(), mode);
        assert_eq!(batch.weights(), [0.5, 0.5, 0.0, 0.0]);
        let mut control = EntropyConfig::default().build().unwrap();
        run(&mut control, 0);
        let row = batch.select(&[1]).unwrap();
        let x_bt = Tensor::new(&[[f64::NAN, 1.0]], &Device::Cpu).unwrap();
        assert_eq!(host(&control.term(&x_bt, &row).unwrap().loss), [0.0]);
    }
    let strict = TokenBatch::official(layout, Aggregation::SeqMeanTokenMean);
    assert!(matches!(strict, Err(Error::EmptyMask { at, .. }) if at == "row 1"));
}
