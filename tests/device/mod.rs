//! Tests of the device kernels, the same for every back end; each takes the device to run on.
//!
//! Inputs are numbers that the element type represents exactly, so results are compared with f64 on
//! the CPU.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod decoding;
pub mod layers;
pub mod learner;
pub mod scores;
#[path = "../support/mod.rs"]
mod support;
pub mod training;

use candle_core::{DType, Device, Tensor};
use epo::train::config::DeviceKind;
use support::random;

/// Element types with the relative error allowed: two roundings to the type, or f32 arithmetic.
pub const DTYPES: [(DType, f64); 3] =
    [(DType::F32, 1e-5), (DType::BF16, 1.6e-2), (DType::F16, 2e-3)];

/// Opens the device as a run does. Without it, tests pass unless the environment variable `require`
/// is 1.
pub fn open(kind: DeviceKind, require: &str) -> Option<Device> {
    match kind.open() {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(
                std::env::var(require).as_deref() != Ok("1"),
                "{require}=1, but no device {kind:?}: {error}"
            );
            let error = error.to_string(); // a backtrace may follow
            eprintln!(
                "no device {kind:?}, nothing is tested: {}",
                error.lines().next().unwrap_or_default()
            );
            None
        }
    }
}

/// Calls `$define!` with the back end's `$open` and the names of all tests.
macro_rules! device_tests {
    ($define:ident, $open:expr) => {
        $define!($open, layers: rms_norm_and_its_gradient rope_and_its_gradient
            swiglu_and_its_gradient silu_mul_and_its_gradient products_and_their_gradients
            rows_of_a_table_and_their_gradient attention_and_its_gradient
            a_head_and_its_gradient a_frozen_norm_gets_no_gradient
            shapes_and_positions_are_checked);
        $define!($open, scores: hard_rows_follow_the_definition
            every_vocabulary_size_follows_the_definition supports_are_all_that_exists
            the_gradient_in_place_is_the_gradient autograd_gives_the_same_gradient
            bad_logits_and_ids_are_errors);
        $define!($open, training: adamw_follows_the_cpu a_saved_optimizer_continues_to_the_bit
            small_steps_of_narrow_parameters_add_up a_decoder_follows_the_cpu);
        $define!($open, learner: a_policy_step_follows_the_cpu
            a_step_has_the_same_bits_in_every_run a_critic_follows_the_cpu
            a_run_moves_between_devices);
        $define!($open, decoding: decoding_agrees_with_the_forward_pass
            generation_follows_the_cpu a_cache_does_not_move_between_devices_while_it_is_filled
            logits_that_are_not_numbers_are_an_error);
    };
}

/// Defines the tests of a module on the device that `$open` returns, if any.
macro_rules! define_tests {
    ($open:expr, $module:ident: $($test:ident)+) => {
        $(#[test]
        fn $test() {
            if let Some(device) = $open {
                device::$module::$test(&device);
            }
        })+
    };
}

/// Returns random numbers in [-2, 2) of a shape, exact in `dtype`, as f64 on the CPU.
pub fn exact(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let values = random(seed, shape.iter().product(), -2.0, 2.0);
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap()
}

/// Returns all elements in f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    let host = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    host.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks that the error relative to the largest number is at most `tolerance`.
pub fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * largest,
            "{what}[{i}]: {got} against {want} of {largest}"
        );
    }
}
