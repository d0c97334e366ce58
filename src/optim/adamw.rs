//! AdamW with decay groups, global-norm clipping, and a state that restarts bit for bit.
//!
//! The moments are f32 whatever the parameter's type, and lie on the parameter's device. A bf16 or
//! f16 parameter has an f32 master copy, because updates that are smaller than its rounding would
//! be lost without one. A saved state can be loaded on another kind of device.

use crate::kernels::cpu::element::Element;
use crate::kernels::cpu::float::with_slice;
use crate::kernels::cpu::optimizer::{adamw, adamw_narrow, AdamWState, AdamWStep};
use crate::kernels::dispatch::on_device;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::gradients::Gradients;
use crate::policy::parameters::Parameters;
use crate::settings::{Decay, NonNegative};
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Hyper-parameters of [`AdamW`] except the learning rate, which is an argument of every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: Decay,
    /// Decay rate of the second moment.
    pub beta2: Decay,
    /// ε, added to the root of the second moment.
    pub eps: NonNegative,
    /// λ, the decoupled weight decay.
    pub weight_decay: NonNegative,
    /// Suffixes of the names of parameters without weight decay.
    pub no_decay: Vec<String>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        let no_decay = vec![".bias".to_owned(), "norm.weight".to_owned()];
        Self {
            beta1: Decay::literal(0.9),
            beta2: Decay::literal(0.999),
            eps: NonNegative::literal(1e-8),
            weight_decay: NonNegative::literal(0.01),
            no_decay,
        }
    }
}

impl AdamWConfig {
    fn decay_of(&self, name: &str) -> f64 {
        if self.no_decay.iter().any(|suffix| name.ends_with(suffix)) {
            0.0
        } else {
            self.weight_decay.get()
        }
    }
}

/// The state of one parameter.
#[derive(Debug)]
struct Memory {
    shape: Vec<usize>,
    state: State,
}

#[derive(Debug)]
enum State {
    Host(AdamWState),
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    Device(crate::kernels::gpu::adamw::State),
}

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
///
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ(1 − ηλ) − η/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + ε).
///
/// The moments are f32. A bf16 or f16 parameter is the rounding of an f32 master copy.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    memory: BTreeMap<String, Memory>,
    time: Duration,
}

