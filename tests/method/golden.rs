//! The numbers of the authors' published code, and of the paper's equations, reproduced.
//!
//! `EPO_GOLDEN_DIR` names another directory of files of the same format; everything in them is
//! honoured.

use std::collections::HashMap;

use super::support::*;
use candle_core::{DType, Device, Tensor, Var};
use epo::advantage;
use epo::advantage::{broadcast, Groups};
use epo::entropy::{
    left_pad, official_two_phase, paper_v2_beta, Band, EntropyBonus, EntropyHistory, EntropyInputs,
    EntropyRegularizer, EpoHinge, EpoIndicator, Granularity, OfficialHistory, StepEntropy,
};
use epo::objective::{
    kl_penalty, policy_loss, value_loss, Aggregation, KlKind, KlLoss, LossInputs, LossOutput,
    PolicyLoss, TokenBatch, TokenLayout, ValueInputs,
};
use serde_json::Value;

const KINDS: [&str; 7] = [
    "epo_",
    "helpers",
    "advantages",
    "beta_schedule",
    "entropy_history",
    "penalty_edges",
    "paper_v2_hinge",
];

#[test]
fn golden_directory_holds_nothing_unknown() {
    let all = golden_files("");
    assert!(!all.is_empty(), "the golden directory is empty");
    for (name, _) in all {
        assert!(KINDS.iter().any(|kind| name.starts_with(kind)), "no test knows {name}");
    }
}

// ---- the loss vectors: epo_*.json ----

/// log π(id) and entropy from logits [b, t, V], ids [b, t] and a temperature.
type Forward = fn(&Tensor, &Tensor, f64) -> epo::Result<(Tensor, Tensor)>;

struct LossCase<'a> {
    forward: Forward,
    config: &'a Value,
    inputs: &'a Value,
    dtype: DType,
    tolerance: Tolerance,
    layout: TokenLayout,
    history: Fixed,
    beta: f64,
    last_ratio: f64,
}

#[test]
fn golden_epo_losses_and_gradients() {
    every_loss_vector(logprob_entropy);
}

#[test]
fn golden_epo_losses_and_gradients_with_the_kernel() {
    every_loss_vector(|logits, ids, temperature| {
        let (b, t, v) = logits.dims3()?;
        let (log_probs, entropy) = epo::kernels::logprob_entropy(
            &logits.reshape((b * t, v))?,
            &ids.flatten_all()?,
            temperature,
        )?;
        Ok((log_probs.reshape((b, t))?, entropy.reshape((b, t))?))
    });
}

/// In f32 the authors' logsumexp(z) − Σ p·z rounds at the size of z, so the recorded digits end
/// there: the tolerance is 1e-6, or about two units in the last place of the largest |z| where that
/// is more.
fn every_loss_vector(forward: Forward) {
    for (name, file) in golden_files("epo_") {
        let temperature = file["inputs"]["temperature"].as_f64().unwrap_or(1.0);
        let largest =
            flat(&file["inputs"]["logits"]).iter().fold(0.0, |max, z| f64::max(max, z.abs()));
        let single = F32.above(largest / temperature / 4.0);
        for (key, dtype, tolerance) in
            [("expected_f64", DType::F64, F64), ("expected_f32", DType::F32, single)]
        {
            if let Some(expected) = file.get(key) {
                let mut case = LossCase::new(&file, forward, dtype, tolerance);
                case.run(&format!("{name} {key}"), expected);
            }
        }
    }
}

impl<'a> LossCase<'a> {
    fn new(file: &'a Value, forward: Forward, dtype: DType, tolerance: Tolerance) -> Self {
        let (config, inputs) = (&file["config"], &file["inputs"]);
        assert_ne!(config["use_dynamic_bsz"], true, "dynamic batch sizes are not in the format");
        let shape = floats(&inputs["response_mask"]).1;
        let turns = indices(&inputs["rollout_step"]);
        let trajectories = (0..shape[0]).collect();
        let layout =
            TokenLayout::per_turn(shape[1], mask(&inputs["response_mask"]), &turns, trajectories);
        let history = Fixed(flat(&inputs["entropy_history"]).into_iter().map(Some).collect());
        let beta = if config["enable_smooth_weights"] == true {
            official_two_phase(inputs["epoch"].as_i64().unwrap(), 150)
        } else {
            1.0
        };
        let layout = layout.unwrap();
        Self { forward, config, inputs, dtype, tolerance, layout, history, beta, last_ratio: 0.0 }
    }

    fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("config {key}: {}", self.config[key]))
    }

    fn run(&mut self, what: &str, expected: &Value) {
        let logits = Var::from_tensor(&tensor(&self.inputs["logits"], self.dtype)).unwrap();
        let mini = self.number("ppo_mini_batch_size") as usize;
        let micro = self.number("ppo_micro_batch_size_per_gpu") as usize;
        let epochs = self.config["ppo_epochs"].as_u64().unwrap_or(1);
        let mut micro_expected = expected["micro_batches"].as_array().unwrap().iter();
        let mut step_expected =
            expected["grad_logits_per_optimizer_step"].as_array().unwrap().iter();
        let rows: Vec<usize> = (0..self.layout.rows()).collect();
        for mini_rows in (0..epochs).flat_map(|_| rows.chunks(mini)) {
            let mut gradient = vec![0.0; logits.elem_count()];
            for micro_rows in mini_rows.chunks(micro) {
                let want = micro_expected.next().expect("more micro-batches than expected");
                let loss = self.micro_batch(
                    &format!("{what} rows {micro_rows:?}"),
                    &logits,
                    micro_rows,
                    want,
                );
                let grads = (loss / (mini / micro) as f64).unwrap().backward().unwrap();
                gradient
                    .iter_mut()
                    .zip(host(grads.get(&logits).unwrap()))
                    .for_each(|(sum, g)| *sum += g);
            }
            let want = flat(step_expected.next().expect("more optimiser steps than expected"));
            assert_close(&format!("{what} gradient"), &gradient, &want, self.tolerance);
        }
        assert!(
            micro_expected.next().is_none() && step_expected.next().is_none(),
            "{what}: something left"
        );
        if let Some(ratio) = expected["entropy_mask_ratio_metric"].as_f64() {
            assert_eq!(self.last_ratio, ratio, "{what} entropy_mask_ratio_metric");
        }
    }

    fn micro_batch(&mut self, what: &str, logits: &Var, rows: &[usize], want: &Value) -> Tensor {
        assert_eq!(rows, indices(&want["rows"]), "{what}");
        let mode = self.config["loss_agg_mode"].as_str().unwrap().parse::<Aggregation>().unwrap();
        let batch = TokenBatch::official(self.layout.select(rows).unwrap(), mode).unwrap();
        let (log_probs_bt, entropy_bt) = self.forward(logits, rows);
        let tolerance = self.tolerance;
        let check = |key: &str, got: &[f64]| match &want[key] {
            Value::Null => panic!("{what}: no {key} expected"),
            value => assert_close(&format!("{what} {key}"), got, &flat(value), tolerance),
        };
        check("log_prob", &host(&log_probs_bt));
        let output = self.policy(&log_probs_bt, rows, &batch);
        let metric = |output: &LossOutput, name: &str| output.metrics.get(name).unwrap();
        for key in ["pg_loss", "pg_clipfrac", "pg_clipfrac_lower", "ppo_kl"] {
            check(key, &[metric(&output, key)]);
        }
        if self.config["use_kl_loss"] == true {
            check("kl_agg", &[metric(&output, "kl")]);
        }
        let output = if self.number("entropy_coeff") == 0.0 {
            output
        } else {
            check("entropy", &host(&entropy_bt));
            let entropy_bt = snap_to_band_side(&entropy_bt, &tensor(&want["entropy"], self.dtype));
            let term = self.entropy_term(what, &entropy_bt, &batch, want);
            check("entropy_agg", &[metric(&term, "entropy/l_h")]);
            if let (Some(_), Some(got)) =
                (want.get("penalty_agg_after_beta"), term.metrics.get("entropy/beta_l_smooth"))
            {
                check("penalty_agg_after_beta", &[got]);
            }
            output.plus(term).unwrap()
        };
        check("policy_loss", &host(&output.loss));
        output.loss
    }

    fn rows(&self, key: &str, rows: &[usize]) -> Tensor {
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let rows = Tensor::new(rows, &Device::Cpu).unwrap();
        tensor(&self.inputs[key], self.dtype).index_select(&rows, 0).unwrap()
    }

    fn forward(&self, logits: &Var, rows: &[usize]) -> (Tensor, Tensor) {
        let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let logits = logits.index_select(&Tensor::new(index, &Device::Cpu).unwrap(), 0).unwrap();
        let ids = self.rows("responses", rows).to_dtype(DType::U32).unwrap();
        let temperature = self.inputs["temperature"].as_f64().unwrap_or(1.0);
        let (log_probs, entropy) = (self.forward)(&logits, &ids, temperature).unwrap();
        if self.inputs["zero_fill_padding"] != true {
            return (log_probs, entropy);
        }
        // Without padding in the forward pass, entropies beyond the first padded slot are zero.
        let width = self.layout.tokens();
        let kept = |i: usize| i.is_multiple_of(width) || self.layout.mask()[i - 1];
        let kept = rows.iter().flat_map(|row| (0..width).map(move |t| row * width + t)).map(kept);
        let kept: Vec<f64> = kept.map(|kept| f64::from(u8::from(kept))).collect();
        let kept = Tensor::from_vec(kept, (rows.len(), width), &Device::Cpu).unwrap();
        let entropy = entropy.mul(&kept.to_dtype(self.dtype).unwrap()).unwrap();
        (log_probs, entropy)
    }

    fn policy(&self, log_probs_bt: &Tensor, rows: &[usize], batch: &TokenBatch) -> LossOutput {
        let clip =
            |key: &str| self.config[key].as_f64().unwrap_or_else(|| self.number("clip_ratio"));
        let kind = serde_json::from_value::<KlKind>(self.config["kl_loss_type"].clone());
        let use_kl = self.config["use_kl_loss"] == true;
        let settings = PolicyLoss {
            clip_low: clip("clip_ratio_low"),
            clip_high: clip("clip_ratio_high"),
            dual_clip: Some(self.config["clip_ratio_c"].as_f64().unwrap_or(3.0)),
            kl: use_kl
                .then(|| KlLoss { estimator: kind.unwrap(), coef: self.number("kl_loss_coef") }),
            ..PolicyLoss::default()
        };
        let reference = use_kl.then(|| self.rows("ref_log_prob", rows));
        let inputs = LossInputs {
            log_probs_bt,
            old_log_probs_bt: &self.rows("old_log_probs", rows),
            ref_log_probs_bt: reference.as_ref(),
            advantages_bt: &self.rows("advantages", rows),
            weights_bt: None,
            batch,
        };
        policy_loss(&inputs, &settings).unwrap()
    }

    fn entropy_term(
        &mut self,
        what: &str,
        entropy_bt: &Tensor,
        batch: &TokenBatch,
        want: &Value,
    ) -> LossOutput {
        let lambda = self.number("entropy_coeff");
        let inputs = EntropyInputs::new(entropy_bt, batch, &self.history, self.beta).unwrap();
        if self.config["entropy_smooth"] != true {
            return EntropyBonus::new(lambda).unwrap().term(&inputs).unwrap();
        }
        let band = Band::new(
            self.number("entropy_smooth_min_ratio"),
            self.number("entropy_smooth_max_ratio"),
        )
        .unwrap();
        let granularity = granularity(self.config["entropy_smooth_mask_mode"].as_str().unwrap());
        let gate = self.config["max_step"]
            .as_u64()
            .map_or(EpoIndicator::OFFICIAL_GATE, |n| n as usize / 2);
        let alpha = self.number("entropy_smooth_out_range_penalty");
        let indicator = EpoIndicator::new(lambda, alpha, band, granularity).unwrap();
        let coef = self.config["entropy_smooth_coeff"].as_f64().unwrap_or(1.0);
        let indicator = indicator.with_smooth_coef(coef).unwrap().with_gate(Some(gate));
        let penalties = indicator.penalties(&inputs).unwrap();
        assert_eq!(penalties.is_some(), want.get("penalty_raw").is_some(), "{what}: gate");
        self.last_ratio = 0.0;
        if let Some((penalties, ratio)) = penalties {
            assert_close(
                &format!("{what} penalty"),
                &penalties,
                &flat(&want["penalty_raw"]),
                self.tolerance,
            );
            assert_eq!(
                ratio,
                want["within_range_ratio"].as_f64().unwrap(),
                "{what} within_range_ratio"
            );
            self.last_ratio = ratio;
        }
        indicator.term(&inputs).unwrap()
    }
}

