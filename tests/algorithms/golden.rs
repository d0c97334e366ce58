//! The numbers of scripts/algorithms_numpy.py, reproduced: values and gradients.

use candle_core::Tensor;
use epo::advantage::*;
use epo::entropy::*;
use epo::objective::*;
use epo::settings::Share;
use serde_json::Value;

use crate::support::*;
use crate::{entropy_inputs, masked, stream, Golden};

fn named<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn policy_settings(case: &Value) -> PolicyLoss {
    PolicyLoss {
        kind: named(&case["kind"]),
        clip_low: number(&case["clip_low"]),
        clip_high: number(&case["clip_high"]),
        dual_clip: case["dual_clip"].as_f64(),
        max_log_ratio: None,
        kl: None,
    }
}

#[test]
fn policy_losses() {
    let golden = Golden::read();
    let cases = golden.0["policy"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let what =
            format!("{} {} weighted {}", case["kind"], case["aggregation"], case["weighted"]);
        let batch = golden.batch(named(&case["aggregation"]));
        let settings = policy_settings(case);
        let (old, advantages) = (golden.tensor("old_log_probs"), golden.tensor("advantages"));
        let weights = golden.tensor("weights");
        let loss = |log_probs_bt: &Tensor| {
            let inputs = LossInputs {
                log_probs_bt,
                old_log_probs_bt: &old,
                ref_log_probs_bt: None,
                advantages_bt: &advantages,
                weights_bt: (case["weighted"] == true).then_some(&weights),
                batch: &batch,
            };
            policy_loss(&inputs, &settings)
        };
        let output = loss(&golden.tensor("log_probs")).unwrap();
        assert_close(&what, &host(&output.loss), &[number(&case["loss"])], F64);
        let metric = |name: &str| output.metrics.get(name);
        assert_close(&what, &[metric("ratio_max").unwrap()], &[number(&case["ratio_max"])], F64);
        match case["clipped"].as_f64() {
            Some(share) => assert_close(&what, &[metric("pg_clipfrac").unwrap()], &[share], F64),
            None => assert_eq!(metric("pg_clipfrac"), None, "{what}"),
        }
        let got = gradient(&golden.list("log_probs"), &[5, 6], &|x| Ok(loss(x)?.loss));
        assert_close(&format!("{what}: gradient"), &got, &flat(&case["gradient"]), DIFFERENCES);
    }
}

#[test]
fn importance_corrections() {
    let golden = Golden::read();
    let (old, rollout) = (golden.list("old_log_probs"), golden.list("rollout_log_probs"));
    for case in golden.0["importance"].as_array().unwrap() {
        let what = format!("{} {}", case["method"], case["level"]);
        let (level, max) = (named(&case["level"]), number(&case["max"]));
        let correction = if case["method"] == "truncate" {
            ImportanceCorrection::Truncate { level, max }
        } else {
            ImportanceCorrection::Mask { level, min: number(&case["min"]), max }
        };
        let got = importance_weights(&old, &rollout, &golden.layout(), correction).unwrap();
        assert_close(&what, &got.weights, &flat(&case["weights"]), F64);
        for (metric, key) in [
            ("is/mean", "mean"),
            ("is/max", "largest"),
            ("is/cut", "cut"),
            ("is/ess", "ess"),
            ("is/kl", "kl"),
        ] {
            let value = got.metrics.get(metric).unwrap();
            assert_close(&format!("{what} {metric}"), &[value], &[number(&case[key])], F64);
        }
    }
}

