//! Every kernel compared with its composed twin, and every gradient with central differences in
//! f64.

use crate::kernels::autograd::gradient_sink::{collecting, Collected};
use crate::kernels::cpu::optimizer::{adamw, sum_of_squares, AdamWStep};
use crate::kernels::*;
use crate::rng::{Purpose, Stream};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) type Op<'a> = &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

pub(crate) fn random(shape: &[usize], salt: u64) -> Tensor {
    let stream = Stream::new(11, Purpose::Init, salt, 0, 0);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|i| 2.0 * stream.uniform(0, i as u64) - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

pub(crate) fn max_gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Returns a scalar that weights every output differently, so that no errors cancel.
fn loss(op: Op<'_>, inputs: &[Tensor]) -> Tensor {
    let y = op(inputs).unwrap();
    (&y * random(y.dims(), 99).to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap()
}

pub(crate) fn gradients(op: Op<'_>, inputs: &[Tensor]) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let store = loss(op, &tensors).backward().unwrap();
    vars.iter().map(|v| store.get(v).expect("a gradient for every input").clone()).collect()
}

/// Checks the gradients against central differences of every input element.
pub(crate) fn check_gradients(op: Op<'_>, inputs: &[Tensor], tolerance: f64) {
    let exact = gradients(op, inputs);
    let step = 1e-5;
    for (which, grad) in exact.iter().enumerate() {
        let base = values(&inputs[which]);
        for (i, want) in values(grad).into_iter().enumerate() {
            let at = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                let mut inputs = inputs.to_vec();
                inputs[which] =
                    Tensor::from_vec(moved, inputs[which].shape(), &Device::Cpu).unwrap();
                loss(op, &inputs).to_scalar::<f64>().unwrap()
            };
            let got = (at(step) - at(-step)) / (2.0 * step);
            assert!(
                (got - want).abs() < tolerance,
                "input {which}[{i}]: differences {got}, backward {want}"
            );
        }
    }
}

/// Checks that value and gradients of `op` equal those of `twin` in f64, and in f32 up to rounding.
pub(crate) fn check_twin(op: Op<'_>, twin: Op<'_>, inputs: &[Tensor]) {
    check_twin_within(op, twin, inputs, 2e-5);
}

pub(crate) fn check_twin_within(op: Op<'_>, twin: Op<'_>, inputs: &[Tensor], single: f64) {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, single)] {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.to_dtype(dtype).unwrap()).collect();
        let gap = max_gap(&op(&inputs).unwrap(), &twin(&inputs).unwrap());
        assert!(gap < tolerance, "{dtype:?} value differs by {gap}");
        for (a, b) in gradients(op, &inputs).iter().zip(gradients(twin, &inputs)) {
            assert!(max_gap(a, &b) < tolerance, "{dtype:?} gradient differs by {}", max_gap(a, &b));
        }
    }
}

#[test]
fn linear_has_its_gradient() {
    let inputs = [random(&[5, 3], 1), random(&[4, 3], 2), random(&[4], 3)];
    let op: Op = &|t| linear(&t[0], &t[1], Some(&t[2]));
    check_gradients(op, &inputs, 1e-8);
    check_gradients(&|t| linear(&t[0], &t[1], None), &inputs[..2], 1e-8);
    let large = [random(&[150, 33], 1), random(&[70, 33], 2), random(&[70], 3)];
    check_twin(op, &|t| composed::linear(&t[0], &t[1], Some(&t[2])), &large);
}

