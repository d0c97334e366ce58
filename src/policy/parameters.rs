//! The named parameters of a decoder: initialised, frozen, saved, loaded.
//!
//! Parameters are separate from the model that uses them. Optimisers, checkpoints and gradients
//! work on names and variables and need not know the architecture; a decoder, its copy without
//! adapters and a critic can share weights.

use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::quantized::weight::Weight;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::lora::{is_adapter, LoraConfig};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeMap;
use std::path::Path;

/// A sorted map from Hugging Face names (`model.layers.0.self_attn.q_proj.weight`) to variables and
/// frozen quantised matrices.
///
/// Iteration is in the order of the names, so sums and draws over all parameters are reproducible.
/// Variables are trainable until they are frozen; frozen ones get no gradient, and none is computed
/// for them. A quantised matrix ([`Parameters::with_quantized`]) is always frozen.
#[derive(Debug, Clone)]
pub struct Parameters {
    entries: BTreeMap<String, Entry>,
    /// Settings of the LoRA adapters, whose A and B are entries as well.
    pub(crate) lora: Option<LoraConfig>,
}

#[derive(Debug, Clone)]
enum Entry {
    Variable { var: Var, trainable: bool },
    Quantized(QuantizedMatrix),
}

impl Entry {
    fn trainable(var: Var) -> Self {
        Self::Variable { var, trainable: true }
    }

    /// The parameter as a weight; frozen ones are detached.
    fn weight(&self) -> Weight {
        match self {
            Self::Variable { var, trainable: true } => Weight::Dense(var.as_tensor().clone()),
            Self::Variable { var, trainable: false } => Weight::Dense(var.as_detached_tensor()),
            Self::Quantized(matrix) => Weight::Quantized(matrix.clone()),
        }
    }
}

