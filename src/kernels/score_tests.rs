//! `logprob_entropy` and language-model heads: element types, supports, layouts, thread counts,
//! invalid input.

use crate::kernels::tests::{check_gradients, gradients, max_gap, random, values, Op};
use crate::kernels::*;
use candle_core::{DType, Device, Tensor, Var};

const TAU: f64 = 0.7;

fn ids(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).unwrap()
}

fn stacked((log_probs, entropies): (Tensor, Tensor)) -> candle_core::Result<Tensor> {
    Tensor::stack(&[log_probs, entropies], 0)
}

/// Returns random logits, a third of them −∞ in every second row; ids 0.. are never −∞.
fn logits(n: usize, v: usize, dtype: DType) -> Tensor {
    let mut x = values(&(random(&[n, v], 5) * 6.0).unwrap());
    for i in (0..n * v).filter(|i| (i / v) % 2 == 1 && i % v >= n && i % 3 == 0) {
        x[i] = f64::NEG_INFINITY;
    }
    Tensor::from_vec(x, (n, v), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Returns the largest differences of value and gradient from the definition on the rounded logits.
fn errors(logits: &Tensor) -> (f64, f64) {
    let (n, v) = logits.dims2().unwrap();
    let options = ScoreOptions::at(TAU);
    let taken: Vec<u32> = (0..n as u32).map(|i| i.min(v as u32 - 1)).collect();
    let scores = evaluate(logits, &ids(&taken), &options).unwrap();
    let g = (random(&[n], 6) + 0.1).unwrap();
    let h = random(&[n], 7);
    let dx = values(&scores.gradient(logits, &g, &h).unwrap());
    let x = values(logits);
    let got = [values(&scores.log_probs), values(&scores.entropies)];
    let g = values(&g);
    let h = values(&h);
    let mut value = 0f64;
    let mut gradient = 0f64;
    for i in 0..n {
        let row = &x[i * v..(i + 1) * v];
        let id = taken[i] as usize;
        let (p, e) = reference::logprob_entropy(row, id, TAU);
        value = value.max((got[0][i] - p).abs()).max((got[1][i] - e).abs());
        let want = reference::logprob_entropy_gradient(row, id, TAU, g[i], h[i]);
        for (a, b) in dx[i * v..].iter().zip(want) {
            gradient = gradient.max((a - b).abs());
        }
    }
    (value, gradient)
}

#[test]
fn every_element_type_and_width_follows_the_definition() {
    for v in [1, 2, 3, 15, 16, 17, 1023, 1024, 1025, 2500] {
        for (dtype, value, gradient) in [
            (DType::F64, 1e-12, 1e-12),
            (DType::F32, 4e-6, 2e-6),
            (DType::BF16, 4e-6, 8e-3),
            (DType::F16, 4e-6, 1e-3),
        ] {
            let (a, b) = errors(&logits(7.min(v), v, dtype));
            assert!(a < value && b < gradient, "{dtype:?}, v = {v}: values {a}, gradients {b}");
        }
    }
}

#[test]
fn the_largest_logits_are_counted_wherever_they_stand() {
    // Few distinct values: every block of a row contains its maximum.
    let x = (random(&[3, 5000], 8) * 2.0).unwrap().round().unwrap();
    for (dtype, gradient) in [(DType::F64, 1e-12), (DType::F32, 2e-6), (DType::BF16, 8e-3)] {
        let (a, b) = errors(&x.to_dtype(dtype).unwrap());
        assert!(a < 4e-6 && b < gradient, "{dtype:?}: values {a}, gradients {b}");
    }
}

#[test]
fn a_gradient_that_is_nan_makes_its_row_nan() {
    let g = Tensor::new(&[f32::NAN, 1.0], &Device::Cpu).unwrap();
    let h = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let x = logits(2, 40, dtype);
        let dx = values(
            &evaluate(&x, &ids(&[0, 1]), &ScoreOptions::at(TAU))
                .unwrap()
                .gradient(&x, &g, &h)
                .unwrap(),
        );
        assert!(
            dx[..40].iter().all(|d| d.is_nan()) && dx[40..].iter().all(|d| d.is_finite()),
            "{dtype:?}: {dx:?}"
        );
    }
}

#[test]
fn half_precision_logits_cost_the_entropy_nothing() {
    let logits = (random(&[4, 20_000], 3) * 6.0).unwrap().to_dtype(DType::BF16).unwrap();
    let scores = evaluate(&logits, &ids(&[0, 1, 2, 3]), &ScoreOptions::at(TAU)).unwrap();
    for (i, (row, got)) in values(&logits).chunks(20_000).zip(values(&scores.entropies)).enumerate()
    {
        let (_, want) = reference::logprob_entropy(row, i, TAU);
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }
}

#[test]
fn a_gradient_in_place_is_the_gradient() {
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let logits = logits(5, 9500, dtype);
        let scores = evaluate(&logits, &ids(&[0, 1, 2, 3, 9000]), &ScoreOptions::at(TAU)).unwrap();
        let g = random(&[5], 6);
        let h = random(&[5], 7);
        let apart = scores.gradient(&logits, &g, &h).unwrap();
        scores.gradient_in_place(&logits, &g, &h).unwrap();
        assert_eq!(values(&apart), values(&logits));
    }
}