impl AdamW {
    /// Creates an optimiser without history.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, memory: BTreeMap::new(), time: Duration::ZERO }
    }

    /// Clears moments and step count, for training on with another loss.
    pub fn reset(&mut self) {
        self.step = 0;
        self.memory.clear();
    }

    /// The number of steps.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The time spent in steps since the optimiser was created or loaded.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Updates every trainable parameter with learning rate `lr`.
    ///
    /// # Errors
    /// The name of a trainable parameter whose gradient is missing, has another shape or is not
    /// finite; [`Error::Setting`] for a learning rate that is negative or not finite. Nothing is
    /// updated then.
    pub fn step(&mut self, parameters: &Parameters, gradients: &Gradients, lr: f64) -> Result<()> {
        self.step_clipped(parameters, gradients, lr, f64::INFINITY).map(|_| ())
    }

    /// Updates with g · min(1, max_norm / ‖g‖) instead of g and returns ‖g‖, the norm over all
    /// parameters together (Pascanu et al. 2013).
    ///
    /// The factor is applied while the gradients are read, without a pass of its own.
    ///
    /// # Errors
    /// Those of [`AdamW::step`]; [`Error::Setting`] if `max_norm` is not positive.
    pub fn step_clipped(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        lr: f64,
        max_norm: f64,
    ) -> Result<f64> {
        if !(lr >= 0.0 && lr.is_finite()) {
            return Err(Error::setting("lr", lr, "must be finite and not negative"));
        }
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::setting("max_norm", max_norm, "must be positive"));
        }
        let began = Instant::now();
        let norm = gradients.check(parameters)?;
        let scale = if norm > max_norm { max_norm / norm } else { 1.0 };
        self.step += 1;
        for (name, var) in parameters.trainable() {
            let Some(grad) = gradients.get(name) else { continue };
            let numbers = self.numbers(name, lr, scale);
            let memory = match self.memory.entry(name.to_owned()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Memory::zero(var)?),
            };
            memory.update(var, grad, numbers)?;
        }
        self.time += began.elapsed();
        Ok(norm)
    }

    fn numbers(&self, name: &str, lr: f64, scale: f64) -> AdamWStep {
        let c = &self.config;
        let beta1 = c.beta1.get();
        let beta2 = c.beta2.get();
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        AdamWStep {
            scale,
            beta1,
            beta2,
            keep: 1.0 - lr * c.decay_of(name),
            rate: lr / correction(beta1),
            root_scale: 1.0 / correction(beta2).sqrt(),
            eps: c.eps.get(),
        }
    }

    /// Writes the state as safetensors, atomically: `step`, and for every parameter
    /// `exp_avg.NAME`, `exp_avg_sq.NAME` and, if it is bf16 or f16, `master.NAME`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, memory) in &self.memory {
            let tensor = |data| Tensor::from_vec(data, memory.shape.as_slice(), &Device::Cpu);
            let AdamWState { moments: [first, second], master } = memory.to_host()?;
            tensors.insert(format!("exp_avg.{name}"), tensor(first)?);
            tensors.insert(format!("exp_avg_sq.{name}"), tensor(second)?);
            if let Some(master) = master {
                tensors.insert(format!("master.{name}"), tensor(master)?);
            }
        }
        tensors.insert("step".to_owned(), Tensor::new(self.step as i64, &Device::Cpu)?);
        save_tensors(path.as_ref(), &tensors)
    }

    /// Reads a state that [`AdamW::save`] wrote for the same trainable parameters.
    ///
    /// # Errors
    /// [`Error::File`] for a truncated file, or for a tensor that is missing, unknown, or has
    /// another shape or dtype; [`Error::Io`].
    pub fn load(
        path: impl AsRef<Path>,
        config: AdamWConfig,
        parameters: &Parameters,
    ) -> Result<Self> {
        let path = path.as_ref();
        let mut optimizer = Self::new(config);
        let mut tensors = load_tensors(path, &Device::Cpu)?;
        let bad = |name: &str, reason: String| Error::file(path, name, reason);
        let step = tensors.remove("step").ok_or_else(|| bad("step", "missing".into()))?;
        let step = step.to_scalar::<i64>().map_err(|e| bad("step", e.to_string()))?;
        optimizer.step = u64::try_from(step).map_err(|e| bad("step", format!("{step}: {e}")))?;
        if step == 0 && tensors.is_empty() {
            return Ok(optimizer);
        }
        for (name, var) in parameters.trainable() {
            let mut take =
                |kind: &str| take_moment(&mut tensors, &format!("{kind}.{name}"), var, path);
            let moments = [take("exp_avg")?, take("exp_avg_sq")?];
            let master = is_narrow(var.dtype()).then(|| take("master")).transpose()?;
            let memory = Memory::from_host(var, AdamWState { moments, master })?;
            optimizer.memory.insert(name.to_owned(), memory);
        }
        match tensors.keys().next() {
            Some(name) => Err(bad(name, "belongs to no trainable parameter".into())),
            None => Ok(optimizer),
        }
    }
}