#[test]
fn kl_as_a_reward() {
    let golden = Golden::read();
    for case in golden.0["kl_rewards"].as_array().unwrap() {
        let (kind, coef): (KlKind, f64) = (named(&case["kind"]), number(&case["coef"]));
        let lists = ["rewards", "log_probs", "ref_log_probs"].map(|name| golden.list(name));
        let [rewards, log_probs, reference] = &lists;
        let (got, mean) =
            kl_in_reward(rewards, log_probs, reference, &golden.layout(), kind, coef).unwrap();
        assert_close(&format!("{kind:?}"), &got, &flat(&case["rewards"]), F64);
        assert_close(&format!("{kind:?} mean"), &[mean], &[number(&case["mean"])], F64);
        let tensors =
            kl_penalty(&golden.tensor("log_probs"), &golden.tensor("ref_log_probs"), kind).unwrap();
        let of_one = |(&a, &b)| kind.estimate(a, b);
        let numbers: Vec<f64> = log_probs.iter().zip(reference).map(of_one).collect();
        assert_close(&format!("{kind:?} as numbers"), &numbers, &host(&tensors), F64);
    }
}

#[test]
fn the_kl_coefficient_follows_the_kl() {
    let golden = Golden::read();
    let case = &golden.0["adaptive_kl"];
    let get = |key: &str| number(&case[key]);
    let (coef, target, horizon) = (get("coef"), get("target"), get("horizon"));
    let mut control = KlControl::Adaptive(AdaptiveKl { coef, target, horizon });
    let observed = flat(&case["observed"]);
    let step = |kl: f64| {
        control.update(kl, get("samples") as usize).unwrap();
        control.coef()
    };
    assert_close(
        "β",
        &observed.into_iter().map(step).collect::<Vec<_>>(),
        &flat(&case["coefs"]),
        F64,
    );
}

#[test]
fn dapo_filters_and_shapes() {
    let golden = Golden::read();
    let case = &golden.0["dapo"];
    let keep = informative_groups(&flat(&case["scores"]), &indices(&case["groups"])).unwrap();
    assert_eq!(keep, mask(&case["keep"]));
    let case = &case["overlong"];
    let number_of = |key: &str| number(&case[key]) as usize;
    let overlong = Overlong {
        limit: number_of("limit"),
        buffer: number_of("buffer"),
        penalty: number(&case["penalty"]),
    };
    let got: Vec<f64> =
        indices(&case["lengths"]).into_iter().map(|n| overlong.reward(n).unwrap()).collect();
    assert_close("overlong", &got, &flat(&case["rewards"]), F64);
}

#[test]
fn outcome_estimators() {
    let golden = Golden::read();
    let case = &golden.0["estimators"];
    let (scores, groups, tokens) =
        (flat(&case["scores"]), indices(&case["groups"]), indices(&case["tokens"]));
    let over = Groups::over_rows(&groups);
    let wanted = case["advantages"].as_object().unwrap();
    assert_eq!(wanted.len(), 5);
    for (name, want) in wanted {
        let estimator: OutcomeEstimator = named(&Value::String(name.clone()));
        let got = estimator.advantages_of_tokens(&scores, &over, &tokens).unwrap();
        assert_close(name, &got, &flat(want), F64);
    }
    // The token-level functions agree on a row for each episode.
    let width = tokens.iter().copied().max().unwrap();
    let mask = tokens.iter().flat_map(|&n| (0..width).map(move |t| t < n)).collect();
    let rows: Vec<usize> = (0..scores.len()).collect();
    let layout = TokenLayout::per_turn(width, mask, &vec![0; rows.len()], rows).unwrap();
    let first = |values: Vec<f64>| values.chunks(width).map(|row| row[0]).collect::<Vec<_>>();
    let baseline = first(reinforce_pp_baseline(&scores, &over, &layout).unwrap());
    assert_close("baseline", &baseline, &flat(&wanted["reinforce-pp-baseline"]), F64);
    let mut rewards = vec![0.0; layout.mask().len()];
    tokens.iter().enumerate().for_each(|(row, &n)| rewards[row * width + n - 1] = scores[row]);
    let undiscounted = first(reinforce_pp(&rewards, &layout, 1.0).unwrap().0);
    assert_close("reinforce++", &undiscounted, &flat(&wanted["reinforce-pp"]), F64);
}