#[test]
fn evaluation_has_no_graph_and_the_same_gradient_as_backward() {
    let var = Var::from_tensor(&logits(4, 300, DType::F32)).unwrap();
    let taken = ids(&[0, 1, 2, 3]);
    let options = ScoreOptions::at(TAU);
    let scores = evaluate(&var, &taken, &options).unwrap();
    assert!(!scores.log_probs.track_op() && !scores.entropies.track_op());
    let both = stacked(logprob_entropy(&var, &taken, TAU).unwrap()).unwrap();
    let weights = random(&[2, 4], 9).to_dtype(DType::F32).unwrap();
    let grads = (both * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let g = weights.get(0).unwrap();
    let h = weights.get(1).unwrap();
    assert_eq!(values(grads.get(&var).unwrap()), values(&scores.gradient(&var, &g, &h).unwrap()));
}

#[test]
fn strided_logits_are_read_where_they_lie() {
    let wide = logits(4, 600, DType::F32);
    for view in [wide.narrow(1, 100, 300).unwrap(), wide.t().unwrap().narrow(0, 5, 40).unwrap()] {
        let taken = ids(&vec![2; view.dim(0).unwrap()]);
        let plain = view.force_contiguous().unwrap();
        let [a, b] = [&view, &plain].map(|x| evaluate(x, &taken, &ScoreOptions::at(TAU)).unwrap());
        assert_eq!(values(&a.entropies), values(&b.entropies));
        let g = random(&[view.dim(0).unwrap()], 6);
        assert_eq!(
            values(&a.gradient(&view, &g, &g).unwrap()),
            values(&b.gradient(&plain, &g, &g).unwrap())
        );
    }
    // In place between other columns, which must not change.
    let before = values(&wide);
    let part = wide.narrow(1, 100, 300).unwrap();
    let scores = evaluate(&part, &ids(&[2; 4]), &ScoreOptions::at(TAU)).unwrap();
    let g = random(&[4], 6);
    let want = values(&scores.gradient(&part, &g, &g).unwrap());
    scores.gradient_in_place(&part, &g, &g).unwrap();
    assert_eq!(values(&part), want);
    let outside = |x: &[f64]| [x[..100].to_vec(), x[400..700].to_vec(), x[2200..].to_vec()];
    assert_eq!(outside(&values(&wide)), outside(&before));
}

/// Returns rows with each kind of support, and a twin with −∞ outside the support.
fn supported(n: usize, v: usize) -> (Tensor, Tensor, Support) {
    let x = (random(&[n, v], 8) * 3.0).unwrap();
    let list: Vec<u32> = (0..v as u32).filter(|i| i % 3 == 1 || *i == 0).collect();
    let kind = |i| match i % 3 {
        0 => RowSupport::Whole,
        1 => RowSupport::Allowed(&list),
        _ => RowSupport::Skipped,
    };
    let mut masked = values(&x);
    for i in (0..n * v).filter(|i| (i / v) % 3 == 1 && !list.contains(&((i % v) as u32))) {
        masked[i] = f64::NEG_INFINITY;
    }
    let masked = Tensor::from_vec(masked, (n, v), &Device::Cpu).unwrap();
    (x, masked, Support::new((0..n).map(kind)).unwrap())
}

#[test]
fn a_support_is_minus_infinity_outside_it_and_nothing_where_skipped() {
    let n = 9;
    let v = 130;
    let (x, masked, support) = supported(n, v);
    let taken = ids(&(0..n as u32).map(|i| 3 * i + 1).collect::<Vec<_>>());
    let options = ScoreOptions { support: Some(support), ..ScoreOptions::at(TAU) };
    let op: Op = &|t| stacked(logprob_entropy_with(&t[0], &taken, &options).unwrap());
    let counted: Vec<f64> = (0..2 * n).map(|i| f64::from(u8::from(i % n % 3 != 2))).collect();
    let counted = Tensor::from_vec(counted, (2, n), &Device::Cpu).unwrap();
    let twin: Op = &|t| {
        let both = composed::logprob_entropy(&t[0], &taken, TAU)?;
        both * &counted
    };
    let inputs = [x.clone()];
    assert!(max_gap(&op(&inputs).unwrap(), &twin(std::slice::from_ref(&masked)).unwrap()) < 1e-12);
    let a = gradients(op, &inputs);
    let b = gradients(twin, &[masked]);
    assert!(max_gap(&a[0], &b[0]) < 1e-12);
    let skipped = values(&a[0].narrow(0, 2, 1).unwrap());
    assert!(skipped.iter().all(|&g| g == 0.0));
    check_gradients(op, &inputs, 1e-8);
}

#[test]
fn skipped_rows_may_hold_anything() {
    let logits = Tensor::new(&[[1f32, 2.0], [f32::NAN, f32::INFINITY]], &Device::Cpu).unwrap();
    let options =
        ScoreOptions { support: Some(Support::masked(&[true, false])), ..Default::default() };
    let scores = evaluate(&logits, &ids(&[1, 77]), &options).unwrap();
    assert_eq!((values(&scores.log_probs)[1], values(&scores.entropies)[1]), (0.0, 0.0));
}

/// Returns hidden states, W, b, and a LoRA adapter's A and B.
fn head_inputs(n: usize, h: usize, v: usize) -> [Tensor; 5] {
    [&[n, h][..], &[v, h], &[v], &[3, h], &[v, 3]].map(|shape| random(shape, 20 + shape[0] as u64))
}

fn options(n: usize, v: usize, tiles: usize, support: bool) -> ScoreOptions {
    let support = support.then(|| supported(n, v).2);
    ScoreOptions { temperature: TAU, support, chunk_bytes: n * v * 8 / tiles }
}

#[test]
fn a_linear_head_equals_its_logits() {
    let n = 9;
    let h = 5;
    let v = 700;
    let [x, w, b, ..] = head_inputs(n, h, v);
    let taken = ids(&(0..n as u32).map(|i| 3 * i + 1).collect::<Vec<_>>());
    for (tiles, support) in [(1, false), (4, false), (100, false), (4, true)] {
        let options = options(n, v, tiles, support);
        for bias in [false, true] {
            let inputs = if bias {
                vec![x.clone(), w.clone(), b.clone()]
            } else {
                vec![x.clone(), w.clone()]
            };
            let op: Op = &|t| {
                let head = LmHead { bias: t.get(2), ..LmHead::new(&t[1]) };
                stacked(linear_logprob_entropy(&t[0], &head, &taken, &options).unwrap())
            };
            let twin: Op = &|t| {
                let logits = composed::linear(&t[0], &t[1], t.get(2))?;
                stacked(logprob_entropy_with(&logits, &taken, &options).unwrap())
            };
            assert!(max_gap(&op(&inputs).unwrap(), &twin(&inputs).unwrap()) < 1e-12);
            for (a, b) in gradients(op, &inputs).iter().zip(gradients(twin, &inputs)) {
                assert!(max_gap(a, &b) < 1e-12, "{tiles} tiles, support {support}");
            }
        }
    }
}

#[test]
fn a_linear_head_has_its_gradients() {
    let inputs = head_inputs(6, 3, 90);
    let taken = ids(&[0, 1, 2, 3, 4, 5].map(|i| 3 * i + 1));
    let options = options(6, 90, 1, true);
    let op: Op = &|t| {
        let head = LmHead { bias: Some(&t[2]), ..LmHead::new(&t[1]) };
        stacked(linear_logprob_entropy(&t[0], &head, &taken, &options).unwrap())
    };
    check_gradients(op, &inputs[..3], 1e-8);
    let [x, w, b, a, low] = &inputs;
    let op: Op = &|t| {
        let low_rank = Some(LowRank { a: &t[1], b: &t[2], scale: 0.5 });
        let head = LmHead { weight: w, bias: Some(b), low_rank };
        stacked(linear_logprob_entropy(&t[0], &head, &taken, &options).unwrap())
    };
    check_gradients(op, &[x.clone(), a.clone(), low.clone()], 1e-8);
}

#[test]
fn an_evaluated_head_has_the_gradients_of_its_graph() {
    let [x, w, b, ..] = head_inputs(6, 3, 90);
    let taken = ids(&[1, 4, 7, 10, 13, 16]);
    let options = options(6, 90, 2, true);
    let op: Op = &|t| {
        let head = LmHead { bias: Some(&t[2]), ..LmHead::new(&t[1]) };
        stacked(linear_logprob_entropy(&t[0], &head, &taken, &options).unwrap())
    };
    let want = gradients(op, &[x.clone(), w.clone(), b.clone()]);
    let head = LmHead { bias: Some(&b), ..LmHead::new(&w) };
    let scores = evaluate_linear(&x, &head, &taken, &options).unwrap();
    let weights = random(&[2, 6], 99);
    let got = scores.gradient(&weights.get(0).unwrap(), &weights.get(1).unwrap()).unwrap();
    for (a, b) in [got.hidden, got.weight, got.bias.unwrap()].iter().zip(&want) {
        assert!(max_gap(a, b) < 1e-12);
    }
}

/// A single tile's logits are kept for the first backward pass; a second one recomputes them.
#[test]
fn a_head_goes_back_twice() {
    let inputs = head_inputs(6, 3, 90).map(|t| Var::from_tensor(&t).unwrap());
    let [x, w, b, ..] = &inputs;
    for tiles in [1, 2] {
        let head = LmHead { bias: Some(b), ..LmHead::new(w) };
        let both = linear_logprob_entropy(
            x,
            &head,
            &ids(&[1, 4, 7, 10, 13, 16]),
            &options(6, 90, tiles, true),
        );
        let loss = stacked(both.unwrap()).unwrap().sqr().unwrap().sum_all().unwrap();
        let [first, second] = [0, 1].map(|_| loss.backward().unwrap());
        for input in [x, w, b] {
            assert_eq!(
                values(first.get(input).unwrap()),
                values(second.get(input).unwrap()),
                "{tiles} tiles"
            );
        }
    }
}

#[test]
fn frozen_weights_get_no_gradient() {
    let [x, w, b, a, low] = head_inputs(4, 3, 50).map(|t| Var::from_tensor(&t).unwrap());
    let frozen = w.detach();
    let loss = |head: &LmHead<'_>| {
        let both = linear_logprob_entropy(&x, head, &ids(&[1, 2, 3, 4]), &ScoreOptions::default())
            .unwrap();
        stacked(both).unwrap().sum_all().unwrap().backward().unwrap()
    };
    let grads = loss(&LmHead { bias: Some(&b), ..LmHead::new(&frozen) });
    assert!(grads.get(&x).is_some() && grads.get(&b).is_some() && grads.get(&frozen).is_none());
    let low_rank = Some(LowRank { a: &a, b: &low, scale: 2.0 });
    let grads = loss(&LmHead { weight: &w, bias: Some(&b), low_rank });
    assert!([&x, &a, &low].iter().all(|var| grads.get(var).is_some()));
    assert!([&w, &b].iter().all(|var| grads.get(var).is_none()));
}

