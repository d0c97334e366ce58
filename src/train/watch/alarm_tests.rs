use crate::run::record::Record;
use crate::train::watch::alarm::*;
use crate::train::watch::step_numbers::{AlarmBaseline, StepNumbers};

/// A healthy step; each test changes the numbers it is about.
fn healthy() -> StepNumbers {
    StepNumbers {
        zero_variance: Some(0.25),
        valid_actions: Some(0.75),
        entropy: Some(1.0),
        entropy_late: Some(0.5),
        band_high: Some(1.5),
        success: Some(0.5),
    }
}

/// Thresholds that add and subtract exactly, so that tests can be at the threshold itself.
fn config() -> AlarmConfig {
    AlarmConfig {
        window: AtLeast::literal(4),
        zero_variance: Share::literal(0.75),
        valid_drop: Share::literal(0.25),
        entropy_share: Decay::literal(0.25),
        success_drop: Share::literal(0.25),
        late_share: Decay::literal(0.5),
        ..AlarmConfig::default()
    }
}

fn record(step: u64, numbers: StepNumbers) -> Record {
    let StepNumbers { zero_variance, valid_actions, entropy, entropy_late, band_high, success } =
        numbers;
    Record::new("rl", step)
        .with("zero_variance_groups", zero_variance)
        .with("valid_actions", valid_actions)
        .with("entropy", entropy)
        .with("entropy_late", entropy_late)
        .with("band_high", band_high)
        .with("success", success)
}

/// The baseline of a run that started with this entropy.
fn started_at(entropy: Option<f64>) -> AlarmBaseline {
    AlarmBaseline { entropy, ..AlarmBaseline::default() }
}

fn kinds(window: &[StepNumbers], start: Option<f64>) -> Vec<AlarmKind> {
    config().check(window, &started_at(start)).into_iter().map(|(kind, _)| kind).collect()
}

fn window(of: impl Fn(usize) -> StepNumbers) -> [StepNumbers; 4] {
    [0, 1, 2, 3].map(of)
}

#[test]
fn a_healthy_run_raises_nothing() {
    assert_eq!(kinds(&window(|_| healthy()), Some(1.0)), []);
    // One part of a condition alone.
    let flat = window(|_| StepNumbers { zero_variance: Some(1.0), ..healthy() });
    let invalid =
        window(|i| StepNumbers { valid_actions: Some([0.75, 0.75, 0.25, 0.25][i]), ..healthy() });
    let low = window(|_| StepNumbers { entropy: Some(0.01), ..healthy() });
    let high = window(|i| StepNumbers { entropy: Some(1.0 + i as f64), ..healthy() });
    let failing = window(|i| StepNumbers { success: Some([0.5, 0.5, 0.0, 0.0][i]), ..healthy() });
    for alone in [flat, invalid, low, high, failing] {
        assert_eq!(kinds(&alone, Some(1.0)), [], "{alone:?}");
    }
}

#[test]
fn early_collapse_is_raised_exactly_at_its_thresholds() {
    let flat = |share: f64, valid: f64, entropy: f64| {
        window(|i| StepNumbers {
            zero_variance: Some(share),
            valid_actions: Some(if i < 2 { 0.75 } else { valid }),
            entropy: Some(entropy),
            ..healthy()
        })
    };
    let raised = |window: [StepNumbers; 4]| kinds(&window, Some(1.0)) == [AlarmKind::EarlyCollapse];
    assert!(raised(flat(0.75, 0.5, 1.0)) && !raised(flat(0.7499, 0.5, 1.0)));
    assert!(
        !raised(flat(0.75, 0.5001, 1.0)) && !raised(flat(0.75, 1.0, 1.0)),
        "a rise is not a drop"
    );
    assert!(raised(flat(0.75, 0.75, 0.25)) && !raised(flat(0.75, 0.75, 0.2501)));
    assert_eq!(kinds(&flat(0.75, 0.75, 0.25), None), [], "no alarm without a baseline");
    let (_, message) = config().check(&flat(0.8, 0.25, 1.0), &started_at(Some(1.0))).remove(0);
    assert_eq!(
        message,
        "80.0 % of the groups of 4 steps have no variance \
         and valid actions fell from 0.750 to 0.250"
    );
}

