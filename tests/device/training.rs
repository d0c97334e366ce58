//! AdamW and a whole decoder, compared with the CPU.

use super::{assert_near, exact, values};
use candle_core::{DType, Device, Tensor};
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{Decoder, DecoderConfig, Gradients, Parameters};
use epo::settings::{Decay, NonNegative};

fn config() -> DecoderConfig {
    DecoderConfig::tiny(20)
}

fn parameters(dtype: DType, device: &Device) -> Parameters {
    Parameters::init(&config(), 3, dtype, device).unwrap()
}

/// Returns gradients that are the same numbers on every device.
fn gradients(parameters: &Parameters, step: u64) -> Gradients {
    let mut loss: Option<Tensor> = None;
    for (i, (_, var)) in parameters.trainable().enumerate() {
        let weight = exact(var.dims(), 100 * step + i as u64, DType::BF16);
        let weight = weight.to_dtype(var.dtype()).unwrap().to_device(var.device()).unwrap();
        let term = (var.as_tensor() * weight).unwrap().sum_all().unwrap();
        loss = Some(match loss {
            None => term,
            Some(loss) => (loss + term).unwrap(),
        });
    }
    Gradients::of(&loss.unwrap(), parameters).unwrap()
}

fn step(optimizer: &mut AdamW, parameters: &Parameters, step: u64) {
    optimizer.step(parameters, &gradients(parameters, step), 1e-2).unwrap();
}

fn trained(dtype: DType, device: &Device) -> Parameters {
    let parameters = parameters(dtype, device);
    let mut optimizer = AdamW::new(AdamWConfig {
        weight_decay: NonNegative::literal(0.3),
        beta2: Decay::literal(0.95),
        ..AdamWConfig::default()
    });
    (0..4).for_each(|i| step(&mut optimizer, &parameters, i));
    parameters
}

pub fn adamw_follows_the_cpu(device: &Device) {
    // Allows for the roundings of the parameter in four steps.
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::BF16, 1.6e-2), (DType::F16, 2e-3)] {
        let want = trained(DType::F64, &Device::Cpu);
        let got = trained(dtype, device);
        for ((name, want), (_, got)) in want.iter().zip(got.iter()) {
            assert_near(&format!("{name} {dtype:?}"), &values(got), &values(want), tolerance);
        }
    }
}

pub fn a_saved_optimizer_continues_to_the_bit(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    let whole = parameters(DType::F32, device);
    let halves = parameters(DType::F32, device);
    let mut one = AdamW::new(AdamWConfig::default());
    (0..4).for_each(|i| step(&mut one, &whole, i));
    let mut two = AdamW::new(AdamWConfig::default());
    (0..2).for_each(|i| step(&mut two, &halves, i));
    two.save(&path).unwrap();
    let mut three = AdamW::load(&path, AdamWConfig::default(), &halves).unwrap();
    (2..4).for_each(|i| step(&mut three, &halves, i));
    for ((name, a), (_, b)) in whole.iter().zip(halves.iter()) {
        assert_eq!(values(a), values(b), "{name}");
    }
    // The file can be loaded on another device.
    assert_eq!(
        AdamW::load(&path, AdamWConfig::default(), &parameters(DType::F32, &Device::Cpu))
            .unwrap()
            .steps(),
        2
    );
}

pub fn small_steps_of_narrow_parameters_add_up(device: &Device) {
    let moved = |dtype: DType| {
        let parameters = parameters(dtype, device);
        let before: Vec<f64> = parameters.iter().flat_map(|(_, var)| values(var)).collect();
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let gradients = gradients(&parameters, 1);
        (0..100).for_each(|_| optimizer.step(&parameters, &gradients, 1e-5).unwrap());
        let after = parameters.iter().flat_map(|(_, var)| values(var));
        before.iter().zip(after).map(|(before, after)| (after - before).abs()).sum::<f64>()
    };
    let want = moved(DType::F32);
    for dtype in [DType::BF16, DType::F16] {
        let got = moved(dtype);
        assert!((got - want).abs() < 0.1 * want, "{dtype:?} moved {got} instead of {want}");
    }
}

/// Returns the hidden states of two packed rows and the gradients of a sum of them.
fn decode(dtype: DType, device: &Device) -> (Tensor, Gradients) {
    let parameters = parameters(dtype, device);
    let decoder = Decoder::new(&config(), &parameters).unwrap();
    let hidden = decoder.forward_packed(&[&[1, 5, 9, 2, 2, 7], &[3, 19, 0]]).unwrap();
    let gradients =
        Gradients::of(&hidden.powf(3.0).unwrap().sum_all().unwrap(), &parameters).unwrap();
    gradients.check(&parameters).unwrap();
    (hidden, gradients)
}

pub fn a_decoder_follows_the_cpu(device: &Device) {
    let (want, want_gradients) = decode(DType::F64, &Device::Cpu);
    let (got, gradients) = decode(DType::F32, device);
    assert_near("hidden", &values(&got), &values(&want), 1e-5);
    for ((name, want), (_, got)) in want_gradients.iter().zip(gradients.iter()) {
        assert_near(name, &values(got), &values(want), 1e-4);
    }
    let a = gradients.global_norm().unwrap();
    let b = want_gradients.global_norm().unwrap();
    assert!((a - b).abs() < 1e-4 * b, "{a} against {b}");
}
