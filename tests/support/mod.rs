//! What the tests of the method share: golden files, comparisons, a plain log-prob/entropy, central differences.
#![allow(dead_code, unreachable_pub)]

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var, D};
use epo::entropy::{EntropyHistory, State, StepEntropy};
use epo::{Error, Result};
use serde_json::Value;

/// Every golden file of `EPO_GOLDEN_DIR` (default: the repository's copies) whose name starts with `prefix`.
///
/// The repository's own directory must hold at least one; another directory may hold a part only.
pub fn golden_files(prefix: &str) -> Vec<(String, Value)> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    let dir = std::env::var_os("EPO_GOLDEN_DIR").map_or_else(|| own.clone(), PathBuf::from);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".json")
    });
    files.sort();
    assert!(!files.is_empty() || dir != own, "no {prefix}*.json in {}", dir.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path.file_name().unwrap().to_string_lossy().into_owned(), value)
    };
    files.into_iter().map(read).collect()
}

/// The numbers of a nested list, row-major, and its shape; a single number has shape [].
pub fn floats(value: &Value) -> (Vec<f64>, Vec<usize>) {
    match value {
        Value::Array(items) => {
            let parts: Vec<_> = items.iter().map(floats).collect();
            let mut shape = vec![items.len()];
            shape.extend(parts.first().map(|(_, inner)| inner.as_slice()).unwrap_or_default());
            (parts.into_iter().flat_map(|(numbers, _)| numbers).collect(), shape)
        }
        number => {
            (vec![number.as_f64().unwrap_or_else(|| panic!("not a number: {number}"))], vec![])
        }
    }
}

/// The numbers of a nested list, row-major.
pub fn flat(value: &Value) -> Vec<f64> {
    floats(value).0
}

/// A list of whole numbers.
pub fn indices(value: &Value) -> Vec<usize> {
    flat(value).into_iter().map(|x| x as usize).collect()
}

/// A 0/1 mask.
pub fn mask(value: &Value) -> Vec<bool> {
    flat(value).into_iter().map(|x| x != 0.0).collect()
}

/// A nested list as a tensor.
pub fn tensor(value: &Value, dtype: DType) -> Tensor {
    let (numbers, shape) = floats(value);
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A tensor's values, row-major.
pub fn host(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// How close two arrays must be: max |got − want| ≤ tolerance · max(floor, max |want|).
///
/// f64: 1e-12 relative to the largest entry of the array (a single entry may be a difference of numbers of
/// that size), with a floor of 1e-3. f32: 1e-6, relative above 1 and absolute below.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    relative: f64,
    floor: f64,
}

pub const F64: Tolerance = Tolerance { relative: 1e-12, floor: 1e-3 };
/// Gradients that were recorded as central differences.
pub const DIFFERENCES: Tolerance = Tolerance { relative: 1e-6, floor: 1e-3 };
pub const F32: Tolerance = Tolerance { relative: 1e-6, floor: 1.0 };

impl Tolerance {
    /// The same, for values that went through numbers as large as `size`.
    pub fn above(self, size: f64) -> Self {
        Self { floor: self.floor.max(size), ..self }
    }
}

#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: Tolerance) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let scale = want.iter().fold(tolerance.floor, |scale, w| scale.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(
            error <= tolerance.relative * scale,
            "{what}[{i}]: got {g}, want {w}, error {error:e}"
        );
    }
}

/// log π(id) and entropy (nats) of z = logits / temperature, [.., V] → [..], from differentiable ops alone.
///
/// The authors' formulas, logsumexp(z) − Σ p·z and z[id] − logsumexp(z): in f32 the entropy of a confident
/// token loses digits to cancellation, and golden files recorded in f32 hold those very digits.
pub fn logprob_entropy(
    logits: &Tensor,
    ids: &Tensor,
    temperature: f64,
) -> Result<(Tensor, Tensor)> {
    let z = (logits / temperature)?;
    let max = z.max_keepdim(D::Minus1)?.detach();
    let lse = (z.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
    let p = candle_nn::ops::softmax(&z, D::Minus1)?;
    let entropy = (&lse - (p * &z)?.sum_keepdim(D::Minus1)?)?.squeeze(D::Minus1)?;
    let log_prob = (z.gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)? - lse)?.squeeze(D::Minus1)?;
    Ok((log_prob, entropy))
}

/// A history that holds fixed references per turn index.
pub struct Fixed(pub Vec<Option<f64>>);

impl State for Fixed {}

impl EntropyHistory for Fixed {
    fn reference(&self, turn: usize) -> Result<Option<f64>> {
        self.0.get(turn).copied().ok_or_else(|| Error::setting("turn", turn, "beyond the history"))
    }
    fn record(&mut self, _: &StepEntropy) -> Result<()> {
        Ok(())
    }
}

/// Numbers in [low, high), the same for the same seed.
pub fn random(seed: u64, count: usize, low: f64, high: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        low + (high - low) * ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// The gradient of a scalar function by autograd.
pub fn gradient(x: &[f64], shape: &[usize], f: &dyn Fn(&Tensor) -> Result<Tensor>) -> Vec<f64> {
    let x = Var::from_tensor(&Tensor::from_slice(x, shape, &Device::Cpu).unwrap()).unwrap();
    let grads = f(x.as_tensor()).unwrap().backward().unwrap();
    grads.get(&x).map_or_else(|| vec![0.0; x.elem_count()], host)
}

/// Asserts that autograd agrees with central differences, f64, to 1e-6 of the largest entry, and that some
/// entry is not zero.
#[track_caller]
pub fn assert_gradient(
    what: &str,
    x: &[f64],
    shape: &[usize],
    f: &dyn Fn(&Tensor) -> Result<Tensor>,
) {
    let value = |x: &[f64]| {
        let x = Tensor::from_slice(x, shape, &Device::Cpu).unwrap();
        f(&x).unwrap().to_scalar::<f64>().unwrap()
    };
    let step = 1e-5;
    let difference = |i: usize| {
        let (mut up, mut down) = (x.to_vec(), x.to_vec());
        up[i] += step;
        down[i] -= step;
        (value(&up) - value(&down)) / (2.0 * step)
    };
    let want: Vec<f64> = (0..x.len()).map(difference).collect();
    assert!(
        want.iter().any(|w| w.abs() > 1e-4),
        "{what}: the gradient vanishes, nothing is tested"
    );
    assert_close(what, &gradient(x, shape, f), &want, DIFFERENCES);
}