/// The recorded entropies, with our gradient.
///
/// In f32 an entropy within rounding of an edge of the band may round to its other side (with κ_l =
/// 0 the recorded value can be exactly 0). Our values were compared with the recorded ones already;
/// judging the recorded values makes the step function, which has no gradient, see what the
/// authors' code saw.
fn snap_to_band_side(entropy_bt: &Tensor, recorded_bt: &Tensor) -> Tensor {
    let ours = entropy_bt.detach();
    ((entropy_bt - ours).unwrap() + recorded_bt).unwrap()
}

fn granularity(mask_mode: &str) -> Granularity {
    match mask_mode {
        "token" => Granularity::Token,
        "seq" => Granularity::Sequence,
        other => panic!("mask mode {other}"),
    }
}

// ---- the paper's equations: paper_v2_hinge.json ----

#[test]
fn golden_paper_v2_hinge() {
    for (name, file) in golden_files("paper_v2_hinge") {
        for (i, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let field = |key: &str| case.get(key).or_else(|| file.get(key)).unwrap().clone();
            hinge_case(
                &format!("{name} case {i}"),
                case,
                &field("logits"),
                &field("response_mask"),
            );
        }
    }
}

fn hinge_case(what: &str, case: &Value, logits: &Value, response_mask: &Value) {
    let params = &case["params"];
    let number = |key: &str| params[key].as_f64().unwrap_or_else(|| panic!("{what}: {key}"));
    let (shape, trajectories) = (floats(response_mask).1, indices(&params["traj"]));
    let mut next_turn: HashMap<usize, usize> = HashMap::new();
    let turns: Vec<usize> = trajectories
        .iter()
        .map(|trajectory| {
            let next = next_turn.entry(*trajectory).or_default();
            *next += 1;
            *next - 1
        })
        .collect();
    let layout =
        TokenLayout::per_turn(shape[1], mask(response_mask), &turns, trajectories).unwrap();
    let aggregation = match params["agg"].as_str().unwrap() {
        "paper" => Aggregation::TurnMean,
        other => other.parse().unwrap(),
    };
    // These equations divide a token mean by its count + 1e-8, as the authors' code does.
    let batch = TokenBatch::official(layout, aggregation).unwrap();
    let history = Fixed(vec![params["ref"].as_f64(); shape[0]]);
    let band = Band::new(number("kl"), number("kr")).unwrap();
    let granularity = params["mask_mode"].as_str().map_or(Granularity::Token, granularity);
    let hinge = EpoHinge::new(number("lam"), number("alpha"), band, granularity).unwrap();

    let logits = Var::from_tensor(&tensor(logits, DType::F64)).unwrap();
    let ids = Tensor::zeros(shape.as_slice(), DType::U32, &Device::Cpu).unwrap();
    let (_, entropy_bt) = logprob_entropy(&logits, &ids, 1.0).unwrap();
    let inputs = EntropyInputs::new(&entropy_bt, &batch, &history, number("beta")).unwrap();
    let term = hinge.term(&inputs).unwrap();
    let check = |key: &str, got: &[f64]| {
        assert_close(&format!("{what} {key}"), got, &flat(&case[key]), F64)
    };
    check("L_H", &[term.metrics.get("entropy/l_h").unwrap()]);
    check("L_smooth", &host(&hinge.smoothing(&inputs).unwrap()));
    check("loss", &host(&term.loss));
    check("grad_logits", &host(term.loss.backward().unwrap().get(&logits).unwrap()));
    if granularity == Granularity::Token {
        check("hinge", &hinge_of_each(&host(&entropy_bt), band, params["ref"].as_f64()));
    }
}