#[test]
fn linear_leaves_frozen_weights_without_gradient() {
    let x = Var::from_tensor(&random(&[5, 3], 1)).unwrap();
    let w = random(&[4, 3], 2);
    let store = linear(&x, &w, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(store.get(&x).is_some() && store.get(&w).is_none());
}

#[test]
fn rms_norm_has_its_gradient() {
    let op: Op = &|t| rms_norm(&t[0], &t[1], 1e-3);
    check_gradients(op, &[random(&[3, 10], 1), random(&[10], 2)], 1e-8);
    check_twin(
        op,
        &|t| composed::rms_norm(&t[0], &t[1], 1e-3),
        &[random(&[130, 37], 1), random(&[37], 2)],
    );
}

#[test]
fn rope_has_its_gradient() {
    let table = Arc::new(RopeTable::new(6, 40, 100.0));
    let positions: Arc<[u32]> = vec![0, 1, 7, 39, 3].into();
    let op: Op = &|t| rope(&t[0], &table, &positions);
    check_gradients(op, &[random(&[5, 12], 1)], 1e-8);
    check_twin(op, &|t| composed::rope(&t[0], &table, &positions), &[random(&[5, 12], 2)]);
    assert!(rope(&random(&[1, 12], 1), &table, &vec![40].into()).is_err());
}

#[test]
fn silu_mul_has_its_gradient() {
    let op: Op = &|t| silu_mul(&t[0], &t[1]);
    check_gradients(op, &[random(&[3, 5], 1), random(&[3, 5], 2)], 1e-8);
    check_twin(op, &|t| t[0].silu()? * &t[1], &[random(&[130, 150], 1), random(&[130, 150], 2)]);
    assert!(silu_mul(&random(&[2, 3], 1), &random(&[3, 2], 1)).is_err());
}

#[test]
fn swiglu_has_its_gradient() {
    let op: Op = &|t| swiglu(&t[0], &t[1], &t[2]);
    let twin: Op = &|t| composed::swiglu(&t[0], &t[1], &t[2]);
    check_gradients(
        op,
        &[random(&[3, 5], 1), (random(&[7, 5], 2) * 4.0).unwrap(), random(&[7, 5], 3)],
        1e-8,
    );
    check_twin(op, twin, &[random(&[300, 30], 1), random(&[70, 30], 2), random(&[70, 30], 3)]);
}

#[test]
fn linear_residual_has_its_gradient() {
    let op: Op = &|t| linear_residual(&t[0], &t[1], &t[2]);
    let twin: Op = &|t| &t[0] + composed::linear(&t[1], &t[2], None)?;
    check_gradients(op, &[random(&[5, 4], 1), random(&[5, 3], 2), random(&[4, 3], 3)], 1e-8);
    check_twin(op, twin, &[random(&[150, 70], 1), random(&[150, 33], 2), random(&[70, 33], 3)]);
}

#[test]
fn feed_forward_has_its_gradient() {
    let op: Op = &|t| feed_forward(&t[0], [&t[1], &t[2], &t[3], &t[4]], 1e-3);
    let twin: Op = &|t| composed::feed_forward(&t[0], [&t[1], &t[2], &t[3], &t[4]], 1e-3);
    let inputs = |n: usize, h: usize, f: usize| {
        let gate = (random(&[f, h], 3) * 2.0).unwrap();
        [
            random(&[n, h], 1),
            random(&[h], 2),
            gate,
            random(&[f, h], 4),
            (random(&[h, f], 5) * 0.3).unwrap(),
        ]
    };
    check_gradients(op, &inputs(3, 5, 7), 1e-8);
    // Longer than one block of rows and not a multiple of it. The weights' gradients, sums over
    // 1100 rows, are of magnitude 50.
    check_twin_within(op, twin, &inputs(1100, 9, 33), 5e-4);
}

/// Returns the branch with 4 query heads over 2 key/value heads of 4 features on sequences of these
/// lengths, by the kernel or composed.
fn branch_over(lengths: &[usize], own: bool) -> impl Fn(&[Tensor]) -> candle_core::Result<Tensor> {
    let rows = AttentionRows {
        shape: AttentionShape { heads: 4, kv_heads: 2, head_dim: 4, lengths: lengths.to_vec() },
        table: Arc::new(RopeTable::new(4, 200, 100.0)),
        positions: lengths.iter().flat_map(|&len| 0..len as u32).collect(),
        shared: None,
    };
    move |t: &[Tensor]| {
        let biases = [5, 6, 7].map(|i| t.get(i));
        let weights =
            AttentionWeights { norm: &t[1], qkv: [&t[2], &t[3], &t[4]], biases, output: &t[8] };
        if own {
            attention_branch(&t[0], &weights, &rows, 1e-3)
        } else {
            composed::attention_branch(&t[0], &weights, &rows, 1e-3)
        }
    }
}

/// x, norm, three projections, their biases, output projection.
fn branch_inputs(n: usize, h: usize) -> Vec<Tensor> {
    let shapes: [&[usize]; 9] =
        [&[n, h], &[h], &[16, h], &[8, h], &[8, h], &[16], &[8], &[8], &[h, 16]];
    shapes.iter().enumerate().map(|(i, shape)| random(shape, i as u64)).collect()
}

#[test]
fn attention_branch_has_its_gradient() {
    check_gradients(&branch_over(&[3, 1, 2], true), &branch_inputs(6, 5), 1e-8);
    let op = branch_over(&[70, 130, 2], true);
    let twin = branch_over(&[70, 130, 2], false);
    check_twin_within(&op, &twin, &branch_inputs(202, 6), 2e-4);
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 4, lengths: vec![2] };
    let table = Arc::new(RopeTable::new(4, 3, 100.0));
    let t = branch_inputs(2, 5);
    let call = |positions: &[u32], q: &Tensor, biases| {
        let rows = AttentionRows {
            shape: shape.clone(),
            table: table.clone(),
            positions: positions.into(),
            shared: None,
        };
        let weights =
            AttentionWeights { norm: &t[1], qkv: [q, &t[3], &t[4]], biases, output: &t[8] };
        attention_branch(&t[0], &weights, &rows, 1e-3)
    };
    assert!(call(&[0, 1], &t[2], [None; 3]).is_ok());
    assert!(call(&[0, 3], &t[2], [None; 3]).is_err() && call(&[0], &t[2], [None; 3]).is_err());
    assert!(call(&[0, 1], &t[3], [None; 3]).is_err());
    assert!(call(&[0, 1], &t[2], [Some(&t[6]), None, None]).is_err());
}