#[test]
fn generalised_advantages() {
    let golden = Golden::read();
    let case = &golden.0["gae"];
    let (tokens, turns): (Gae, Gae) = (named(&case["tokens"]), named(&case["turns"]));
    let (rewards, values, layout) =
        (golden.list("rewards"), golden.list("values"), golden.layout());
    let check = |what: &str, (advantages, returns): Estimate| {
        assert_close(what, &advantages, &flat(&case[what]), F64);
        let of = |list: &[f64]| masked(list, &layout);
        let sums: Vec<f64> = of(&advantages).iter().zip(of(&values)).map(|(a, v)| a + v).collect();
        assert_close(&format!("{what}: returns"), &of(&returns), &sums, F64);
        advantages
    };
    check("within_turns", gae_within_turns(&rewards, &values, &layout, tokens).unwrap());
    check("bi_level", gae_bi_level(&rewards, &values, &layout, turns, tokens).unwrap());
    let over = gae_over_trajectories(&rewards, &values, &layout, tokens).unwrap();
    let over = check("over_trajectories", over);
    assert_close(
        "whitened",
        &whiten_tokens(&over, &layout).unwrap(),
        &flat(&case["whitened"]),
        F64,
    );
    let of_turns = &case["over_turns"];
    let list = |key: &str| flat(&of_turns[key]);
    let trajectories = indices(&of_turns["trajectories"]);
    let (got, _) =
        gae_over_turns(&list("rewards"), &list("values"), &trajectories, tokens).unwrap();
    assert_close("over_turns", &got, &list("advantages"), F64);
}

fn step_tokens<'a>(lists: &'a [Vec<f64>; 3], layout: &'a TokenLayout) -> StepTokens<'a> {
    let [log_probs, entropies, advantages] = lists;
    StepTokens { log_probs, entropies: Some(entropies), advantages, layout, stream: stream(0) }
}

#[test]
fn covariances_and_what_they_select() {
    let golden = Golden::read();
    let case = &golden.0["covariance"];
    let get = |key: &str| number(&case[key]);
    let lists = ["old_log_probs", "entropies", "advantages"].map(|name| golden.list(name));
    let layout = golden.layout();
    let tokens = step_tokens(&lists, &layout);
    let (places, covariances): (Vec<usize>, Vec<f64>) =
        token_covariances(&tokens).into_iter().unzip();
    let want = flat(&case["covariances"]);
    assert_close("cov", &covariances, &places.iter().map(|&i| want[i]).collect::<Vec<_>>(), F64);
    assert_eq!(places.len(), layout.count());

    let candidates = mask(&case["candidates"]);
    let all = ClipCov {
        share: Share::literal(1.0),
        low: get("low").try_into().unwrap(),
        high: get("high").try_into().unwrap(),
    };
    assert_eq!(all.select(&tokens).unwrap().unwrap().chosen, candidates);
    let some = ClipCov { share: get("share").try_into().unwrap(), ..all };
    let some = some.select(&tokens).unwrap().unwrap();
    assert_eq!(some.chosen.iter().filter(|&&c| c).count(), get("number") as usize);
    assert!(some.chosen.iter().zip(&candidates).all(|(&chosen, &candidate)| candidate || !chosen));
    let weights = some.policy_weights.unwrap();
    assert!(some
        .chosen
        .iter()
        .zip(&weights)
        .all(|(&chosen, &w)| w == if chosen { 0.0 } else { 1.0 }));

    let kl_cov =
        KlCov { share: get("share").try_into().unwrap(), coef: get("coef").try_into().unwrap() };
    let top = kl_cov.select(&tokens).unwrap().unwrap();
    assert_eq!((top.chosen, top.policy_weights), (mask(&case["top"]), None));
    let chosen_bt = tensor(&case["top"], candle_core::DType::F64);
    let (old, advantages) = (golden.tensor("old_log_probs"), golden.tensor("advantages"));
    let batch = golden.batch(Aggregation::TurnMean);
    let term = |log_probs_bt: &Tensor| {
        let policy = PolicyInputs {
            log_probs_bt,
            old_log_probs_bt: &old,
            advantages_bt: &advantages,
            chosen_bt: Some(&chosen_bt),
        };
        Ok(kl_cov.term(&entropy_inputs(&old, &batch, 1.0, Some(policy)))?.loss)
    };
    let value = host(&term(&golden.tensor("log_probs")).unwrap());
    assert_close("KL-Cov", &value, &[get("kl_term")], F64);
    let got = gradient(&golden.list("log_probs"), &[5, 6], &term);
    assert_close("KL-Cov gradient", &got, &flat(&case["kl_gradient"]), DIFFERENCES);
}

