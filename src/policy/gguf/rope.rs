//! Scaling of the rotary frequencies in GGUF files.
//!
//! Position interpolation is stated by keys. The scaling of Llama 3.1 is not: the file has a tensor
//! with the divisor of every frequency, from which the settings are found again.

use crate::policy::config::rope::RopeScaling;
use crate::policy::gguf::header::Header;
use crate::policy::gguf::names::ROPE_FACTORS;
use crate::Result;
use std::f64::consts::TAU;

/// Rotations per original context between which Llama 3.1's scaling changes.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
/// Largest relative difference of divisors stored in f32.
const TOLERANCE: f64 = 1e-4;

/// Reads the scaling that the keys of `architecture` state.
///
/// # Errors
/// Another kind of scaling, by key and value.
pub(crate) fn stated_scaling(header: &Header, architecture: &str) -> Result<RopeScaling> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let one = |number: f64| number == 0.0 || number == 1.0;
    let attention = key("scaling.attn_factor");
    if !header.number(&attention)?.is_none_or(one) {
        return Err(header.wrong(&attention, "must be 1"));
    }
    let older = key("scale_linear");
    let stated = key("scaling.factor");
    let found = if header.metadata.contains_key(&stated) { stated } else { older };
    let factor = header.number(&found)?.unwrap_or(1.0);
    if one(factor) {
        return Ok(RopeScaling::None);
    }
    let kind = key("scaling.type");
    match header.text(&kind)?.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" if factor > 1.0 => Ok(RopeScaling::Linear { factor }),
        "linear" => Err(header.wrong(&found, "must be at least 1")),
        _ => Err(header.wrong(&kind, "only `linear` and `none` are supported")),
    }
}

/// The scaling of Llama 3.1 whose divisors are `divisors` `[head_dim/2]`, if there is one.
pub(crate) fn scaling_of(divisors: &[f32], head_dim: usize, theta: f64) -> Option<RopeScaling> {
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return Some(RopeScaling::None);
    }
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let between = |&divisor: &f32| divisor > 1.0 && f64::from(divisor) < factor;
    let place = divisors.iter().position(between);
    let frequencies = RopeScaling::None.frequencies(head_dim, theta);
    // Each divisor between 1 and the factor gives the context; without one, many contexts fit.
    let stated = place.and_then(|j| {
        let smooth = (1.0 / f64::from(divisors[j]) - 1.0 / factor) / (1.0 - 1.0 / factor);
        let turns = LOW + smooth * (HIGH - LOW);
        Some((turns * TAU / frequencies.get(j)?).round() as usize)
    });
    let powers = (1..21).map(|exponent| 1 << exponent);
    let scaling = |context| RopeScaling::Llama3 {
        factor,
        low_freq_factor: LOW,
        high_freq_factor: HIGH,
        original_max_position_embeddings: context,
    };
    [8192].into_iter().chain(stated).chain(powers).map(scaling).find(|scaling| {
        let expected = divisors_of(scaling, head_dim, theta);
        let near = |(&a, &b): (&f32, &f64)| (f64::from(a) - b).abs() <= TOLERANCE * b;
        divisors.len() == expected.len() && divisors.iter().zip(&expected).all(near)
    })
}

/// Divisors of the frequencies `[head_dim/2]`.
pub(crate) fn divisors_of(scaling: &RopeScaling, head_dim: usize, theta: f64) -> Vec<f64> {
    let plain = RopeScaling::None.frequencies(head_dim, theta);
    let scaled = scaling.frequencies(head_dim, theta);
    plain.into_iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect()
}

/// The error for divisors that no supported scaling has.
pub(crate) fn unknown_divisors(header: &Header) -> crate::Error {
    let reason = "its divisors of the rotary frequencies are not those of Llama 3.1's scaling";
    crate::Error::file(&header.path, ROPE_FACTORS, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_scaling_is_found_again_from_its_divisors() {
        for (factor, context, head_dim, theta) in
            [(8.0, 8192, 128, 5e5), (32.0, 8192, 64, 5e5), (8.0, 16, 8, 1e4), (4.0, 1000, 32, 1e6)]
        {
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: LOW,
                high_freq_factor: HIGH,
                original_max_position_embeddings: context,
            };
            let divisors: Vec<f32> =
                divisors_of(&scaling, head_dim, theta).iter().map(|&d| d as f32).collect();
            assert_eq!(scaling_of(&divisors, head_dim, theta), Some(scaling));
            let mut other = divisors;
            other[0] = 1.5;
            assert_eq!(scaling_of(&other, head_dim, theta), None);
        }
        assert_eq!(scaling_of(&[1.0; 4], 8, 1e4), Some(RopeScaling::None));
    }
}