#[test]
fn linear_lora_has_its_gradient() {
    let w = random(&[4, 5], 7);
    let bias = random(&[4], 8);
    let op: Op = &|t| {
        let frozen = |x: &Tensor| x.to_dtype(t[0].dtype());
        linear_lora(&t[0], &frozen(&w)?, Some(&frozen(&bias)?), (&t[1], &t[2]), 0.7)
    };
    let twin: Op = &|t| {
        let frozen = |x: &Tensor| x.to_dtype(t[0].dtype());
        composed::linear_lora(&t[0], &frozen(&w)?, Some(&frozen(&bias)?), (&t[1], &t[2]), 0.7)
    };
    check_gradients(op, &[random(&[3, 5], 1), random(&[2, 5], 2), random(&[4, 2], 3)], 1e-8);
    check_twin(op, twin, &[random(&[70, 5], 1), random(&[3, 5], 2), random(&[4, 3], 3)]);
    // By definition: one matrix W + s B A.
    let [x, a, b] = [random(&[3, 5], 1), random(&[2, 5], 2), random(&[4, 2], 3)];
    let merged = (&w + (b.matmul(&a).unwrap() * 0.7).unwrap()).unwrap();
    let want = linear(&x, &merged, Some(&bias)).unwrap();
    assert!(max_gap(&linear_lora(&x, &w, Some(&bias), (&a, &b), 0.7).unwrap(), &want) < 1e-12);
}