fn take_moment(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    var: &Var,
    path: &Path,
) -> Result<Vec<f32>> {
    let tensor =
        tensors.remove(name).ok_or_else(|| Error::file(path, name, "the tensor is missing"))?;
    if tensor.dims() != var.dims() || tensor.dtype() != DType::F32 {
        let dtype = tensor.dtype().as_str();
        let reason = format!("is {dtype} {:?}, expected f32 {:?}", tensor.dims(), var.dims());
        return Err(Error::file(path, name, reason));
    }
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Returns true for types that round away small updates.
fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

impl Memory {
    fn zero(var: &Var) -> candle_core::Result<Self> {
        let shape = var.dims().to_vec();
        on_device!(var => {
            let state = crate::kernels::gpu::adamw::State::zero(var)?;
            Ok(Self { shape, state: State::Device(state) })
        });
        let zeros = vec![0.0; var.elem_count()];
        let copy = || with_slice::<f32, _>(var, |x| Ok(x.to_vec()));
        let master = is_narrow(var.dtype()).then(copy).transpose()?;
        Ok(Self {
            shape,
            state: State::Host(AdamWState { moments: [zeros.clone(), zeros], master }),
        })
    }

    fn from_host(var: &Var, state: AdamWState) -> candle_core::Result<Self> {
        let shape = var.dims().to_vec();
        on_device!(var => {
            let state = crate::kernels::gpu::adamw::State::from_host(var, &state)?;
            Ok(Self { shape, state: State::Device(state) })
        });
        Ok(Self { shape, state: State::Host(state) })
    }

    fn to_host(&self) -> candle_core::Result<AdamWState> {
        match &self.state {
            State::Host(state) => Ok(state.clone()),
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            State::Device(state) => state.to_host(),
        }
    }

    fn update(&mut self, var: &Var, grad: &Tensor, numbers: AdamWStep) -> candle_core::Result<()> {
        match &mut self.state {
            State::Host(AdamWState { moments: [m, v], master }) => match master {
                Some(master) if var.dtype() == DType::BF16 => {
                    update_narrow::<bf16>(var, master, grad, [m, v], numbers)
                }
                Some(master) => update_narrow::<f16>(var, master, grad, [m, v], numbers),
                None => with_slice::<f32, _>(grad, |grad| update_wide(var, grad, m, v, numbers)),
            },
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            State::Device(state) => {
                let AdamWStep { scale, beta1, beta2, keep, rate, root_scale, eps } = numbers;
                let numbers = [scale, beta1, beta2, keep, rate, root_scale, eps];
                state.update(var, grad, numbers.map(|x| x as f32))
            }
        }
    }
}

/// Updates an f32 variable in place, and an f64 one through an f32 copy.
fn update_wide(
    var: &Var,
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    numbers: AdamWStep,
) -> candle_core::Result<()> {
    if var.dtype() == DType::F32 {
        return var.inplace_op1(&Update { grad, moments: Mutex::new((m, v)), numbers });
    }
    let mut values = with_slice::<f32, _>(var, |x| Ok(x.to_vec()))?;
    adamw(&mut values, grad, m, v, numbers);
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?.to_dtype(var.dtype())?)
}

/// By way of the f32 copy of a narrow variable, which becomes its rounding.
fn update_narrow<L: Element<Float = f32>>(
    var: &Var,
    master: &mut [f32],
    grad: &Tensor,
    [m, v]: [&mut Vec<f32>; 2],
    numbers: AdamWStep,
) -> candle_core::Result<()> {
    let values = with_slice::<L, _>(grad, |grad| Ok(adamw_narrow(master, grad, m, v, numbers)))?;
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)
}