/// The hinge without α of every position, padding included, each as a batch of its own.
fn hinge_of_each(entropies: &[f64], band: Band, reference: Option<f64>) -> Vec<f64> {
    let hinge = EpoHinge::new(1.0, 1.0, band, Granularity::Token).unwrap();
    let layout = TokenLayout::per_turn(1, vec![true], &[0], vec![0]).unwrap();
    let batch = TokenBatch::new(layout, Aggregation::TokenMean);
    let history = Fixed(vec![reference]);
    let of = |&entropy: &f64| {
        let entropy_bt = Tensor::new(&[[entropy]], &Device::Cpu).unwrap();
        let inputs = EntropyInputs::new(&entropy_bt, &batch, &history, 1.0).unwrap();
        host(&hinge.smoothing(&inputs).unwrap())[0]
    };
    entropies.iter().map(of).collect()
}

// ---- β, histories, edges ----

#[test]
fn golden_beta_schedules() {
    for (name, file) in golden_files("beta_schedule") {
        let gamma = file["gamma"].as_f64().unwrap_or(3.0);
        for (total, values) in file["official"].as_object().unwrap() {
            let steps: i64 = total.parse().unwrap();
            let got: Vec<f64> =
                (0..flat(values).len()).map(|k| official_two_phase(k as i64, steps)).collect();
            assert_close(&format!("{name} official K={total}"), &got, &flat(values), F64);
        }
        for (total, values) in file["paper_v2"].as_object().unwrap() {
            let steps: u64 = total.parse().unwrap();
            let got: Vec<f64> =
                (0..flat(values).len()).map(|k| paper_v2_beta(k as u64, gamma, steps)).collect();
            assert_close(&format!("{name} paper K={total}"), &got, &flat(values), F64);
        }
        if let Some(value) = file["official_negative_epoch"].as_f64() {
            assert_eq!(official_two_phase(-5, 150), value, "{name}");
        }
    }
}