#[test]
fn embedding_has_its_gradient() {
    let ids: Arc<[u32]> = vec![3, 0, 3, 6, 3].into();
    let op: Op = &|t| embedding(&t[0], &ids);
    let twin: Op = &|t| t[0].index_select(&Tensor::new(&ids[..], &Device::Cpu)?, 0);
    check_gradients(op, &[random(&[7, 4], 1)], 1e-8);
    check_twin(op, twin, &[random(&[7, 4], 2)]);
    assert!(embedding(&random(&[6, 4], 1), &ids).unwrap_err().to_string().contains("ids[3] = 6"));
}

#[test]
fn collected_rows_are_the_dense_gradient() {
    let ids: Arc<[u32]> = vec![3, 0, 3].into();
    let table = Var::from_tensor(&random(&[7, 4], 1)).unwrap();
    let loss = loss(&|t| embedding(&t[0], &ids), &[table.as_tensor().clone()]);
    let dense = loss.backward().unwrap().remove(&table).unwrap();
    let (store, Collected { rows, .. }) = collecting(HashMap::new(), || loss.backward());
    assert!(store.unwrap().get(&table).is_none() && rows.len() == 1 && rows[0].table == table.id());
    assert_eq!(max_gap(&rows[0].add_to(dense.zeros_like().unwrap()).unwrap(), &dense), 0.0);
    // Adds in place to existing values; and nothing is collected after the call.
    let twice = rows[0].add_to(dense.copy().unwrap()).unwrap();
    assert_eq!(max_gap(&twice, &(&dense * 2.0).unwrap()), 0.0);
    assert!(loss.backward().unwrap().get(&table).is_some());
}

/// Checks, for every subset of trainable inputs, that these get their gradients and frozen inputs
/// get none.
pub(crate) fn check_frozen(op: Op<'_>, inputs: &[Tensor]) {
    let all = gradients(op, inputs);
    for pattern in 1..1u32 << inputs.len() {
        let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let trained = |i: usize| pattern >> i & 1 == 1;
        let tensor = |(i, v): (usize, &Var)| {
            if trained(i) {
                v.as_tensor().clone()
            } else {
                v.as_detached_tensor()
            }
        };
        let tensors: Vec<Tensor> = vars.iter().enumerate().map(tensor).collect();
        let store = loss(op, &tensors).backward().unwrap();
        for (i, (tensor, want)) in tensors.iter().zip(&all).enumerate() {
            let got = store.get(tensor);
            assert_eq!(got.is_some(), trained(i), "input {i} of pattern {pattern:b}");
            assert!(
                got.is_none_or(|got| max_gap(got, want) == 0.0),
                "input {i} of pattern {pattern:b}"
            );
        }
    }
}

#[test]
fn frozen_inputs_get_no_gradient_and_change_no_other() {
    let ff = [
        random(&[3, 5], 1),
        random(&[5], 2),
        random(&[7, 5], 3),
        random(&[7, 5], 4),
        random(&[5, 7], 5),
    ];
    check_frozen(&|t| feed_forward(&t[0], [&t[1], &t[2], &t[3], &t[4]], 1e-3), &ff);
    check_frozen(&branch_over(&[2, 1], true), &branch_inputs(3, 5));
    let w = random(&[4, 5], 7);
    let lora = [random(&[3, 5], 1), random(&[2, 5], 2), random(&[4, 2], 3)];
    check_frozen(&|t| linear_lora(&t[0], &w, None, (&t[1], &t[2]), 0.7), &lora);
    check_frozen(&|t| rms_norm(&t[0], &t[1], 1e-3), &[random(&[3, 10], 1), random(&[10], 2)]);
}

