//! The layers and their gradients, compared with the CPU in f64.

use super::{assert_near, exact, values, DTYPES};
use candle_core::{DType, Device, Tensor, Var};
use epo::kernels::{
    attention, embedding, linear, linear_logprob_entropy, linear_lora, linear_residual, rms_norm,
    rope, silu_mul, swiglu, AttentionShape, LmHead, RopeTable, ScoreOptions,
};
use std::sync::Arc;

type Operator<'a> = &'a dyn Fn(&[Tensor]) -> Tensor;

/// Computes the value, and the gradients of a weighted sum of it.
fn run(operator: Operator<'_>, inputs: &[Tensor], dtype: DType, device: &Device) -> Vec<Vec<f64>> {
    let place = |t: &Tensor| t.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&place(t)).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = operator(&tensors);
    assert_eq!(y.dtype(), dtype);
    // Exact in every element type.
    let weights = place(&exact(y.dims(), 99, DType::BF16));
    let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|var| values(grads.get(var).unwrap()));
    std::iter::once(values(&y)).chain(grads).collect()
}

fn check(device: &Device, what: &str, operator: Operator<'_>, shapes: &[&[usize]]) {
    for (dtype, tolerance) in DTYPES {
        let inputs: Vec<Tensor> =
            shapes.iter().enumerate().map(|(i, shape)| exact(shape, i as u64, dtype)).collect();
        let want = run(operator, &inputs, DType::F64, &Device::Cpu);
        let got = run(operator, &inputs, dtype, device);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_near(&format!("{what} {shapes:?} {dtype:?} result {i}"), got, want, tolerance);
        }
    }
}

/// Drops the first row, so that the data starts at an unaligned address.
fn rest(t: &Tensor) -> Tensor {
    t.narrow(0, 1, t.dim(0).unwrap() - 1).unwrap()
}

pub fn rms_norm_and_its_gradient(device: &Device) {
    for (n, h) in [(1, 3), (5, 37), (520, 9), (3, 1024), (2, 5001)] {
        let operator = |t: &[Tensor]| rms_norm(&rest(&t[0]), &t[1], 1e-3).unwrap();
        check(device, "rms_norm", &operator, &[&[n + 1, h], &[h]]);
    }
}

pub fn rope_and_its_gradient(device: &Device) {
    for (n, heads, d) in [(1, 1, 2), (7, 3, 6), (70, 2, 64), (3, 14, 128)] {
        let table = Arc::new(RopeTable::new(d, 50, 100.0));
        let positions: Arc<[u32]> = (0..n as u32).map(|i| 49 - (7 * i) % 50).collect();
        let operator = |t: &[Tensor]| rope(&rest(&t[0]), &table, &positions).unwrap();
        check(device, "rope", &operator, &[&[n + 1, heads * d]]);
    }
}

pub fn swiglu_and_its_gradient(device: &Device) {
    for (n, i, f) in [(1, 1, 1), (5, 8, 37), (60, 24, 101)] {
        let operator = |t: &[Tensor]| swiglu(&t[0], &t[1], &t[2]).unwrap();
        check(device, "swiglu", &operator, &[&[n, i], &[f, i], &[f, i]]);
    }
}

pub fn silu_mul_and_its_gradient(device: &Device) {
    let operator = |t: &[Tensor]| silu_mul(&rest(&t[0]), &rest(&t[1])).unwrap();
    check(device, "silu_mul", &operator, &[&[8, 37], &[8, 37]]);
}

pub fn products_and_their_gradients(device: &Device) {
    for (n, i, o) in [(1, 1, 1), (5, 8, 37), (60, 24, 16)] {
        let plain = |t: &[Tensor]| linear(&rest(&t[0]), &t[1], None).unwrap();
        check(device, "linear", &plain, &[&[n + 1, i], &[o, i]]);
        let biased = |t: &[Tensor]| linear(&rest(&t[0]), &t[1], Some(&t[2])).unwrap();
        check(device, "linear with bias", &biased, &[&[n + 1, i], &[o, i], &[o]]);
        let residual = |t: &[Tensor]| linear_residual(&rest(&t[0]), &t[1], &t[2]).unwrap();
        check(device, "linear_residual", &residual, &[&[n + 1, o], &[n, i], &[o, i]]);
        let adapted = |t: &[Tensor]| {
            let frozen = exact(&[o, i], 7, DType::BF16).to_dtype(t[0].dtype()).unwrap();
            let frozen = frozen.to_device(t[0].device()).unwrap();
            let bias = frozen.narrow(1, 0, 1).unwrap().flatten_all().unwrap();
            linear_lora(&rest(&t[0]), &frozen, Some(&bias), (&t[1], &t[2]), 0.5).unwrap()
        };
        check(device, "linear_lora", &adapted, &[&[n + 1, i], &[3, i], &[o, 3]]);
    }
}