#[test]
fn golden_entropy_history() {
    for (name, file) in golden_files("entropy_history") {
        for case in file["cases"].as_array().unwrap() {
            let max_steps = case["max_steps"].as_u64().unwrap() as usize;
            let mut history = OfficialHistory::new(max_steps.try_into().unwrap());
            assert_eq!(history.reference(0).unwrap(), None);
            let lists = case["step_entropy_lists"].as_array().unwrap();
            for (i, list) in lists.iter().enumerate() {
                let means = flat(list);
                let what = format!("{name} max_steps {max_steps} push {i}");
                let stored = flat(&case["stored"][i]);
                assert_close(&format!("{what} stored"), &left_pad(&means, max_steps), &stored, F64);
                let mut step = StepEntropy::new();
                for (turn, mean) in means.iter().enumerate() {
                    step.add_turn(turn, &[*mean]).unwrap();
                }
                history.record(&step).unwrap();
                let got: Vec<f64> =
                    (0..max_steps).map(|t| history.reference(t).unwrap().unwrap()).collect();
                assert_close(&what, &got, &flat(&case["reference_after_each"][i]), F64);
            }
            assert!(history.reference(max_steps).is_err());
        }
        per_turn_mean(&name, &file["per_turn_mean"]);
    }
}

/// The authors' mean over all rows, finished episodes included, and ours over active rows (recorded
/// in f32).
fn per_turn_mean(name: &str, case: &Value) {
    let (entropies, shape) = floats(&case["entropy"]);
    let mean_of = |rows: &[bool]| {
        let mask = mask(&case["response_mask"]).into_iter().enumerate();
        let mask = mask.map(|(i, m)| m && rows[i / shape[1]]).collect();
        let layout =
            TokenLayout::per_turn(shape[1], mask, &vec![0; shape[0]], (0..shape[0]).collect());
        StepEntropy::from_tokens(&entropies, &layout.unwrap()).unwrap().turn_mean(0).unwrap()
    };
    let all = mean_of(&vec![true; shape[0]]);
    assert_close(&format!("{name} all rows"), &[all], &flat(&case["official"]), F32);
    let active = mean_of(&mask(&case["active"]));
    let want = flat(&case["active_rows_only_not_official"]);
    assert_close(&format!("{name} active rows"), &[active], &want, F32);
}

#[test]
fn golden_penalty_edges() {
    // The file names its cases but not their settings; these are the ones its numbers come from.
    let token = Granularity::Token;
    let settings = [
        ("boundary_is_outside", 1.0, 0.5, 1.5, token),
        ("kappa_l_zero_entropy_exactly_zero", 1.0, 0.0, 2.0, token),
        ("zero_reference", 0.0, 0.5, 1.5, token),
        ("seq", 1.0, 0.5, 1.5, Granularity::Sequence),
    ];
    for (name, file) in golden_files("penalty_edges") {
        let shape = floats(&file["entropy"]).1;
        let entropy_bt = tensor(&file["entropy"], DType::F32);
        let layout = |turn| {
            TokenLayout::per_turn(
                shape[1],
                vec![true; shape[0] * shape[1]],
                &vec![turn; shape[0]],
                vec![0; shape[0]],
            )
        };
        let batch = |turn| TokenBatch::new(layout(turn).unwrap(), Aggregation::TokenMean);
        for (case, reference, kappa_low, kappa_high, granularity) in settings {
            let Some(want) = file["cases"].get(case) else { continue };
            let band = Band::new(kappa_low, kappa_high).unwrap();
            let indicator = EpoIndicator::new(1.0, 0.1, band, granularity).unwrap();
            let history = Fixed(vec![Some(reference)]);
            let batch = batch(0);
            let inputs = EntropyInputs::new(&entropy_bt, &batch, &history, 1.0).unwrap();
            let (penalties, ratio) = indicator.penalties(&inputs).unwrap().unwrap();
            assert_close(&format!("{name} {case}"), &penalties, &flat(&want["mask"]), F32);
            assert_close(&format!("{name} {case} ratio"), &[ratio], &flat(&want["ratio"]), F64);
        }
        beyond_the_history(&entropy_bt, &batch, &file["cases"]["step_out_of_range"]["raises"]);
        assert!(serde_json::from_str::<Granularity>("\"turn\"").is_err());
    }
}