/// Returns the bits of value and gradients of every layer, large enough for products on the pool,
/// and of an optimiser step.
fn bits_of_a_step() -> Vec<u64> {
    let single = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let tensors = |shapes: &[&[usize]]| -> Vec<Tensor> {
        shapes.iter().enumerate().map(|(i, shape)| single(random(shape, i as u64))).collect()
    };
    let ids: Arc<[u32]> = (0..700).map(|i| i * 37 % 90).collect();
    let weight = single(random(&[96, 96], 9));
    let branch = branch_over(&[150, 190], true);
    let cases: [(Op, Vec<Tensor>); 5] = [
        (&branch, branch_inputs(340, 800).into_iter().map(single).collect()),
        (
            &|t| feed_forward(&t[0], [&t[1], &t[2], &t[3], &t[4]], 1e-3),
            tensors(&[&[1300, 96], &[96], &[200, 96], &[200, 96], &[96, 200]]),
        ),
        (
            &|t| linear_lora(&t[0], &weight, None, (&t[1], &t[2]), 0.7),
            tensors(&[&[700, 96], &[70, 96], &[96, 70]]),
        ),
        (&|t| rms_norm(&t[0], &t[1], 1e-6), tensors(&[&[700, 96], &[96]])),
        (&|t| embedding(&t[0], &ids), tensors(&[&[90, 96]])),
    ];
    let results = cases.iter().flat_map(|(op, inputs)| {
        gradients(*op, inputs).into_iter().chain([op(inputs).unwrap()]).collect::<Vec<_>>()
    });
    let mut bits: Vec<u64> = results.flat_map(|t| values(&t)).map(f64::to_bits).collect();
    let x = single(random(&[50_000], 3));
    bits.push(sum_of_squares(&x).unwrap().to_bits());
    let grad = x.to_vec1::<f32>().unwrap();
    let mut x = grad.clone();
    let mut m = grad.clone();
    let mut v = vec![0.5; grad.len()];
    let beta1 = 0.9;
    let beta2 = 0.99;
    let numbers =
        AdamWStep { scale: 0.3, beta1, beta2, keep: 0.9, rate: 0.1, root_scale: 2.0, eps: 1e-8 };
    adamw(&mut x, &grad, &mut m, &mut v, numbers);
    bits.extend([x, m, v].concat().into_iter().map(|x| u64::from(x.to_bits())));
    bits
}

#[test]
fn layers_and_optimiser_have_the_same_bits_for_any_number_of_threads() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(bits_of_a_step)
    };
    assert!(with(1) == with(2) && with(1) == with(5));
}

#[test]
fn the_sum_of_squares_is_in_double_precision() {
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let x = random(&[40_003], 3).to_dtype(dtype).unwrap();
        let want: f64 = values(&x).iter().map(|x| x * x).sum();
        assert!((sum_of_squares(&x).unwrap() / want - 1.0).abs() < 1e-13, "{dtype:?}");
    }
}

#[test]
fn attention_has_its_gradient() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 3, lengths: vec![3, 1, 5] };
    let op: Op = &|t| attention(&t[0], &t[1], &t[2], &shape);
    check_gradients(op, &[random(&[9, 12], 1), random(&[9, 6], 2), random(&[9, 6], 3)], 1e-8);
    // Longer than one tile and not a multiple of it.
    let shape = AttentionShape { lengths: vec![70, 130, 2], ..shape };
    let op: Op = &|t| attention(&t[0], &t[1], &t[2], &shape);
    let large = [random(&[202, 12], 1), random(&[202, 6], 2), random(&[202, 6], 3)];
    check_twin(op, &|t| composed::attention(&t[0], &t[1], &t[2], &shape), &large);
}

#[test]
fn logprob_entropy_has_its_gradient_through_both_outputs() {
    let ids = Tensor::new(&[0u32, 3, 6], &Device::Cpu).unwrap();
    let op: Op = &|t| {
        let (log_probs, entropies) = logprob_entropy(&t[0], &ids, 0.7).unwrap();
        Tensor::stack(&[log_probs, entropies], 0)
    };
    let logits = (random(&[3, 7], 1) * 3.0).unwrap();
    check_gradients(op, &[logits], 1e-8);
    let ids: Vec<u32> = (0..50).map(|i| i * 37 % 700).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let op: Op = &|t| {
        let (log_probs, entropies) = logprob_entropy(&t[0], &ids, 0.7).unwrap();
        Tensor::stack(&[log_probs, entropies], 0)
    };
    let large = (random(&[50, 700], 1) * 5.0).unwrap();
    check_twin(op, &|t| composed::logprob_entropy(&t[0], &ids, 0.7), &[large]);
}

