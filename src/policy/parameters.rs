//! The named parameters of a decoder: initialised, frozen, saved, loaded.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::lora::{is_adapter, LoraConfig};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;
use std::path::Path;

/// An ordered map from Hugging Face names (`model.layers.0.self_attn.q_proj.weight`) to variables.
///
/// The order is the names' own, so everything that walks the parameters is reproducible. A parameter is
/// trainable until it is frozen; frozen ones get no gradient and cost none.
#[derive(Debug, Clone)]
pub struct Parameters {
    entries: BTreeMap<String, Entry>,
    /// Corrections beside the weights, whose A and B are entries as well.
    pub(crate) lora: Option<LoraConfig>,
}

#[derive(Debug, Clone)]
struct Entry {
    var: Var,
    trainable: bool,
}

/// A standard normal draw (Box & Muller 1958).
fn normal(rng: &mut impl RngCore) -> f64 {
    let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let (a, b) = (uniform(rng.next_u64()), uniform(rng.next_u64()));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

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
    /// Seeded initial parameters: weights N(0, initializer_range²), biases 0, norms 1.
    ///
    /// # Errors
    /// An invalid configuration, or a dtype that is not a float.
    pub fn init(config: &DecoderConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        Self::init_from(config, &Stream::new(seed, Purpose::Init, 0, 0, 0), dtype, device)
    }

    /// [`Parameters::init`] with draws of `stream`.
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

    /// Takes tensors under their names, all trainable.
    ///
    /// # Errors
    /// A name that is missing or unknown, a wrong shape, or differing or non-float dtypes.
    pub fn from_tensors(config: &DecoderConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let dtype = tensors.values().next().map_or(DType::F32, Tensor::dtype);
        check(config, &tensors, dtype)
            .map_err(|(name, reason)| Error::setting(name, "tensor", reason))?;
        let entry = |(name, tensor): (String, Tensor)| {
            Ok((name, Entry { var: Var::from_tensor(&tensor)?, trainable: true }))
        };
        Ok(Self { entries: tensors.into_iter().map(entry).collect::<Result<_>>()?, lora: None })
    }

    /// Reads `model.safetensors`: exactly the configuration's tensors, in `dtype`.
    ///
    /// # Errors
    /// An unreadable or truncated file, and a tensor that is missing, unknown, of another shape or another
    /// dtype, by name.
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

    /// Writes `model.safetensors` atomically, without corrections; the same values give the same bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_tensors(path.as_ref(), &self.base_tensors())
    }

    /// [`Parameters::tensors`] without corrections.
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

    /// Takes a parameter out, where there is one of this name.
    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Detached tensors under their names, sharing storage with the variables.
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

    /// Writes the trainable parameters alone, atomically; the same values give the same bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_trainable(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors =
            self.trainable().map(|(name, var)| (name.to_owned(), var.as_detached_tensor()));
        save_tensors(path.as_ref(), &tensors.collect())
    }

    /// Takes over what [`Parameters::save_trainable`] wrote of parameters like these.
    ///
    /// # Errors
    /// An unreadable or truncated file, and a tensor that is missing, unknown, of another shape or another dtype, by name;
    /// nothing is taken over then.
    pub fn load_trainable(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut tensors = load_tensors(path, &Device::Cpu)?;
        let mut pairs = Vec::new();
        for (name, var) in self.trainable() {
            let tensor = tensors.remove(name);
            let tensor = tensor.ok_or_else(|| Error::file(path, name, "the tensor is missing"))?;
            if (tensor.dims(), tensor.dtype()) != (var.dims(), var.dtype()) {
                let [got, need] = [(tensor.dtype(), tensor.dims()), (var.dtype(), var.dims())];
                return Err(Error::file(path, name, format!("{got:?} where {need:?} is needed")));
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

    /// A deep copy, for a frozen reference policy.
    ///
    /// # Errors
    /// A failed copy.
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

    /// The variable called `name`.
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

    /// Whether `name` is trained.
    ///
    /// # Errors
    /// An unknown name.
    pub fn is_trainable(&self, name: &str) -> Result<bool> {
        self.entries.get(name).map(|e| e.trainable).ok_or_else(|| unknown(name))
    }

    /// Freezes or unfreezes `name`; a [`crate::policy::Decoder`] built before does not notice.
    ///
    /// # Errors
    /// An unknown name.
    pub fn set_trainable(&mut self, name: &str, trainable: bool) -> Result<()> {
        let entry = self.entries.get_mut(name).ok_or_else(|| unknown(name))?;
        entry.trainable = trainable;
        Ok(())
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
    Error::setting("parameter", name, "there is no parameter of this name")
}

/// (tensor, what is wrong with it)
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
                format!("shape {:?} where the model needs {shape:?}", tensor.dims()),
            ));
        }
        if tensor.dtype() != dtype || !dtype.is_float() {
            return Err((
                name,
                format!("dtype {} where {} is needed", tensor.dtype().as_str(), dtype.as_str()),
            ));
        }
    }
    Ok(())
}