/// The authors' code raises an IndexError, ours names the setting; an empty history penalises
/// nothing (theirs returns one value where two are unpacked).
fn beyond_the_history(entropy_bt: &Tensor, batch: &dyn Fn(usize) -> TokenBatch, raises: &Value) {
    let Some(raises) = raises.as_str() else { return };
    let numbers: Vec<usize> = raises.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [turn, .., size] = numbers[..] else { panic!("{raises}") };
    let mut history = OfficialHistory::new(size.try_into().unwrap());
    let band = Band::new(0.5, 1.5).unwrap();
    let indicator = EpoIndicator::new(1.0, 0.1, band, Granularity::Token).unwrap();
    let penalties = |history: &OfficialHistory, turn| {
        let batch = batch(turn);
        let inputs = EntropyInputs::new(entropy_bt, &batch, history, 1.0).unwrap();
        indicator.penalties(&inputs)
    };
    let (none, ratio) = penalties(&history, 0).unwrap().unwrap();
    assert!(none.iter().all(|&p| p == 0.0) && ratio == 1.0);
    let mut step = StepEntropy::new();
    step.add_turn(0, &[1.0]).unwrap();
    history.record(&step).unwrap();
    let error = penalties(&history, turn).unwrap_err().to_string();
    assert!(
        error.contains("entropy.history.max_steps") && error.contains(&turn.to_string()),
        "{error}"
    );
}

// ---- helpers ----

#[test]
fn golden_helpers() {
    for (name, file) in golden_files("helpers") {
        entropy_helper(&name, &file["entropy_from_logits"]);
        log_prob_helper(&name, &file["logprobs_from_logits_v2"]);
        aggregation_helper(&name, &file["agg_loss"]);
        kl_helper(&name, &file["kl_penalty"]);
        value_helper(&name, &file["value_loss"]);
        let whiten = &file["masked_whiten"];
        let (values, mask) = (flat(&whiten["values"]), mask(&whiten["mask"]));
        let got = as_recorded(advantage::masked_whiten(&values, &mask).unwrap(), &values, &mask);
        assert_close(&format!("{name} masked_whiten"), &got, &flat(&whiten["out"]), F64);
    }
}

fn entropy_helper(name: &str, case: &Value) {
    let logits = Var::from_tensor(&tensor(&case["logits"], DType::F64)).unwrap();
    let shape = &logits.dims()[..logits.rank() - 1];
    let ids = Tensor::zeros(shape, DType::U32, &Device::Cpu).unwrap();
    let (_, entropy) = logprob_entropy(&logits, &ids, 1.0).unwrap();
    assert_close(&format!("{name} entropy"), &host(&entropy), &flat(&case["entropy"]), F64);
    let grads = entropy.sum_all().unwrap().backward().unwrap();
    let got = host(grads.get(&logits).unwrap());
    assert_close(&format!("{name} entropy gradient"), &got, &flat(&case["grad_of_sum"]), F64);
}

fn log_prob_helper(name: &str, case: &Value) {
    let ids = tensor(&case["labels"], DType::U32);
    let (log_prob, _) = logprob_entropy(&tensor(&case["logits"], DType::F64), &ids, 1.0).unwrap();
    assert_close(&format!("{name} log-prob"), &host(&log_prob), &flat(&case["out"]), F64);
}