fn both(
    logits: &[f64],
    v: usize,
    ids: &[u32],
    temperature: f64,
    dtype: DType,
) -> (Vec<f64>, Vec<f64>) {
    let logits =
        Tensor::from_slice(logits, (ids.len(), v), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let (a, b) = logprob_entropy(&logits, &ids, temperature).unwrap();
    (values(&a), values(&b))
}

/// Rows on which naive formulas fail: peaked with an offset, flat, partly and wholly masked, huge.
fn edge_rows() -> Vec<Vec<f64>> {
    let base = values(&random(&[300], 4));
    let inf = f64::NEG_INFINITY;
    let shaped =
        |f: &dyn Fn(usize, f64) -> f64| base.iter().enumerate().map(|(i, &x)| f(i, x)).collect();
    vec![
        shaped(&|_, x| 4.0 * x),
        shaped(&|_, x| 4.0 * x + 1000.0),
        shaped(&|i, x| if i == 7 { 64.0 } else { x + 46.0 }),
        shaped(&|_, _| -3.0),
        shaped(&|i, x| if i % 3 == 0 { inf } else { 5.0 * x }),
        shaped(&|i, _| if i == 7 { 2.0 } else { inf }),
        shaped(&|_, _| inf),
        shaped(&|_, x| 1e30 * x),
    ]
}

#[test]
fn logprob_entropy_equals_its_definition_on_hard_rows() {
    for (row, logits) in edge_rows().iter().enumerate() {
        for id in [7usize, 9] {
            for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-6)] {
                // The definition on the rounded logits, which the kernel reads.
                let seen: Vec<f64> = logits
                    .iter()
                    .map(|&x| if dtype == DType::F32 { f64::from(x as f32) } else { x })
                    .collect();
                let (want_p, want_h) = reference::logprob_entropy(&seen, id, 0.5);
                let (p, h) = both(logits, 300, &[id as u32], 0.5, dtype);
                let close = |a: f64, b: f64| a == b || (a - b).abs() <= tolerance * (1.0 + b.abs());
                assert!(
                    close(p[0], want_p) && close(h[0], want_h),
                    "row {row}, {dtype:?}: {p:?} {h:?}, {want_p} {want_h}"
                );
            }
        }
    }
}

#[test]
fn a_peaked_row_keeps_its_relative_accuracy() {
    let row: Vec<f64> = (0..100).map(|i| if i == 3 { 70.0 } else { 50.0 }).collect();
    let (_, want) = reference::logprob_entropy(&row, 3, 1.0);
    let (_, got) = both(&row, 100, &[3], 1.0, DType::F32);
    assert!(want < 1e-5 && ((got[0] - want) / want).abs() < 1e-3, "{} against {want}", got[0]);
}

#[test]
fn logprob_entropy_gradient_equals_its_definition_on_hard_rows() {
    for (row, logits) in edge_rows().iter().enumerate() {
        let var =
            Var::from_tensor(&Tensor::from_slice(logits, (1, 300), &Device::Cpu).unwrap()).unwrap();
        let ids = Tensor::new(&[7u32], &Device::Cpu).unwrap();
        let (p, h) = logprob_entropy(&var, &ids, 0.5).unwrap();
        let g = 0.9;
        let e = -1.7;
        let loss = ((p * g).unwrap() + (h * e).unwrap()).unwrap().sum_all().unwrap();
        let got = values(loss.backward().unwrap().get(&var).unwrap());
        let want = reference::logprob_entropy_gradient(logits, 7, 0.5, g, e);
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            assert!((a - b).abs() < 1e-11, "row {row}[{i}]: {a} against {b}");
        }
        assert!(got.iter().sum::<f64>().abs() < 1e-10, "row {row}");
    }
}

