//! Settings: names, defaults by kind, and contradictions, which are errors.

use epo::entropy::*;
use epo::objective::*;
use epo::train::config::UpdateConfig;
use epo::Error;

#[track_caller]
fn refused<T>(result: epo::Result<T>, name: &str) {
    match result {
        Err(Error::Setting { field, .. }) => assert_eq!(field, name),
        Err(other) => panic!("{name}: {other}"),
        Ok(_) => panic!("{name} was accepted"),
    }
}

fn policy(text: &str) -> PolicyLoss {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn a_setting_left_out_has_the_value_of_its_kind() {
    let default = policy("{}");
    assert_eq!(default, PolicyLoss::default());
    let kl = Some(KlLoss { kind: KlKind::K3, coef: 0.01 });
    let ppo = PolicyLoss {
        kind: PolicyLossKind::Ppo,
        clip_low: 0.2,
        clip_high: 0.2,
        dual_clip: Some(3.0),
        kl,
    };
    assert_eq!(default, ppo);
    assert_eq!(policy(r#"{ "clip_high": 0.28, "dual_clip": false }"#), {
        PolicyLoss { clip_high: 0.28, dual_clip: None, ..ppo }
    });
    let gspo = policy(r#"{ "kind": "gspo", "clip_low": 0.001 }"#);
    assert_eq!(gspo, PolicyLoss { clip_low: 0.001, ..PolicyLoss::of(PolicyLossKind::Gspo) });
    assert_eq!((gspo.clip_high, gspo.dual_clip, gspo.kl), (4e-4, None, None));
    for kind in [
        PolicyLossKind::Ppo,
        PolicyLossKind::Gspo,
        PolicyLossKind::Cispo,
        PolicyLossKind::Reinforce,
    ] {
        let settings = PolicyLoss::of(kind);
        settings.validate().unwrap();
        assert_eq!(policy(&serde_json::to_string(&settings).unwrap()), settings);
    }
    for text in [r#"{ "kind": "grpo" }"#, r#"{ "clip": 0.1 }"#, r#"{ "dual_clip": true }"#] {
        assert!(serde_json::from_str::<PolicyLoss>(text).is_err(), "{text}");
    }
}

#[test]
fn contradictions_are_errors() {
    for (text, name) in [
        (r#"{ "kind": "cispo", "dual_clip": 3.0 }"#, "objective.dual_clip"),
        (r#"{ "kind": "gspo", "dual_clip": 3.0 }"#, "objective.dual_clip"),
        (r#"{ "kind": "reinforce", "dual_clip": 3.0 }"#, "objective.dual_clip"),
        (r#"{ "kind": "reinforce", "clip_low": 0.2 }"#, "objective.clip_low"),
        (r#"{ "kind": "reinforce", "clip_high": 0.2 }"#, "objective.clip_high"),
        (r#"{ "kind": "cispo", "clip_low": 10.0 }"#, "objective.clip_low"),
    ] {
        refused(policy(text).validate(), name);
    }
    let level = RatioLevel::Token;
    for (correction, name) in [
        (ImportanceCorrection::Truncate { level, max: 0.5 }, "correction.max"),
        (ImportanceCorrection::Mask { level, min: 0.5, max: f64::INFINITY }, "correction.max"),
        (ImportanceCorrection::Mask { level, min: 1.5, max: 2.0 }, "correction.min"),
    ] {
        let update = UpdateConfig { correction: Some(correction), ..UpdateConfig::default() };
        refused(update.validate(), name);
        let layout = TokenLayout::per_turn(1, vec![true], &[0], vec![0]).unwrap();
        refused(importance_weights(&[0.0], &[0.0], &layout, correction), name);
    }
    for text in [
        r#"{ "method": "truncate", "level": "token", "max": 2.0, "min": 0.5 }"#,
        r#"{ "method": "mask", "level": "token", "max": 2.0 }"#,
        r#"{ "method": "truncate", "level": "row", "max": 2.0 }"#,
    ] {
        assert!(serde_json::from_str::<ImportanceCorrection>(text).is_err(), "{text}");
    }
}

#[test]
fn a_table_belongs_to_one_method() {
    let build = |text: &str| serde_json::from_str::<EntropyConfig>(text).unwrap().build();
    for (text, name) in [
        (r#"{ "method": "bonus", "clip_cov": {} }"#, "entropy.clip_cov"),
        (r#"{ "method": "clip-cov", "kl_cov": {} }"#, "entropy.kl_cov"),
        (r#"{ "top_entropy": { "share": 0.5 } }"#, "entropy.top_entropy"),
        (r#"{ "method": "none", "adaptive": { "target": 1.0 } }"#, "entropy.adaptive"),
        (r#"{ "method": "kl-cov", "gate": 3 }"#, "entropy.gate"),
        (r#"{ "method": "adaptive", "adaptive": { "target": -1.0 } }"#, "entropy.adaptive.target"),
        (
            r#"{ "method": "adaptive", "adaptive": { "target": 1.0, "rate": 0.0 } }"#,
            "entropy.adaptive.rate",
        ),
        (
            r#"{ "method": "adaptive", "lambda": 2.0, "adaptive": { "target": 1.0 } }"#,
            "entropy.lambda",
        ),
        (
            r#"{ "method": "adaptive", "lambda": 0.0, "adaptive": { "target": 1.0, "rule": "sac" } }"#,
            "entropy.lambda",
        ),
        (r#"{ "method": "clip-cov", "clip_cov": { "share": 0.0 } }"#, "entropy.clip_cov.share"),
        (r#"{ "method": "clip-cov", "clip_cov": { "low": 6.0 } }"#, "entropy.clip_cov.low"),
        (r#"{ "method": "kl-cov", "kl_cov": { "share": 1.5 } }"#, "entropy.kl_cov.share"),
        (r#"{ "method": "kl-cov", "kl_cov": { "coef": -1.0 } }"#, "entropy.kl_cov.coef"),
        (
            r#"{ "method": "top-entropy", "top_entropy": { "share": 2.0 } }"#,
            "entropy.top_entropy.share",
        ),
    ] {
        refused(build(text), name);
    }
    assert!(serde_json::from_str::<EntropyConfig>(r#"{ "clip_cov": { "ratio": 0.1 } }"#).is_err());
}

#[test]
fn every_method_has_its_name() {
    let names = [
        "none",
        "bonus",
        "epo",
        "epo-official",
        "decayed-bonus",
        "adaptive",
        "clip-cov",
        "kl-cov",
        "top-entropy",
    ];
    for name in names {
        let config = EntropyConfig::default().with_method(name).unwrap();
        assert_eq!(serde_json::to_value(config.method).unwrap(), name);
        config.build().unwrap();
        assert_eq!(
            EntropyConfig::official_code().with_method(name).unwrap().build().map(drop).ok(),
            Some(())
        );
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<EntropyConfig>(&text).unwrap(), config);
    }
    refused(EntropyConfig::default().with_method("sac"), "entropy.method");
}