#[test]
fn late_blow_up_is_raised_exactly_at_its_thresholds() {
    let blown = |entropy: [f64; 2], success: f64| {
        window(|i| StepNumbers {
            entropy: Some(entropy[i / 2]),
            success: Some(if i < 2 { 0.5 } else { success }),
            ..healthy()
        })
    };
    let raised = |window: [StepNumbers; 4]| kinds(&window, Some(1.0)) == [AlarmKind::LateBlowUp];
    assert!(raised(blown([1.0, 1.75], 0.25)) && !raised(blown([1.0, 1.75], 0.2501)));
    assert!(!raised(blown([1.0, 1.5], 0.25)), "the band's upper end is inside");
    assert!(!raised(blown([1.75, 1.75], 0.25)), "above the band, but not rising");
    assert!(!raised(blown([2.0, 1.75], 0.25)) && !raised(blown([1.0, 1.75], 0.75)));
    let no_band = blown([1.0, 1.75], 0.25).map(|s| StepNumbers { band_high: None, ..s });
    assert!(!raised(no_band), "no alarm without a band");
    let (_, message) = config().check(&blown([1.0, 1.75], 0.25), &started_at(None)).remove(0);
    let expected = "entropy rose from 1.0000 to 1.7500 nats, above the band's upper end 1.5000, \
                    and success fell from 0.500 to 0.250";
    assert_eq!(message, expected);
}

#[test]
fn late_turn_collapse_is_raised_exactly_at_its_thresholds() {
    let baseline =
        AlarmBaseline { entropy: Some(1.0), entropy_late: Some(0.5), success: Some(0.75) };
    let late = |entropy: f64, success: f64| {
        window(|_| StepNumbers { entropy_late: Some(entropy), success: Some(success), ..healthy() })
    };
    let raised = |window: &[StepNumbers], baseline| {
        config()
            .check(window, baseline)
            .iter()
            .any(|(kind, _)| *kind == AlarmKind::LateTurnCollapse)
    };
    assert!(raised(&late(0.25, 0.5), &baseline));
    assert!(!raised(&late(0.2501, 0.5), &baseline) && !raised(&late(0.25, 0.5001), &baseline));
    let nothing = AlarmBaseline { entropy_late: None, ..baseline };
    assert!(!raised(&late(0.25, 0.5), &nothing), "no alarm without a baseline");
    let (_, message) = config().check(&late(0.125, 0.25), &baseline).remove(0);
    let expected = "entropy in the last third of the turns is 0.1250 nats, 0.5000 at the start, \
                    and success is 0.250, 0.750 at its best";
    assert_eq!(message, expected);
}

#[test]
fn late_turn_collapse_compares_success_with_the_best_window() {
    // Success rises and falls again while the last third of the turns loses its entropy.
    let step = |i: usize| StepNumbers {
        success: Some([0.25, 0.5, 0.75, 0.25][i / 4]),
        entropy_late: Some([0.5, 0.5, 0.25, 0.125][i / 4]),
        ..healthy()
    };
    let steps: Vec<StepNumbers> = (0..16).map(step).collect();
    let mut alarms = Alarms::new(config());
    let raised = observe(&mut alarms, &steps, 0);
    // Success of steps 10–13 is 0.5, a quarter below that of 8–11.
    assert_eq!(
        raised.iter().map(|a| (a.kind, a.step)).collect::<Vec<_>>(),
        [(AlarmKind::LateTurnCollapse, 13)]
    );
}

/// Sixteen steps that collapse from the fifth on.
fn collapsing() -> Vec<StepNumbers> {
    let late = |i: usize| StepNumbers {
        zero_variance: Some(1.0),
        entropy: Some(0.5 / i as f64),
        ..healthy()
    };
    (0..16).map(|i| if i < 4 { healthy() } else { late(i) }).collect()
}