/// `whitened`, which is [`advantage::masked_whiten`] of `values`, with the one rounding of the
/// recorded run: its mask was an integer tensor, so the factor n/(n − 1) of the unbiased variance
/// was taken in single precision.
fn as_recorded(whitened: Vec<f64>, values: &[f64], mask: &[bool]) -> Vec<f64> {
    let selected: Vec<f64> = values.iter().zip(mask).filter(|(_, &m)| m).map(|(&v, _)| v).collect();
    let n = selected.len() as f64;
    let mean = selected.iter().sum::<f64>() / n;
    let biased = selected.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let exact = biased * n / (n - 1.0) + 1e-8;
    let rounded = biased * f64::from(n as f32 / (n - 1.0) as f32) + 1e-8;
    whitened.iter().map(|v| v * (exact / rounded).sqrt()).collect()
}

/// Rows of a helper case, each a turn of a trajectory of its own.
fn rows_layout(mask_value: &Value) -> TokenLayout {
    let shape = floats(mask_value).1;
    TokenLayout::per_turn(shape[1], mask(mask_value), &vec![0; shape[0]], (0..shape[0]).collect())
        .unwrap()
}

/// The helpers ran with an integer mask, whose count + 1e-8 is taken in single precision: the
/// epsilon rounds away, and the token mean is the plain one.
fn helper_batch(layout: &TokenLayout, mode: &str) -> TokenBatch {
    match mode.parse().unwrap() {
        Aggregation::TokenMean => TokenBatch::new(layout.clone(), Aggregation::TokenMean),
        mode => TokenBatch::official(layout.clone(), mode).unwrap(),
    }
}

fn aggregation_helper(name: &str, case: &Value) {
    let (layout, x_bt) = (rows_layout(&case["mask"]), tensor(&case["mat"], DType::F64));
    for (mode, want) in
        case.as_object().unwrap().iter().filter(|(key, _)| !["mat", "mask"].contains(&key.as_str()))
    {
        let batch = helper_batch(&layout, mode);
        let got = host(&batch.aggregate(&x_bt).unwrap());
        assert_close(&format!("{name} {mode}"), &got, &flat(want), F64);
    }
}

fn kl_helper(name: &str, case: &Value) {
    let (log_probs, reference) =
        (tensor(&case["logprob"], DType::F64), tensor(&case["ref"], DType::F64));
    for (kind, want) in case
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| !["logprob", "ref"].contains(&key.as_str()))
    {
        let parsed: KlKind = serde_json::from_value(Value::from(kind.as_str())).unwrap();
        let got = host(&kl_penalty(&log_probs, &reference, parsed).unwrap());
        assert_close(&format!("{name} {kind}"), &got, &flat(want), F64);
    }
}

fn value_helper(name: &str, case: &Value) {
    let mode = case["loss_agg_mode"].as_str().unwrap_or("token-mean");
    let batch = helper_batch(&rows_layout(&case["mask"]), mode);
    let inputs = ValueInputs {
        values_bt: &tensor(&case["vpreds"], DType::F64),
        old_values_bt: &tensor(&case["values"], DType::F64),
        returns_bt: &tensor(&case["returns"], DType::F64),
        batch: &batch,
    };
    let output = value_loss(&inputs, case["cliprange_value"].as_f64().unwrap()).unwrap();
    assert_close(&format!("{name} value loss"), &host(&output.loss), &flat(&case["loss"]), F64);
    let clipfrac = output.metrics.get("value_clipfrac").unwrap();
    // Recorded in single precision.
    assert_close(&format!("{name} value clipfrac"), &[clipfrac], &flat(&case["clipfrac"]), F32);
}

// ---- advantages ----

#[test]
fn golden_advantages() {
    for (name, file) in golden_files("advantages") {
        for (key, want) in file["expected"].as_object().unwrap() {
            let (advantages, returns) = estimate(&file, key);
            let what = format!("{name} {key}");
            assert_close(&what, &advantages, &flat(want.get("adv").unwrap_or(want)), F64);
            if let (Some(want), Some(returns)) = (want.get("ret"), returns) {
                assert_close(&format!("{what} returns"), &returns, &flat(want), F64);
            }
        }
    }
}