#[test]
fn the_reference_gradient_is_the_reference_derivative() {
    let logits = values(&random(&[9], 5));
    let value = |x: &[f64]| {
        let (p, h) = reference::logprob_entropy(x, 4, 0.8);
        0.9 * p - 1.7 * h
    };
    for (i, want) in
        reference::logprob_entropy_gradient(&logits, 4, 0.8, 0.9, -1.7).into_iter().enumerate()
    {
        let at = |d: f64| {
            let mut x = logits.clone();
            x[i] += d;
            value(&x)
        };
        assert!(((at(1e-5) - at(-1e-5)) / 2e-5 - want).abs() < 1e-9);
    }
}

#[test]
fn logprob_entropy_rejects_what_has_no_meaning() {
    let call = |logits: &[f64], id: u32, temperature: f64| {
        let logits = Tensor::from_slice(logits, (1, logits.len()), &Device::Cpu).unwrap();
        logprob_entropy(&logits, &Tensor::new(&[id], &Device::Cpu).unwrap(), temperature)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for bad in [f64::NAN, f64::INFINITY] {
        for at in 0..3 {
            let mut logits = [1.0, 2.0, 3.0];
            logits[at] = bad;
            assert!(call(&logits, 0, 1.0).contains("row 0"));
        }
    }
    assert!(call(&[f64::NEG_INFINITY, f64::NAN], 0, 1.0).contains("row 0"));
    assert!(call(&[1.0, 2.0], 2, 1.0).contains("ids[0]"));
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(call(&[1.0, 2.0], 0, temperature).contains("temperature"));
    }
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(logprob_entropy(&logits, &Tensor::new(&[1u32], &Device::Cpu).unwrap(), 1.0).is_err());
}

#[test]
fn shapes_are_checked() {
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    assert!(linear(&t(&[2, 3]), &t(&[4, 2]), None).is_err());
    assert!(linear(&t(&[2, 3]), &t(&[4, 3]), Some(&t(&[3]))).is_err());
    assert!(linear_residual(&t(&[2, 3]), &t(&[2, 3]), &t(&[4, 3])).is_err());
    assert!(rms_norm(&t(&[2, 3]), &t(&[2]), 1e-6).is_err());
    assert!(swiglu(&t(&[2, 3]), &t(&[4, 3]), &t(&[5, 3])).is_err());
    let ff = |x: &[usize], norm: &[usize], down: &[usize]| {
        feed_forward(&t(x), [&t(norm), &t(&[4, 3]), &t(&[4, 3]), &t(down)], 1e-6)
    };
    assert!(ff(&[2, 3], &[3], &[3, 4]).is_ok() && ff(&[2, 3], &[4], &[3, 4]).is_err());
    assert!(ff(&[2, 3], &[3], &[4, 3]).is_err() && ff(&[2, 4], &[4], &[4, 4]).is_err());
    assert!(linear_lora(&t(&[2, 3]), &t(&[4, 3]), None, (&t(&[2, 3]), &t(&[4, 1])), 1.0).is_err());
    let trained = Var::zeros((4, 3), DType::F32, &Device::Cpu).unwrap();
    let error =
        linear_lora(&t(&[2, 3]), &trained, None, (&t(&[2, 3]), &t(&[4, 2])), 1.0).unwrap_err();
    assert!(error.to_string().contains("frozen"));
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 2, lengths: vec![2, 1] };
    assert!(attention(&t(&[3, 4]), &t(&[3, 2]), &t(&[3, 2]), &shape).is_ok());
    assert!(attention(&t(&[4, 4]), &t(&[4, 2]), &t(&[4, 2]), &shape).is_err());
    assert!(attention(&t(&[3, 4]), &t(&[3, 4]), &t(&[3, 2]), &shape).is_err());
    let empty = AttentionShape { lengths: vec![3, 0], ..shape };
    assert!(attention(&t(&[3, 4]), &t(&[3, 2]), &t(&[3, 2]), &empty).is_err());
}
