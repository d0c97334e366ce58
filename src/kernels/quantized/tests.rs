//! Operators over quantised weights, compared with the same operators over their f32 values, and
//! their gradients with central differences in f64.

use crate::kernels::quantized::matrix::tests::quantized;
use crate::kernels::tests::{check_gradients, check_twin, random, Op};
use crate::kernels::*;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Tensor, Var};

/// The values of a matrix in the type of `like`.
fn dense(w: &QuantizedMatrix, like: &Tensor) -> candle_core::Result<Tensor> {
    w.dequantize()?.to_dtype(like.dtype())
}

#[test]
fn a_quantised_linear_map_has_the_gradients_of_its_values() {
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1] {
        let w = quantized(dtype, (6, 32), 7);
        let bias = random(&[6], 8);
        let frozen = |x: &Tensor| bias.to_dtype(x.dtype());
        let plain: Op = &|t| quantized_linear(&t[0], &w, Some(&frozen(&t[0])?), None);
        let adapted: Op = &|t| quantized_linear(&t[0], &w, None, Some((&t[1], &t[2], 0.7)));
        check_gradients(plain, &[random(&[3, 32], 1)], 1e-8);
        let inputs = [random(&[3, 32], 1), random(&[2, 32], 2), random(&[6, 2], 3)];
        check_gradients(adapted, &inputs, 1e-8);
        let twin: Op = &|t| linear(&t[0], &dense(&w, &t[0])?, Some(&frozen(&t[0])?));
        check_twin(plain, twin, &inputs[..1]);
    }
}

/// In tests a part has 1024 numbers, so these matrices are converted in several.
#[test]
fn a_matrix_in_several_parts_is_multiplied_as_a_whole() {
    for (dtype, i) in [(GgmlDType::Q4_0, 96), (GgmlDType::Q5_0, 32), (GgmlDType::Q6K, 256)] {
        let w = quantized(dtype, (75, i), 5);
        let bias = random(&[75], 8);
        let op: Op = &|t| {
            let bias = bias.to_dtype(t[0].dtype())?;
            quantized_linear(&t[0], &w, Some(&bias), Some((&t[1], &t[2], 0.3)))
        };
        let twin: Op = &|t| {
            let bias = bias.to_dtype(t[0].dtype())?;
            composed::linear_lora(&t[0], &dense(&w, &t[0])?, Some(&bias), (&t[1], &t[2]), 0.3)
        };
        for n in [1, 40] {
            check_twin(op, twin, &[random(&[n, i], 1), random(&[3, i], 2), random(&[75, 3], 3)]);
        }
    }
}

#[test]
fn a_quantised_weight_needs_fitting_and_frozen_company() {
    let w = quantized(GgmlDType::Q8_0, (4, 32), 1);
    let x = random(&[2, 32], 1);
    let error = |x: &Tensor, bias: Option<&Tensor>| {
        quantized_linear(x, &w, bias, None).unwrap_err().to_string()
    };
    assert!(error(&random(&[2, 31], 1), None).contains("mismatched shapes"));
    assert!(error(&x, Some(&random(&[5], 1))).contains("mismatched shapes"));
    let trained = Var::from_tensor(&random(&[4], 1)).unwrap();
    assert!(error(&x, Some(&trained)).contains("must be frozen"));
    assert!(error(&x.to_dtype(DType::BF16).unwrap(), None).contains("BF16"));
    let none = quantized_linear(&random(&[0, 32], 1), &w, None, None).unwrap();
    assert_eq!(none.dims(), [0, 4]);
}

#[test]
fn scores_through_a_quantised_head_are_those_through_its_values() {
    let w = quantized(GgmlDType::Q5_1, (150, 64), 3);
    let x = random(&[9, 64], 1);
    let ids = Tensor::new(&[3u32, 149, 0, 77, 8, 9, 10, 11, 12], x.device()).unwrap();
    let skipping = Support::masked(&[true, true, true, true, false, true, true, true, true]);
    for support in [None, Some(skipping)] {
        // One tile with all logits, or tiles of 64 columns and a shorter one.
        for chunk_bytes in [1 << 20, 1] {
            let options = ScoreOptions { temperature: 1.3, support: support.clone(), chunk_bytes };
            let both = |scores: crate::Result<(Tensor, Tensor)>| {
                let (log_probs, entropies) = scores.unwrap();
                Tensor::stack(&[log_probs, entropies], 0)
            };
            let op: Op = &|t| both(quantized_logprob_entropy(&t[0], &w, &ids, &options));
            let twin: Op = &|t| {
                let weight = dense(&w, &t[0])?;
                both(linear_logprob_entropy(&t[0], &LmHead::new(&weight), &ids, &options))
            };
            check_twin(op, twin, std::slice::from_ref(&x));
        }
    }
    let op: Op = &|t| {
        let scores = quantized_logprob_entropy(&t[0], &w, &ids, &ScoreOptions::at(0.8));
        Ok(scores.unwrap().0)
    };
    check_gradients(op, std::slice::from_ref(&x), 1e-7);
    let narrow =
        quantized_logprob_entropy(&random(&[9, 32], 1), &w, &ids, &ScoreOptions::default());
    assert!(narrow.unwrap_err().to_string().contains("`weight` has shape [150, 64]"));
}
