//! Writes a model as a GGUF file for llama.cpp.
//!
//! A model that was read from a GGUF file keeps that file's metadata. For other checkpoints it is
//! made from the configuration and `tokenizer.json`.

use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::rope::RopeScaling;
use crate::policy::gguf::header::Header;
use crate::policy::gguf::names::{architecture, gguf_name, ROPE_FACTORS};
use crate::policy::gguf::rope::divisors_of;
use crate::policy::gguf::tensors::{reordered, rotated_heads};
use crate::policy::gguf::write::{write, Planned};
use crate::policy::parameters::Parameters;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// The element type of the matrices of a written GGUF file. Vectors are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GgufType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Blocks of 32 integers of 8 bits with one scale in f16. Rows that are not a multiple of 32
    /// long are written in f16.
    Q8_0,
}

impl GgufType {
    /// llama.cpp's number of a file of mostly this type.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    fn of(self, shape: &[usize]) -> GgmlDType {
        match (self, shape) {
            (_, [_]) | (Self::F32, _) => GgmlDType::F32,
            (Self::Q8_0, [.., row]) if row.is_multiple_of(GgmlDType::Q8_0.block_size()) => {
                GgmlDType::Q8_0
            }
            _ => GgmlDType::F16,
        }
    }
}

/// Writes parameters and metadata.
///
/// # Errors
/// Parameters of another model, a number that f16 cannot hold, or a file that cannot be written.
pub(crate) fn write_model(
    path: &Path,
    config: &DecoderConfig,
    parameters: &Parameters,
    mut metadata: Vec<(String, Value)>,
    kind: GgufType,
) -> Result<()> {
    parameters.check_fits(config)?;
    metadata.push(("general.file_type".to_owned(), Value::U32(kind.file_type())));
    metadata.push(("general.quantization_version".to_owned(), Value::U32(2)));
    let (_, divisors) = written_scaling(config, architecture(config.family));
    let divisors = divisors.map(|list| (ROPE_FACTORS.to_owned(), list));
    let mut shapes = config.parameter_shapes();
    shapes.extend(divisors.iter().map(|(name, list)| (name.clone(), vec![list.len()])));
    let plan = |(parameter, shape): &(String, Vec<usize>)| Planned {
        name: gguf_name(parameter),
        shape: shape.clone(),
        dtype: kind.of(shape),
    };
    let planned: Vec<Planned> = shapes.iter().map(plan).collect();
    write(path, &metadata, &planned, |index, planned| {
        let (parameter, shape) = &shapes[index];
        let tensor = match &divisors {
            Some((name, list)) if name == parameter => {
                Tensor::from_slice(list, list.len(), &Device::Cpu)?
            }
            _ => parameters.weight(parameter)?.to_tensor()?,
        };
        let bytes = bytes(&tensor, planned)?;
        Ok(match rotated_heads(config, parameter) {
            Some(heads) => {
                reordered(&bytes, shape[0], shape[0] / heads, |at, half| at % 2 * half + at / 2)
            }
            None => bytes,
        })
    })
}

/// The bytes of a tensor in the planned type.
fn bytes(tensor: &Tensor, planned: &Planned) -> Result<Vec<u8>> {
    let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
    match planned.dtype {
        GgmlDType::F32 => {
            Ok(values.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect())
        }
        GgmlDType::F16 => {
            let values = values.to_vec1::<f32>()?;
            let narrow = values.iter().map(|&value| half::f16::from_f32(value));
            if let Some(at) = narrow.clone().position(|value| !value.is_finite()) {
                let reason = format!("{} does not fit into f16", values[at]);
                return Err(Error::setting(&*planned.name, "F16", reason));
            }
            Ok(narrow.flat_map(half::f16::to_le_bytes).collect())
        }
        dtype => {
            let rows = values.reshape(planned.shape.as_slice())?;
            Ok(QuantizedMatrix::quantize(&rows, dtype)?.bytes().to_vec())
        }
    }
}

/// Metadata of a file that says something about its own storage, not about the model.
const OF_STORAGE: [&str; 5] = [
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "quantize.",
    "split.",
];

/// The metadata of a file, for a copy of its model.
pub(crate) fn kept_metadata(header: &Header) -> Vec<(String, Value)> {
    let stays = |key: &str| !OF_STORAGE.iter().any(|start| key.starts_with(start));
    let kept = header.metadata.iter().filter(|(key, _)| stays(key));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The metadata of a configuration.
pub(crate) fn config_metadata(config: &DecoderConfig, name: &str) -> Vec<(String, Value)> {
    let prefix = architecture(config.family);
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    let size = |key: &str, value: usize| (format!("{prefix}.{key}"), Value::U32(value as u32));
    let number = |key: &str, value: f64| (format!("{prefix}.{key}"), Value::F32(value as f32));
    let mut metadata = vec![
        text("general.architecture", prefix),
        text("general.type", "model"),
        text("general.name", name),
        size("block_count", config.num_hidden_layers),
        size("context_length", config.max_position_embeddings),
        size("embedding_length", config.hidden_size),
        size("feed_forward_length", config.intermediate_size),
        size("attention.head_count", config.num_attention_heads),
        size("attention.head_count_kv", config.num_key_value_heads),
        size("attention.key_length", config.head_dim()),
        size("attention.value_length", config.head_dim()),
        number("attention.layer_norm_rms_epsilon", config.rms_norm_eps),
        number("rope.freq_base", config.rope_theta),
        size("rope.dimension_count", config.head_dim()),
        size("vocab_size", config.vocab_size),
    ];
    metadata.extend(written_scaling(config, prefix).0);
    metadata
}

/// The keys and the tensor [`ROPE_FACTORS`] that state the scaling of `config`.
fn written_scaling(
    config: &DecoderConfig,
    architecture: &str,
) -> (Vec<(String, Value)>, Option<Vec<f32>>) {
    match config.rope_scaling {
        RopeScaling::None => (Vec::new(), None),
        RopeScaling::Linear { factor } => {
            let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
            let kind = (key("type"), Value::String("linear".to_owned()));
            (vec![kind, (key("factor"), Value::F32(factor as f32))], None)
        }
        RopeScaling::Llama3 { .. } => {
            let divisors = divisors_of(&config.rope_scaling, config.head_dim(), config.rope_theta);
            (Vec::new(), Some(divisors.into_iter().map(|divisor| divisor as f32).collect()))
        }
    }
}
