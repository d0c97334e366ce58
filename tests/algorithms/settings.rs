//! Settings: names, defaults by kind, and contradictions, which are errors.

use epo::entropy::*;
use epo::objective::*;
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
    let kl = Some(KlLoss { estimator: KlKind::K3, coef: 0.01 });
    let ppo = PolicyLoss {
        kind: PolicyLossKind::Ppo,
        clip_low: 0.2,
        clip_high: 0.2,
        dual_clip: Some(3.0),
        max_log_ratio: None,
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
        (r#"{ "kind": "cispo", "dual_clip": 3.0 }"#, "update.policy.dual_clip"),
        (r#"{ "kind": "gspo", "dual_clip": 3.0 }"#, "update.policy.dual_clip"),
        (r#"{ "kind": "reinforce", "dual_clip": 3.0 }"#, "update.policy.dual_clip"),
        (r#"{ "kind": "reinforce", "clip_low": 0.2 }"#, "update.policy.clip_low"),
        (r#"{ "kind": "reinforce", "max_log_ratio": 20.0 }"#, "update.policy.max_log_ratio"),
        (r#"{ "max_log_ratio": 0.0 }"#, "update.policy.max_log_ratio"),
        (r#"{ "max_log_ratio": 80.5 }"#, "update.policy.max_log_ratio"),
        (r#"{ "kind": "reinforce", "clip_high": 0.2 }"#, "update.policy.clip_high"),
        (r#"{ "kind": "cispo", "clip_low": 10.0 }"#, "update.policy.clip_low"),
    ] {
        refused(policy(text).validate(), name);
    }
    let level = RatioLevel::Token;
    for (correction, name) in [
        (ImportanceCorrection::Truncate { level, max: 0.5 }, "update.correction.max"),
        (
            ImportanceCorrection::Mask { level, min: 0.5, max: f64::INFINITY },
            "update.correction.max",
        ),
        (ImportanceCorrection::Mask { level, min: 1.5, max: 2.0 }, "update.correction.min"),
    ] {
        refused(correction.validate(), name);
        let layout = TokenLayout::per_turn(1, vec![true], &[0], vec![0]).unwrap();
        refused(importance_weights(&[0.0], &[0.0], &layout, correction), name);
    }
    for text in [
        r#"{ "kind": "truncate", "level": "token", "max": 2.0, "min": 0.5 }"#,
        r#"{ "kind": "mask", "level": "token", "max": 2.0 }"#,
        r#"{ "kind": "truncate", "level": "row", "max": 2.0 }"#,
    ] {
        assert!(serde_json::from_str::<ImportanceCorrection>(text).is_err(), "{text}");
    }
}

#[test]
fn a_setting_belongs_to_one_method() {
    let unknown = |kind: &str, text: &str, field: &str| {
        let text = format!(r#"{{ "method": {{ "kind": "{kind}", {text} }} }}"#);
        let error = serde_json::from_str::<EntropyConfig>(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("unknown field `{field}`")), "{text}: {error}");
    };
    unknown("bonus", r#""high": 2.0"#, "high");
    unknown("clip-cov", r#""coef": 1.0"#, "coef");
    unknown("epo", r#""share": 0.5"#, "share");
    unknown("kl-cov", r#""gate": 3"#, "gate");
    unknown("clip-cov", r#""ratio": 0.1"#, "ratio");
}

#[test]
fn a_methods_own_settings_are_checked() {
    let read = |text: &str| {
        let text = format!(r#"{{ "method": {text} }}"#);
        serde_json::from_str::<EntropyConfig>(&text)
    };
    for (text, rule) in [
        (r#"{ "kind": "adaptive", "goal": { "target": -1.0 } }"#, "must be positive"),
        (r#"{ "kind": "adaptive", "goal": { "rate": 0.0 } }"#, "must be positive"),
        (r#"{ "kind": "adaptive", "lambda": 0.0, "goal": { "rule": "sac" } }"#, "must be positive"),
        (r#"{ "kind": "clip-cov", "share": 0.0 }"#, "must be in (0, 1], got 0"),
        (r#"{ "kind": "kl-cov", "share": 1.5 }"#, "must be in (0, 1], got 1.5"),
        (r#"{ "kind": "kl-cov", "coef": -1.0 }"#, "must be positive and finite, got -1"),
        (r#"{ "kind": "top-entropy", "share": 2.0 }"#, "must be in (0, 1], got 2"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(rule), "{text}: {error}");
    }
    let build = |text: &str| read(text).unwrap().build();
    refused(build(r#"{ "kind": "adaptive", "lambda": 2.0 }"#), "entropy.method.lambda");
    refused(build(r#"{ "kind": "clip-cov", "low": 6.0 }"#), "entropy.method.low");
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
        let method = EntropyMethod::of_kind(name).unwrap();
        assert_eq!(serde_json::to_value(method).unwrap()["kind"], name);
        for base in [EntropyConfig::default(), EntropyConfig::official_code()] {
            let config = EntropyConfig { method, ..base };
            config.build().unwrap();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<EntropyConfig>(&text).unwrap(), config);
        }
    }
    refused(EntropyMethod::of_kind("sac"), "entropy.method.kind");
}