pub fn rows_of_a_table_and_their_gradient(device: &Device) {
    for (v, h) in [(1, 1), (9, 37), (60, 128)] {
        let ids: Arc<[u32]> = (0..40).map(|i| i * i % v as u32).collect();
        let operator = |t: &[Tensor]| embedding(&rest(&t[0]), &ids).unwrap();
        check(device, "embedding", &operator, &[&[v + 1, h]]);
    }
}

pub fn attention_and_its_gradient(device: &Device) {
    let shape = |heads, kv_heads, head_dim, lengths: &[usize]| {
        let lengths = lengths.to_vec();
        AttentionShape { heads, kv_heads, head_dim, lengths }
    };
    let mut cases = vec![
        shape(1, 1, 2, &[2]),
        shape(4, 2, 6, &[5, 1, 9]),
        shape(6, 2, 16, &[3, 8]),
        shape(3, 1, 64, &[20]),
    ];
    if !device.is_cpu() {
        // Several tiles of queries; a processor would take long.
        cases.push(shape(8, 2, 16, &[2100, 30]));
    }
    for shape in cases {
        let n: usize = shape.lengths.iter().sum();
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let operator =
            |t: &[Tensor]| attention(&rest(&t[0]), &rest(&t[1]), &rest(&t[2]), &shape).unwrap();
        let wide = [n + 1, heads * head_dim];
        let narrow = [n + 1, kv_heads * head_dim];
        check(device, "attention", &operator, &[&wide, &narrow, &narrow]);
    }
}

pub fn a_head_and_its_gradient(device: &Device) {
    let (n, h, v) = (7, 24, 61);
    for (dtype, tolerance) in DTYPES {
        let run = |dtype: DType, device: &Device| {
            let place = |shape: &[usize], seed| {
                let values = exact(shape, seed, DType::BF16).to_dtype(dtype).unwrap();
                Var::from_tensor(&values.to_device(device).unwrap()).unwrap()
            };
            let x = place(&[n, h], 1);
            let w = place(&[v, h], 2);
            let ids: Vec<u32> = (0..n as u32).map(|i| 9 * i % v as u32).collect();
            let ids = Tensor::new(ids, device).unwrap();
            // A small budget, so that there are several tiles.
            let options = ScoreOptions { chunk_bytes: 1, ..ScoreOptions::at(1.5) };
            let head = LmHead::new(&w);
            let (log_probs, entropies) = linear_logprob_entropy(&x, &head, &ids, &options).unwrap();
            let loss = (log_probs.sum_all().unwrap() + entropies.sqr().unwrap().sum_all().unwrap())
                .unwrap();
            let grads = loss.backward().unwrap();
            let grad = |var: &Var| values(grads.get(var).unwrap());
            [values(&log_probs), values(&entropies), grad(&x), grad(&w)]
        };
        let want = run(DType::F64, &Device::Cpu);
        for (i, (got, want)) in run(dtype, device).iter().zip(&want).enumerate() {
            assert_near(&format!("head {dtype:?} result {i}"), got, want, tolerance);
        }
    }
}

pub fn a_frozen_norm_gets_no_gradient(device: &Device) {
    let x = exact(&[4, 6], 1, DType::F32).to_dtype(DType::F32).unwrap();
    let x = Var::from_tensor(&x.to_device(device).unwrap()).unwrap();
    let weight = Tensor::ones(6, DType::F32, device).unwrap();
    let grads = rms_norm(&x, &weight, 1e-6).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&weight).is_none());
}

pub fn shapes_and_positions_are_checked(device: &Device) {
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device).unwrap();
    assert!(rms_norm(&t(&[2, 3]), &t(&[2]), 1e-6).is_err());
    assert!(swiglu(&t(&[2, 3]), &t(&[4, 3]), &t(&[5, 3])).is_err());
    let table = Arc::new(RopeTable::new(2, 8, 100.0));
    assert!(rope(&t(&[2, 4]), &table, &Arc::from([0, 7])).is_ok());
    assert!(rope(&t(&[2, 4]), &table, &Arc::from([0, 8]))
        .unwrap_err()
        .to_string()
        .contains("position 8"));
}