#[test]
fn the_tokens_of_the_highest_entropy() {
    let golden = Golden::read();
    let case = &golden.0["top_entropy"];
    let lists = ["old_log_probs", "entropies", "advantages"].map(|name| golden.list(name));
    let layout = golden.layout();
    let top = TopEntropy { share: number(&case["share"]).try_into().unwrap() };
    let selection = top.select(&step_tokens(&lists, &layout)).unwrap().unwrap();
    assert_eq!(selection.chosen, mask(&case["chosen"]));
    assert_eq!(selection.policy_weights.unwrap(), flat(&case["chosen"]));
}

#[test]
fn a_bonus_decays_with_beta() {
    let golden = Golden::read();
    let case = &golden.0["decayed_bonus"];
    let get = |key: &str| number(&case[key]);
    let schedule = BetaSchedule::Cosine {
        from: get("from").try_into().unwrap(),
        to: get("to").try_into().unwrap(),
        total_steps: (get("total_steps") as usize).try_into().unwrap(),
    };
    let bonus = DecayedBonus::new(get("lambda")).unwrap();
    let batch = golden.batch(Aggregation::TurnMean);
    for case in case["cases"].as_array().unwrap() {
        let beta = schedule.beta(case["step"].as_u64().unwrap());
        let term = |entropy_bt: &Tensor| {
            Ok(bonus.term(&entropy_inputs(entropy_bt, &batch, beta, None))?.loss)
        };
        let value = host(&term(&golden.tensor("entropies")).unwrap());
        assert_close("bonus", &value, &[number(&case["term"])], F64);
        let got = gradient(&golden.list("entropies"), &[5, 6], &term);
        assert_close("bonus gradient", &got, &flat(&case["gradient"]), DIFFERENCES);
    }
}

#[test]
fn an_adaptive_bonus_holds_its_target() {
    let golden = Golden::read();
    let case = &golden.0["adaptive_entropy"];
    let get = |key: &str| number(&case[key]);
    for rule in [AdaptiveRule::Skywork, AdaptiveRule::Sac] {
        let of = &case[if rule == AdaptiveRule::Sac { "sac" } else { "skywork" }];
        let settings = AdaptiveTarget {
            target: get("target").try_into().unwrap(),
            rate: number(&of["rate"]).try_into().unwrap(),
            max: get("max").try_into().unwrap(),
            rule,
        };
        let mut bonus = AdaptiveBonus::new(get("lambda"), settings).unwrap();
        let (batch, entropies) = (golden.batch(Aggregation::TurnMean), golden.tensor("entropies"));
        let l_h = host(&batch.aggregate(&entropies).unwrap())[0];
        let weight = |entropy: f64| {
            let mut step = StepEntropy::new();
            step.add_turn(0, &[entropy]).unwrap();
            bonus.begin_step(0, &step).unwrap();
            let term = bonus.term(&entropy_inputs(&entropies, &batch, 7.0, None)).unwrap();
            assert_close("term", &host(&term.loss), &[-bonus.lambda() * l_h], F64);
            assert_eq!(term.metrics.get("entropy/lambda"), Some(bonus.lambda()));
            bonus.lambda()
        };
        let got: Vec<f64> = flat(&case["observed"]).into_iter().map(weight).collect();
        assert_close(&format!("{rule:?}"), &got, &flat(&of["weights"]), F64);
    }
}