fn observe(alarms: &mut Alarms, steps: &[StepNumbers], from: usize) -> Vec<Alarm> {
    let see = |(i, numbers): (usize, &StepNumbers)| {
        let mut record = record(i as u64, *numbers);
        let raised = alarms.observe(&mut record);
        for alarm in &raised {
            assert!(record.to_json().contains(alarm.kind.key()), "{}", record.to_json());
        }
        raised
    };
    steps.iter().enumerate().skip(from).flat_map(see).collect()
}

#[test]
fn an_alarm_is_raised_once_in_a_window_and_from_the_whole_window() {
    let mut alarms = Alarms::new(config());
    let raised = observe(&mut alarms, &collapsing(), 0);
    // The mean entropy of steps 3–6 is (1 + 0.125 + 0.1 + 0.083)/4 = 0.33, that of 4–7 0.095; ≤
    // 0.25 from step 7 on.
    assert_eq!(raised.iter().map(|a| a.step).collect::<Vec<_>>(), [7, 11, 15]);
    assert!(raised.iter().all(|a| a.kind == AlarmKind::EarlyCollapse));
    assert!(
        raised[0].to_string().starts_with("step 7: early collapse: 100.0 % of the groups"),
        "{}",
        raised[0]
    );
    assert!(!alarms.stops() && alarms.lr_factor() == 1.0);
}

fn lower_lr(factor: f64) -> AlarmAction {
    AlarmAction::LowerLr { factor: OpenUnit::literal(factor) }
}

#[test]
fn actions_stop_or_lower_the_learning_rate() {
    let of = |action| {
        let mut alarms = Alarms::new(AlarmConfig { action, ..config() });
        let raised = observe(&mut alarms, &collapsing(), 0).len();
        (raised, alarms.stops(), alarms.lr_factor())
    };
    let mut none = Alarms::restore(None, AlarmState::default());
    assert_eq!(observe(&mut none, &collapsing(), 0), []);
    assert!(!none.stops() && none.lr_factor() == 1.0);
    assert_eq!(of(AlarmAction::Warn), (3, false, 1.0));
    assert_eq!(of(AlarmAction::Stop), (3, true, 1.0));
    assert_eq!(of(lower_lr(0.5)), (3, false, 0.125));
}

#[test]
fn a_resumed_run_raises_the_same_alarms_from_any_step() {
    let steps = collapsing();
    let config = AlarmConfig { action: lower_lr(0.3), ..config() };
    let mut whole = Alarms::new(config);
    let all = observe(&mut whole, &steps, 0);
    for cut in 0..steps.len() {
        let mut first = Alarms::new(config);
        let mut raised = observe(&mut first, &steps[..cut], 0);
        let saved = serde_json::to_string(first.state()).unwrap();
        let mut rest = Alarms::restore(Some(config), serde_json::from_str(&saved).unwrap());
        raised.extend(observe(&mut rest, &steps, cut));
        assert_eq!((&raised, rest.state()), (&all, whole.state()), "cut before step {cut}");
    }
}

#[test]
fn missing_or_non_finite_numbers_raise_nothing() {
    let mut alarms = Alarms::new(config());
    let nothing = vec![StepNumbers::default(); 8];
    assert_eq!(observe(&mut alarms, &nothing, 0), []);
    let nan = Record::new("rl", 0).with("entropy", f64::NAN).with("success", f64::INFINITY);
    assert_eq!(StepNumbers::of(&nan), StepNumbers::default());
}

#[test]
fn thresholds_out_of_range_are_rejected() {
    for (text, named) in [
        ("window = 1", "window"),
        ("action = { kind = \"lower-lr\", factor = 1.0 }", "must be in (0, 1), got 1"),
        ("zero_variance = 0.0", "zero_variance"),
        ("valid_drop = nan", "valid_drop"),
        ("entropy_share = 1.0", "entropy_share"),
        ("late_share = -0.1", "late_share"),
        ("success_drop = 1.5", "success_drop"),
        ("windw = 3", "windw"),
    ] {
        let error = toml::from_str::<AlarmConfig>(text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let parsed: AlarmConfig = toml::from_str("action = { kind = \"lower-lr\" }").unwrap();
    assert_eq!(parsed.action, lower_lr(0.5));
}