#[test]
fn half_precision_heads_are_rounded_once() {
    // Large enough for the bf16 products of processors that have them.
    let n = 24;
    let inputs = head_inputs(n, 33, 300);
    let half: Vec<Tensor> = inputs[..3].iter().map(|t| t.to_dtype(DType::BF16).unwrap()).collect();
    let single: Vec<Tensor> = half.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    let taken = ids(&(0..n as u32).collect::<Vec<_>>());
    let op: Op = &|t| {
        let head = LmHead { bias: Some(&t[2]), ..LmHead::new(&t[1]) };
        stacked(linear_logprob_entropy(&t[0], &head, &taken, &options(n, 300, 3, false)).unwrap())
    };
    assert!(max_gap(&op(&half).unwrap(), &op(&single).unwrap()) < 1e-5);
    for (a, b) in gradients(op, &half).iter().zip(gradients(op, &single)) {
        let largest = values(&b).iter().fold(0f64, |m, x| m.max(x.abs()));
        assert!(max_gap(a, &b) < largest / 250.0, "{} of {largest}", max_gap(a, &b));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let [x, w, b, ..] = head_inputs(200, 64, 2000).map(|t| t.to_dtype(DType::F32).unwrap());
    let taken = ids(&(0..200).collect::<Vec<_>>());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let op: Op = &|t| {
                let head = LmHead { bias: Some(&t[2]), ..LmHead::new(&t[1]) };
                stacked(
                    linear_logprob_entropy(&t[0], &head, &taken, &options(200, 2000, 8, true))
                        .unwrap(),
                )
            };
            let inputs = [x.clone(), w.clone(), b.clone()];
            let all = [vec![op(&inputs).unwrap()], gradients(op, &inputs)].concat();
            all.iter().flat_map(values).map(f64::to_bits).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

#[test]
fn what_does_not_fit_is_named() {
    let logits = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
    let with = |support| ScoreOptions { support: Some(support), ..Default::default() };
    let refuse = |logits: &Tensor, taken: &[u32], options: &ScoreOptions, word: &str| {
        let error = logprob_entropy_with(logits, &ids(taken), options).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let allowed = |list: &'static [u32]| {
        Support::new([RowSupport::Whole, RowSupport::Allowed(list)]).unwrap()
    };
    refuse(&logits, &[0, 3], &with(allowed(&[0, 2])), "ids[1]");
    refuse(&logits, &[0, 2], &with(allowed(&[2, 9])), "support[1]");
    refuse(&logits, &[0, 2], &with(Support::masked(&[true])), "support");
    refuse(&logits, &[0, 5], &ScoreOptions::default(), "ids[1]");
    refuse(
        &Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap(),
        &[0, 0],
        &ScoreOptions::default(),
        "v > 0",
    );
    refuse(
        &Tensor::zeros((2, 5), DType::U32, &Device::Cpu).unwrap(),
        &[0, 0],
        &ScoreOptions::default(),
        "u32",
    );
    for (list, word) in [(&[][..], "[]"), (&[3, 3], "[3, 3]"), (&[3, 1], "[3, 1]")] {
        let error = Support::new([RowSupport::Allowed(list)]).unwrap_err().to_string();
        assert!(error.contains("support[0]") && error.contains(word), "{error}");
    }
    let none =
        evaluate(&logits.narrow(0, 0, 0).unwrap(), &ids(&[]), &ScoreOptions::default()).unwrap();
    assert_eq!(none.log_probs.dims(), [0]);
    let scores = evaluate(&logits, &ids(&[0, 0]), &ScoreOptions::default()).unwrap();
    let two = random(&[2], 1);
    let three = random(&[3], 1);
    assert!(scores.gradient(&logits, &three, &two).is_err());
    assert!(scores.gradient(&logits.narrow(1, 0, 4).unwrap(), &two, &two).is_err());
}

#[test]
fn a_head_that_does_not_fit_is_named() {
    let [x, w, b, a, low] = head_inputs(2, 3, 50);
    let refuse = |hidden: &Tensor, head: LmHead<'_>, word: &str| {
        let error = linear_logprob_entropy(hidden, &head, &ids(&[0, 1]), &ScoreOptions::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refuse(&x.narrow(1, 0, 2).unwrap(), LmHead::new(&w), "weight");
    refuse(&x, LmHead { bias: Some(&a), ..LmHead::new(&w) }, "bias");
    refuse(&x.to_dtype(DType::F32).unwrap(), LmHead::new(&w), "weight.dtype");
    let update = |a, b| Some(LowRank { a, b, scale: 1.0 });
    let [narrow_a, narrow_b] = [&a, &low].map(|t| t.narrow(1, 0, 2).unwrap());
    refuse(&x, LmHead { low_rank: update(&narrow_a, &low), ..LmHead::new(&w) }, "`a`");
    refuse(&x, LmHead { low_rank: update(&a, &narrow_b), ..LmHead::new(&w) }, "`b`");
    refuse(&(&x * f64::NAN).unwrap(), LmHead { bias: Some(&b), ..LmHead::new(&w) }, "logits");
}