/// The update as candle's in-place operation on a variable's storage.
struct Update<'a> {
    grad: &'a [f32],
    moments: Mutex<(&'a mut [f32], &'a mut [f32])>,
    numbers: AdamWStep,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("adamw: a contiguous f32 variable is required");
        };
        let mut moments = self.moments.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (m, v) = &mut *moments;
        adamw(&mut data[start..end], self.grad, m, v, self.numbers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::DecoderConfig;
    use crate::policy::decoder::Decoder;

    const BIAS: &str = "model.layers.0.self_attn.q_proj.bias";
    const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

    fn parameters(dtype: DType) -> Parameters {
        Parameters::init(&DecoderConfig::tiny(20), 3, dtype, &Device::Cpu).unwrap()
    }

    fn gradients(parameters: &Parameters, row: &[u32]) -> Gradients {
        let decoder = Decoder::new(&DecoderConfig::tiny(20), parameters).unwrap();
        let loss = decoder.forward_packed(&[row]).unwrap().powf(3.0).unwrap().sum_all().unwrap();
        Gradients::of(&loss, parameters).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    fn bits(parameters: &Parameters) -> Vec<u64> {
        parameters.iter().flat_map(|(_, var)| values(var)).map(f64::to_bits).collect()
    }

    /// The published algorithm in double precision, written step by step.
    fn reference(x: &mut [f64], grads: &[Vec<f64>], lrs: &[f64], c: &AdamWConfig, decay: f64) {
        let mut m = vec![0.0; x.len()];
        let mut v = vec![0.0; x.len()];
        let beta1 = c.beta1.get();
        let beta2 = c.beta2.get();
        let eps = c.eps.get();
        for (t, (grad, lr)) in grads.iter().zip(lrs).enumerate() {
            for i in 0..x.len() {
                x[i] -= lr * decay * x[i];
                m[i] = beta1 * m[i] + (1.0 - beta1) * grad[i];
                v[i] = beta2 * v[i] + (1.0 - beta2) * grad[i] * grad[i];
                let m_hat = m[i] / (1.0 - beta1.powi(t as i32 + 1));
                let v_hat = v[i] / (1.0 - beta2.powi(t as i32 + 1));
                x[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            }
        }
    }

    #[test]
    fn adamw_follows_the_published_algorithm() {
        for dtype in [DType::F32, DType::F64] {
            let p = parameters(dtype);
            let config = AdamWConfig {
                weight_decay: NonNegative::literal(0.3),
                beta2: Decay::literal(0.95),
                ..AdamWConfig::default()
            };
            let start: Vec<Vec<f64>> =
                [WEIGHT, BIAS].iter().map(|n| values(p.get(n).unwrap())).collect();
            let mut optimizer = AdamW::new(config.clone());
            let lrs = [1e-2, 3e-2, 2e-2];
            let mut grads = [vec![], vec![]];
            for (i, lr) in lrs.into_iter().enumerate() {
                let g = gradients(&p, &[i as u32, 5, 9]);
                for (all, name) in grads.iter_mut().zip([WEIGHT, BIAS]) {
                    all.push(values(g.get(name).unwrap()));
                }
                optimizer.step(&p, &g, lr).unwrap();
            }
            assert_eq!(optimizer.steps(), 3);
            for ((name, decay), (mut want, grads)) in
                [(WEIGHT, 0.3), (BIAS, 0.0)].into_iter().zip(start.into_iter().zip(&grads))
            {
                reference(&mut want, grads, &lrs, &config, decay);
                for (got, want) in values(p.get(name).unwrap()).into_iter().zip(want) {
                    assert!((got - want).abs() < 2e-6, "{dtype:?} {name}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn a_narrow_parameter_is_the_rounding_of_its_f32_copy() {
        let numbers = AdamWStep {
            scale: 0.5,
            beta1: 0.9,
            beta2: 0.99,
            keep: 1.0 - 1e-5,
            rate: 1e-3,
            root_scale: 2.0,
            eps: 1e-8,
        };
        let normal = || Tensor::randn(0f32, 1.0, (3, 20_001), &Device::Cpu).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let narrow = Var::from_tensor(&normal().to_dtype(dtype).unwrap()).unwrap();
            let wide = Var::from_tensor(&narrow.to_dtype(DType::F32).unwrap()).unwrap();
            let mut memories = [&narrow, &wide].map(|var| Memory::zero(var).unwrap());
            for _ in 0..3 {
                let grad = normal().to_dtype(dtype).unwrap();
                memories[0].update(&narrow, &grad, numbers).unwrap();
                memories[1].update(&wide, &grad.to_dtype(DType::F32).unwrap(), numbers).unwrap();
                assert!(values(&narrow) == values(&wide.to_dtype(dtype).unwrap()), "{dtype:?}");
            }
            assert_ne!(values(&narrow), values(&wide), "nothing was rounded");
        }
    }

    #[test]
    fn a_saved_optimizer_continues_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let a = parameters(DType::F32);
        let b = parameters(DType::F32);
        let mut one = AdamW::new(AdamWConfig::default());
        let step = |o: &mut AdamW, p: &Parameters, i: u32| {
            o.step(p, &gradients(p, &[i, 5]), 1e-2).unwrap()
        };
        for i in 0..4 {
            step(&mut one, &a, i);
        }
        let mut two = AdamW::new(AdamWConfig::default());
        for i in 0..2 {
            step(&mut two, &b, i);
        }
        two.save(&path).unwrap();
        let mut three = AdamW::load(&path, AdamWConfig::default(), &b).unwrap();
        assert_eq!(three.steps(), 2);
        for i in 2..4 {
            step(&mut three, &b, i);
        }
        assert_eq!(bits(&a), bits(&b));
    }

    #[test]
    fn broken_optimizer_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let mut p = parameters(DType::F32);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        optimizer.step(&p, &gradients(&p, &[1, 2]), 1e-3).unwrap();
        optimizer.save(&path).unwrap();
        let load =
            |p: &Parameters| AdamW::load(&path, AdamWConfig::default(), p).unwrap_err().to_string();
        p.set_trainable(BIAS, false).unwrap();
        assert!(load(&p).contains(BIAS));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(load(&p).contains("optimizer.safetensors"));
        let mut tensors =
            BTreeMap::from([("step".to_owned(), Tensor::new(1i64, &Device::Cpu).unwrap())]);
        save_tensors(&path, &tensors).unwrap();
        assert!(load(&p).contains("exp_avg.model.embed_tokens.weight"));
        tensors.insert("step".to_owned(), Tensor::new(-1i64, &Device::Cpu).unwrap());
        save_tensors(&path, &tensors).unwrap();
        assert!(load(&p).contains("step") && load(&p).contains("-1"));
    }

    #[test]
    fn a_missing_or_non_finite_gradient_updates_nothing_and_is_named() {
        let p = parameters(DType::F32);
        let before = bits(&p);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let none = optimizer.step(&p, &Gradients::default(), 1e-3).unwrap_err().to_string();
        assert!(none.contains("model.embed_tokens.weight"), "{none}");
        let mut bad = gradients(&p, &[1, 2]);
        bad.scale(f64::INFINITY).unwrap();
        assert!(optimizer.step(&p, &bad, 1e-3).unwrap_err().to_string().contains("gradient"));
        assert!(optimizer.step(&p, &gradients(&p, &[1, 2]), f64::NAN).is_err());
        assert_eq!((bits(&p), optimizer.steps()), (before, 0));
    }

    #[test]
    fn a_clipped_step_is_the_step_with_the_scaled_gradients() {
        let [a, b, c] = [(); 3].map(|()| parameters(DType::F32));
        let mut g = gradients(&a, &[1, 2, 3]);
        let direct: f64 = g.iter().flat_map(|(_, t)| values(t)).map(|x| x * x).sum::<f64>().sqrt();
        // A large ε, so that the size of the gradient matters.
        let eps = NonNegative::literal(1.0);
        let new = || AdamW::new(AdamWConfig { eps, ..AdamWConfig::default() });
        let norm = new().step_clipped(&a, &g, 1.0, direct / 4.0).unwrap();
        assert!((norm / direct - 1.0).abs() < 1e-12);
        new().step_clipped(&c, &g, 1.0, direct * 4.0).unwrap();
        assert!(new().step_clipped(&c, &g, 1.0, 0.0).is_err());
        new().step(&b, &g, 1.0).unwrap();
        assert_eq!(bits(&b), bits(&c));
        assert_ne!(bits(&a), bits(&b));
        let b = parameters(DType::F32);
        g.scale(0.25).unwrap();
        assert!((g.global_norm().unwrap() - direct / 4.0).abs() < 1e-9 * direct);
        new().step(&b, &g, 1.0).unwrap();
        for ((name, a), (_, b)) in a.iter().zip(b.iter()) {
            for (a, b) in values(a).into_iter().zip(values(b)) {
                assert!((a - b).abs() < 1e-6, "{name}: {a} against {b}");
            }
        }
    }

    #[test]
    fn settings_are_checked() {
        for bad in
            ["beta1 = 1.0", "beta2 = -0.1", "eps = nan", "weight_decay = -1.0", "decay = 1.0"]
        {
            assert!(toml::from_str::<AdamWConfig>(bad).is_err(), "{bad}");
        }
    }
}