impl Parameters {
    /// Creates parameters from named tensors, all trainable.
    ///
    /// # Errors
    /// A missing or unknown name, a wrong shape, or dtypes that differ or are not floats.
    pub fn from_tensors(config: &DecoderConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let dtype = tensors.values().next().map_or(DType::F32, Tensor::dtype);
        check(config, facts(&tensors), dtype)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))?;
        let entry = |(name, tensor): (String, Tensor)| {
            Ok((name, Entry::trainable(Var::from_tensor(&tensor)?)))
        };
        Ok(Self { entries: tensors.into_iter().map(entry).collect::<Result<_>>()?, lora: None })
    }

    /// Creates frozen parameters, some of which stay quantised: the base of QLoRA (Dettmers et al.
    /// 2023). The tensors (norms, biases and any other weights) must be f32 on the CPU.
    ///
    /// All parameters are frozen. [`Parameters::with_lora`] adds something to train.
    ///
    /// # Errors
    /// A name that is missing, unknown or in both maps, a wrong shape, a tensor that is not f32, or
    /// one that is not on the CPU.
    pub fn with_quantized(
        config: &DecoderConfig,
        tensors: BTreeMap<String, Tensor>,
        quantized: BTreeMap<String, QuantizedMatrix>,
    ) -> Result<Self> {
        if let Some(name) = quantized.keys().find(|&name| tensors.contains_key(name)) {
            return Err(Error::setting(name, "tensor", "is given twice: dense and quantised"));
        }
        if let Some(tensor) = tensors.values().find(|tensor| !tensor.device().is_cpu()) {
            let reason = "must be cpu for quantised weights";
            return Err(Error::setting("model.device", format!("{:?}", tensor.device()), reason));
        }
        let dense = tensors.into_iter().map(|(name, tensor)| (name, tensor.into()));
        let blocks = quantized.into_iter().map(|(name, matrix)| (name, matrix.into()));
        let weights: BTreeMap<String, Weight> = dense.chain(blocks).collect();
        let facts = weights.iter().map(|(name, weight)| (name, (weight.dims(), weight.dtype())));
        check(config, facts.collect(), DType::F32)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))?;
        let entry = |(name, weight)| {
            let entry = match weight {
                Weight::Dense(tensor) => {
                    Entry::Variable { var: Var::from_tensor(&tensor)?, trainable: false }
                }
                Weight::Quantized(matrix) => Entry::Quantized(matrix),
            };
            Ok((name, entry))
        };
        Ok(Self { entries: weights.into_iter().map(entry).collect::<Result<_>>()?, lora: None })
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
        check(config, facts(&tensors), dtype)
            .map_err(|(name, reason)| Error::file(path, name, reason))?;
        Self::from_tensors(config, tensors)
    }

    /// Writes `model.safetensors` atomically, without LoRA adapters. Equal values give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_tensors(path.as_ref(), &self.base_weights())
    }

    /// All parameters except LoRA adapters, sharing storage. Quantised ones are saved as f32.
    pub(crate) fn base_weights(&self) -> BTreeMap<String, Weight> {
        let base = self.entries.iter().filter(|(name, _)| !is_adapter(name));
        base.map(|(name, entry)| (name.clone(), entry.weight())).collect()
    }

    /// Returns the parameter called `name` as a weight; a frozen one is detached.
    ///
    /// # Errors
    /// An unknown name.
    pub(crate) fn weight(&self, name: &str) -> Result<Weight> {
        self.entries.get(name).map(Entry::weight).ok_or_else(|| unknown(name))
    }

    /// Returns the variable called `name` as a tensor; a frozen one is detached.
    ///
    /// # Errors
    /// See [`Parameters::get`].
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor> {
        let var = self.get(name)?;
        let tensor = var.as_tensor().clone();
        Ok(if self.is_trainable(name)? { tensor } else { tensor.detach() })
    }

    /// Adds a trainable parameter.
    pub(crate) fn insert(&mut self, name: String, value: &Tensor) -> Result<()> {
        self.entries.insert(name, Entry::trainable(Var::from_tensor(value)?));
        Ok(())
    }

    /// Removes a parameter, if it exists.
    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Detached tensors of the variables by name, sharing storage with them.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.iter().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect()
    }

    /// Copies the values of `other` into these variables.
    ///
    /// # Errors
    /// Parameters of another model, or other quantised weights, which cannot be replaced.
    pub fn assign(&self, other: &Parameters) -> Result<()> {
        for (name, matrix) in self.quantized() {
            if !matches!(other.weight(name)?, Weight::Quantized(theirs) if theirs == *matrix) {
                let reason = "is frozen and cannot take other values";
                return Err(Error::setting(name, format!("{matrix:?}"), reason));
            }
        }
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

    /// Makes a deep copy, for example for a frozen reference policy. Quantised matrices, which
    /// never change, are shared.
    ///
    /// # Errors
    /// A failed tensor copy.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = |(name, entry): (&String, &Entry)| {
            let entry = match entry {
                Entry::Variable { var, trainable } => Entry::Variable {
                    var: Var::from_tensor(&var.as_detached_tensor().copy()?)?,
                    trainable: *trainable,
                },
                Entry::Quantized(matrix) => Entry::Quantized(matrix.clone()),
            };
            Ok((name.clone(), entry))
        };
        Ok(Self {
            entries: self.entries.iter().map(copy).collect::<Result<_>>()?,
            lora: self.lora.clone(),
        })
    }

    /// Returns the variable called `name`.
    ///
    /// # Errors
    /// An unknown name, or a quantised parameter, which is no variable.
    pub fn get(&self, name: &str) -> Result<&Var> {
        match self.entries.get(name).ok_or_else(|| unknown(name))? {
            Entry::Variable { var, .. } => Ok(var),
            Entry::Quantized(matrix) => Err(frozen(name, matrix)),
        }
    }

    /// All variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Variable { var, .. } => Some((name.as_str(), var)),
            Entry::Quantized(_) => None,
        })
    }

    /// The trainable variables in the order of their names.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Variable { var, trainable: true } => Some((name.as_str(), var)),
            _ => None,
        })
    }

    /// The quantised matrices in the order of their names.
    pub fn quantized(&self) -> impl Iterator<Item = (&str, &QuantizedMatrix)> {
        self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Variable { .. } => None,
            Entry::Quantized(matrix) => Some((name.as_str(), matrix)),
        })
    }

    /// Returns true if `name` is trainable.
    ///
    /// # Errors
    /// An unknown name.
    pub fn is_trainable(&self, name: &str) -> Result<bool> {
        let entry = self.entries.get(name).ok_or_else(|| unknown(name))?;
        Ok(matches!(entry, Entry::Variable { trainable: true, .. }))
    }

    /// Freezes or unfreezes `name`. Decoders that already exist are not affected.
    ///
    /// # Errors
    /// An unknown name, or a quantised parameter to unfreeze.
    pub fn set_trainable(&mut self, name: &str, value: bool) -> Result<()> {
        match self.entries.get_mut(name).ok_or_else(|| unknown(name))? {
            Entry::Variable { trainable, .. } => *trainable = value,
            Entry::Quantized(matrix) if value => return Err(frozen(name, matrix)),
            Entry::Quantized(_) => {}
        }
        Ok(())
    }

    /// Freezes all parameters.
    pub(crate) fn freeze(&mut self) {
        for entry in self.entries.values_mut() {
            if let Entry::Variable { trainable, .. } = entry {
                *trainable = false;
            }
        }
    }

    /// Requires exactly the configuration's names and shapes.
    pub(crate) fn check_fits(&self, config: &DecoderConfig) -> Result<()> {
        let dtype = self.iter().next().map_or(DType::F32, |(_, var)| var.dtype());
        let fact = |(name, entry): (_, &Entry)| {
            let weight = entry.weight();
            (name, (weight.dims(), weight.dtype()))
        };
        check(config, self.entries.iter().map(fact).collect(), dtype)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))
    }

    /// Number of scalars, frozen ones included.
    pub fn count(&self) -> usize {
        self.entries.values().map(|entry| entry.weight().elem_count()).sum()
    }
}

fn unknown(name: &str) -> Error {
    Error::setting("parameter", name, "no parameter has this name")
}

fn frozen(name: &str, matrix: &QuantizedMatrix) -> Error {
    let reason = "is quantised: it has no variable and cannot be trained; LoRA adapters can";
    Error::setting(name, format!("{matrix:?}"), reason)
}

/// Shapes and types by name.
type Facts<'a> = BTreeMap<&'a String, (Vec<usize>, DType)>;

fn facts(tensors: &BTreeMap<String, Tensor>) -> Facts<'_> {
    tensors.iter().map(|(name, t)| (name, (t.dims().to_vec(), t.dtype()))).collect()
}

/// Requires exactly the configuration's tensors, in `dtype`. The error is (tensor, reason).
fn check(config: &DecoderConfig, found: Facts<'_>, dtype: DType) -> Result<(), (String, String)> {
    let shapes: BTreeMap<_, _> = config.parameter_shapes().into_iter().collect();
    if let Some(name) = found.keys().find(|name| !shapes.contains_key(**name)) {
        return Err(((*name).clone(), "the configured model has no such tensor".to_owned()));
    }
    for (name, shape) in shapes {
        let Some((dims, of)) = found.get(&name) else {
            return Err((name, "the tensor is missing".to_owned()));
        };
        if *dims != shape {
            return Err((name, format!("has shape {dims:?}, the model needs {shape:?}")));
        }
        if *of != dtype || !dtype.is_float() {
            let reason = format!("has dtype {}, {} is required", of.as_str(), dtype.as_str());
            return Err((name, reason));
        }
    }
    Ok(())
}
