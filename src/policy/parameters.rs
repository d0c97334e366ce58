//! The named parameters of a decoder: initialised, frozen, saved, loaded.
//!
//! Parameters are separate from the model that uses them. Optimisers, checkpoints and gradients
//! work on names and variables and need not know the architecture; a decoder, its copy without
//! adapters and a critic can share weights.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::lora::{is_adapter, LoraConfig};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;
use std::path::Path;

/// A sorted map from Hugging Face names (`model.layers.0.self_attn.q_proj.weight`) to variables.
///
/// Iteration is in the order of the names, so sums and draws over all parameters are reproducible.
/// Parameters are trainable until they are frozen; frozen ones get no gradient, and none is
/// computed for them.
#[derive(Debug, Clone)]
pub struct Parameters {
    entries: BTreeMap<String, Entry>,
    /// Settings of the LoRA adapters, whose A and B are entries as well.
    pub(crate) lora: Option<LoraConfig>,
}

#[derive(Debug, Clone)]
struct Entry {
    var: Var,
    trainable: bool,
}

/// Draws a standard normal number (Box & Muller 1958).
fn normal(rng: &mut impl RngCore) -> f64 {
    let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let a = uniform(rng.next_u64());
    let b = uniform(rng.next_u64());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Draws the initial values of one parameter: norms 1, biases 0, weights N(0, `std`²).
fn initial_values(name: &str, count: usize, std: f64, stream: &Stream, index: usize) -> Vec<f64> {
    if name.ends_with("norm.weight") {
        return vec![1.0; count];
    }
    if name.ends_with(".bias") {
        return vec![0.0; count];
    }
    let mut rng = stream.generator(index as u64);
    (0..count).map(|_| std * normal(&mut rng)).collect()
}

impl Parameters {
    /// Draws initial parameters from a seed: weights N(0, initializer_range²), biases 0, norms 1.
    ///
    /// # Errors
    /// An invalid configuration, or a dtype that is not a float.
    pub fn init(config: &DecoderConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        Self::init_from(config, &Stream::new(seed, Purpose::Init, 0, 0, 0), dtype, device)
    }

    /// [`Parameters::init`] with draws from `stream`.
    pub(crate) fn init_from(
        config: &DecoderConfig,
        stream: &Stream,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let mut tensors = BTreeMap::new();
        for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
            let values = initial_values(
                &name,
                shape.iter().product(),
                config.initializer_range,
                stream,
                index,
            );
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)?;
            tensors.insert(name, tensor);
        }
        Self::from_tensors(config, tensors)
    }

    /// Creates parameters from named tensors, all trainable.
    ///
    /// # Errors
    /// A missing or unknown name, a wrong shape, or dtypes that differ or are not floats.
    pub fn from_tensors(config: &DecoderConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let dtype = tensors.values().next().map_or(DType::F32, Tensor::dtype);
        check(config, &tensors, dtype)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))?;
        let entry = |(name, tensor): (String, Tensor)| {
            Ok((name, Entry { var: Var::from_tensor(&tensor)?, trainable: true }))
        };
        Ok(Self { entries: tensors.into_iter().map(entry).collect::<Result<_>>()?, lora: None })
    }

    /// Reads a `model.safetensors` that holds exactly the configuration's tensors, stored in
    /// `dtype`.
    ///
    /// # Errors
    /// An unreadable or truncated file, or a tensor (by name) that is missing, unknown, or of the
    /// wrong shape or dtype.
    pub fn load(
        path: impl AsRef<Path>,
        config: &DecoderConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let path = path.as_ref();
        let tensors = load_tensors(path, device)?;
        check(config, &tensors, dtype).map_err(|(name, reason)| Error::file(path, name, reason))?;
        Self::from_tensors(config, tensors)
    }

    /// Writes `model.safetensors` atomically, without LoRA adapters. Equal values give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_tensors(path.as_ref(), &self.base_tensors())
    }

    /// [`Parameters::tensors`] without LoRA adapters.
    pub(crate) fn base_tensors(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = self.tensors();
        tensors.retain(|name, _| !is_adapter(name));
        tensors
    }

    /// Adds a trainable parameter.
    pub(crate) fn insert(&mut self, name: String, value: &Tensor) -> Result<()> {
        self.entries.insert(name, Entry { var: Var::from_tensor(value)?, trainable: true });
        Ok(())
    }

    /// Removes a parameter, if it exists.
    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Detached tensors by name, sharing storage with the variables.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.iter().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect()
    }

    /// Copies the values of `other` into these variables.
    ///
    /// # Errors
    /// Parameters of another model.
    pub fn assign(&self, other: &Parameters) -> Result<()> {
        for (name, var) in self.iter() {
            var.set(&other.get(name)?.as_detached_tensor())?;
        }
        Ok(())
    }

    /// Writes only the trainable parameters, atomically. Equal values give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_trainable(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors =
            self.trainable().map(|(name, var)| (name.to_owned(), var.as_detached_tensor()));
        save_tensors(path.as_ref(), &tensors.collect())
    }

    /// Loads the values that [`Parameters::save_trainable`] wrote into these variables.
    ///
    /// # Errors
    /// An unreadable or truncated file, or a tensor (by name) that is missing, unknown, or of the
    /// wrong shape or dtype. After an error no value has changed.
    pub fn load_trainable(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut tensors = load_tensors(path, &Device::Cpu)?;
        let mut pairs = Vec::new();
        for (name, var) in self.trainable() {
            let tensor = tensors.remove(name);
            let tensor = tensor.ok_or_else(|| Error::file(path, name, "the tensor is missing"))?;
            if (tensor.dims(), tensor.dtype()) != (var.dims(), var.dtype()) {
                let [got, need] = [(tensor.dtype(), tensor.dims()), (var.dtype(), var.dims())];
                return Err(Error::file(
                    path,
                    name,
                    format!("is {got:?}, the model needs {need:?}"),
                ));
            }
            pairs.push((var, tensor));
        }
        if let Some(name) = tensors.keys().next() {
            return Err(Error::file(path, name, "no trainable parameter has this name"));
        }
        for (var, tensor) in pairs {
            var.set(&tensor.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// Makes a deep copy, for example for a frozen reference policy.
    ///
    /// # Errors
    /// A failed tensor copy.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = |(name, e): (&String, &Entry)| {
            Ok((
                name.clone(),
                Entry { var: Var::from_tensor(&e.var.as_detached_tensor().copy()?)?, ..*e },
            ))
        };
        Ok(Self {
            entries: self.entries.iter().map(copy).collect::<Result<_>>()?,
            lora: self.lora.clone(),
        })
    }

    /// Returns the variable called `name`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn get(&self, name: &str) -> Result<&Var> {
        let entry = self.entries.get(name).ok_or_else(|| unknown(name))?;
        Ok(&entry.var)
    }

    /// All variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().map(|(name, e)| (name.as_str(), &e.var))
    }

    /// The trainable variables in the order of their names.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().filter(|(_, e)| e.trainable).map(|(name, e)| (name.as_str(), &e.var))
    }

    /// Returns true if `name` is trainable.
    ///
    /// # Errors
    /// An unknown name.
    pub fn is_trainable(&self, name: &str) -> Result<bool> {
        self.entries.get(name).map(|e| e.trainable).ok_or_else(|| unknown(name))
    }

    /// Freezes or unfreezes `name`. Decoders that already exist are not affected.
    ///
    /// # Errors
    /// An unknown name.
    pub fn set_trainable(&mut self, name: &str, trainable: bool) -> Result<()> {
        let entry = self.entries.get_mut(name).ok_or_else(|| unknown(name))?;
        entry.trainable = trainable;
        Ok(())
    }

    /// Freezes all parameters.
    pub(crate) fn freeze(&mut self) {
        for entry in self.entries.values_mut() {
            entry.trainable = false;
        }
    }

    /// Requires exactly the configuration's names and shapes.
    pub(crate) fn check_fits(&self, config: &DecoderConfig) -> Result<()> {
        let dtype = self.iter().next().map_or(DType::F32, |(_, var)| var.dtype());
        check(config, &self.tensors(), dtype)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))
    }

    /// Number of scalars, frozen ones included.
    pub fn count(&self) -> usize {
        self.iter().map(|(_, var)| var.elem_count()).sum()
    }
}

fn unknown(name: &str) -> Error {
    Error::setting("parameter", name, "no parameter has this name")
}

/// Requires exactly the configuration's tensors, in `dtype`. The error is (tensor, reason).
fn check(
    config: &DecoderConfig,
    tensors: &BTreeMap<String, Tensor>,
    dtype: DType,
) -> Result<(), (String, String)> {
    let shapes: BTreeMap<_, _> = config.parameter_shapes().into_iter().collect();
    if let Some(name) = tensors.keys().find(|name| !shapes.contains_key(*name)) {
        return Err((name.clone(), "the configured model has no such tensor".to_owned()));
    }
    for (name, shape) in shapes {
        let Some(tensor) = tensors.get(&name) else {
            return Err((name, "the tensor is missing".to_owned()));
        };
        if tensor.dims() != shape {
            return Err((
                name,
                format!("has shape {:?}, the model needs {shape:?}", tensor.dims()),
            ));
        }
        if tensor.dtype() != dtype || !dtype.is_float() {
            return Err((
                name,
                format!("has dtype {}, {} is required", tensor.dtype().as_str(), dtype.as_str()),
            ));
        }
    }
    Ok(())
}