/// The estimator that a key names, run on the file's inputs: advantages and, where it has them,
/// returns [B·T].
fn estimate(file: &Value, key: &str) -> (Vec<f64>, Option<Vec<f64>>) {
    let (rewards, shape) = floats(&file["token_level_rewards"]);
    let (groups, trajectories) = (ids(&file["uid"]), ids(&file["traj_uid"]));
    let layout = TokenLayout::per_turn(
        shape[1],
        mask(&file["response_mask"]),
        &vec![0; shape[0]],
        trajectories.clone(),
    )
    .unwrap();
    let scores: Vec<f64> = rewards.chunks(shape[1]).map(|row| row.iter().sum()).collect();
    let by_std = !key.contains("no_std");
    let samples = if key.contains("per_trajectory") {
        Groups::over_trajectories(&groups, &trajectories).unwrap()
    } else {
        Groups::over_rows(&groups)
    };
    let divides = by_std && ["grpo", "gigpo_mean_std"].iter().any(|name| key.starts_with(name));
    let per_row = match key.split('_').next().unwrap() {
        "gae" => return gae_rows(file, key, shape[1], layout.mask()),
        "rpp" if key.contains("baseline") => {
            let centred = advantage::grpo(&scores, &samples, false).unwrap();
            let got = advantage::reinforce_pp_baseline(&scores, &samples, &layout).unwrap();
            return (as_recorded(got, &broadcast(&centred, &layout).unwrap(), layout.mask()), None);
        }
        "rpp" => {
            let (advantages, returns) =
                advantage::reinforce_pp(&rewards, &layout, decimal(key, 'g').unwrap_or(1.0))
                    .unwrap();
            return (as_recorded(advantages, &returns, layout.mask()), Some(returns));
        }
        "grpo" => advantage::grpo(&scores, &samples, by_std),
        "rloo" => advantage::rloo(&scores, &samples),
        "passk" => advantage::pass_at_k(&scores, &samples, by_std),
        "gigpo" => {
            let (steps, anchors) = (flat(&file["step_rewards"]), ids(&file["anchor_obs"]));
            let weight = file["step_advantage_w"].as_f64().unwrap_or(1.0);
            advantage::gigpo(&scores, &steps, &groups, &anchors, weight, key.contains("std"))
        }
        _ => panic!("no estimator is called {key}"),
    };
    let mut per_row = per_row.unwrap();
    if divides {
        singletons_as_recorded(
            &mut per_row,
            &groups,
            &trajectories,
            key.contains("per_trajectory"),
        );
    }
    (broadcast(&per_row, &layout).unwrap(), None)
}

/// In the recorded run the std of a singleton group is a single-precision 1, to which 1e-6 is added
/// as such.
fn singletons_as_recorded(
    per_row: &mut [f64],
    groups: &[usize],
    trajectories: &[usize],
    over: bool,
) {
    for row in 0..per_row.len() {
        let mut samples: Vec<usize> =
            (0..groups.len()).filter(|&other| groups[other] == groups[row]).collect();
        if over {
            samples.dedup_by_key(|other| trajectories[*other]);
        }
        if samples.len() == 1 {
            per_row[row] *= (1.0 + 1e-6) / f64::from(1f32 + 1e-6f32);
        }
    }
}

fn gae_rows(file: &Value, key: &str, width: usize, mask: &[bool]) -> (Vec<f64>, Option<Vec<f64>>) {
    let (gamma, lambda) = (decimal(key, 'g').unwrap(), decimal(key, 'l').unwrap());
    let (rewards, values) = (flat(&file["token_level_rewards"]), flat(&file["values"]));
    let rows = rewards.chunks(width).zip(values.chunks(width));
    let (advantages, returns): (Vec<_>, Vec<_>) = rows
        .map(|(rewards, values)| advantage::gae(rewards, values, gamma, lambda).unwrap())
        .unzip();
    let advantages = advantages.concat();
    let whitened = advantage::masked_whiten(&advantages, mask).unwrap();
    (as_recorded(whitened, &advantages, mask), Some(returns.concat()))
}

/// `…_g099…` → 0.99: the digits after a letter, with a point after the first.
fn decimal(key: &str, letter: char) -> Option<f64> {
    let digits = key.split('_').skip(1).find_map(|part| part.strip_prefix(letter))?;
    let digits = digits.strip_prefix(|c: char| !c.is_ascii_digit()).unwrap_or(digits);
    format!("{}.{}", &digits[..1], &digits[1..]).parse().ok()
}

/// Names as numbers, by first appearance.
fn ids(names: &Value) -> Vec<usize> {
    let mut known: HashMap<String, usize> = HashMap::new();
    let names = names.as_array().unwrap().iter().map(Value::to_string);
    names
        .map(|name| {
            let next = known.len();
            *known.entry(name).or_insert(next)
        })
        .collect()
}
