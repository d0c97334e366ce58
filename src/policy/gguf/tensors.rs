//! The tensors of a GGUF file, with Hugging Face's names, shapes and order of rows.
//!
//! llama.cpp rotates neighbouring features of a head, the checkpoints of the Llama family features
//! half a head apart. So a GGUF file of that family has the rows of its query and key projections
//! in another order, which is undone here. A row is stored in whole blocks, so quantised rows can
//! be moved too.

use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::quantized::unpack::supports;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::family::Family;
use crate::policy::finite::check_finite_values;
use crate::policy::gguf::header::{Header, TensorInfo};
use crate::policy::gguf::names::{gguf_name, EMBEDDING, ROPE_FACTORS};
use crate::{Error, Result};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Requires the file to have every parameter of the configuration, of its shape, and no others.
///
/// # Errors
/// The tensor and its shape.
pub(crate) fn check_tensors(header: &Header, config: &DecoderConfig) -> Result<()> {
    let mut known = BTreeSet::from([ROPE_FACTORS.to_owned()]);
    for (parameter, shape) in config.parameter_shapes() {
        let name = gguf_name(&parameter);
        let Some(info) = header.tensors.get(&name) else {
            return Err(Error::file(&header.path, name, "the tensor is missing"));
        };
        if info.shape != shape {
            let reason = format!("has shape {:?}, the model needs {shape:?}", info.shape);
            return Err(Error::file(&header.path, name, reason));
        }
        known.insert(name);
    }
    match header.tensors.keys().find(|name| !known.contains(*name)) {
        Some(name) => {
            let reason = "the configured model has no such tensor";
            Err(Error::file(&header.path, name, reason))
        }
        None => Ok(()),
    }
}

/// The float type of the embeddings; f32 if they are quantised.
pub(crate) fn float_type(header: &Header) -> DType {
    match header.tensors.get(EMBEDDING).map(|info| info.dtype) {
        Some(GgmlDType::F16) => DType::F16,
        Some(GgmlDType::BF16) => DType::BF16,
        _ => DType::F32,
    }
}

/// Reads the data of a tensor.
fn read_bytes(header: &Header, name: &str) -> Result<(TensorInfo, Vec<u8>)> {
    let path = &header.path;
    let Some(info) = header.tensors.get(name) else {
        return Err(Error::file(path, name, "the tensor is missing"));
    };
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(info.start))?;
        let mut bytes = Vec::new();
        file.take(info.length).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| Error::io(path, e))?;
    if (bytes.len() as u64) < info.length {
        return Err(Error::file(path, name, "the file was cut while it was read"));
    }
    Ok((info.clone(), bytes))
}

/// A tensor's values in f32.
fn widened(info: &TensorInfo, bytes: Vec<u8>) -> candle_core::Result<Tensor> {
    let raw = |dtype| Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu);
    match info.dtype {
        GgmlDType::F32 => raw(DType::F32),
        GgmlDType::F16 => raw(DType::F16)?.to_dtype(DType::F32),
        GgmlDType::BF16 => raw(DType::BF16)?.to_dtype(DType::F32),
        _ => {
            let matrix = quantized_matrix(info, bytes)?;
            matrix.dequantize()?.reshape(info.shape.as_slice())
        }
    }
}

/// The blocks of a quantised tensor, row after row.
fn quantized_matrix(info: &TensorInfo, bytes: Vec<u8>) -> candle_core::Result<QuantizedMatrix> {
    let row = info.shape.last().copied().unwrap_or(1);
    let rows = info.shape.iter().product::<usize>() / row.max(1);
    QuantizedMatrix::new(info.dtype, bytes, (rows, row))
}

/// Reads the values of a small tensor.
pub(crate) fn read_floats(header: &Header, name: &str) -> Result<Vec<f32>> {
    let (info, bytes) = read_bytes(header, name)?;
    Ok(widened(&info, bytes)?.flatten_all()?.to_vec1()?)
}

/// Reads a parameter of the configuration as it is stored, its rows in Hugging Face's order.
fn read_stored(
    header: &Header,
    config: &DecoderConfig,
    parameter: &str,
) -> Result<(TensorInfo, Vec<u8>)> {
    let (info, mut bytes) = read_bytes(header, &gguf_name(parameter))?;
    if let Some(heads) = rotated_heads(config, parameter) {
        let rows = info.shape[0];
        bytes = reordered(&bytes, rows, rows / heads, |at, half| 2 * (at % half) + at / half);
    }
    Ok((info, bytes))
}

/// Reads the values of a parameter in f32, which must be finite.
///
/// # Errors
/// A missing tensor, a file that cannot be read, or a number that is NaN or infinite, by its place.
fn read_values(header: &Header, config: &DecoderConfig, parameter: &str) -> Result<Tensor> {
    let (info, bytes) = read_stored(header, config, parameter)?;
    let values = widened(&info, bytes)?;
    check_values(header, parameter, &values)?;
    Ok(values)
}

fn check_values(header: &Header, parameter: &str, values: &Tensor) -> Result<()> {
    let name = format!("{} ({parameter})", gguf_name(parameter));
    check_finite_values(&header.path, &name, values)
}

/// The heads of a parameter whose rows llama.cpp reorders.
pub(crate) fn rotated_heads(config: &DecoderConfig, parameter: &str) -> Option<usize> {
    if !matches!(config.family, Family::Llama | Family::Mistral) {
        return None;
    }
    if parameter.contains("self_attn.q_proj.") {
        Some(config.num_attention_heads)
    } else if parameter.contains("self_attn.k_proj.") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}

/// The rows of heads of `width` rows in another order: row `at` of a head is its old row
/// `source(at, width / 2)`.
pub(crate) fn reordered(
    bytes: &[u8],
    rows: usize,
    width: usize,
    source: impl Fn(usize, usize) -> usize,
) -> Vec<u8> {
    let size = bytes.len() / rows.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let first = row / width * width;
        let old = first + source(row % width, width / 2);
        out.extend_from_slice(&bytes[old * size..][..size]);
    }
    out
}

/// Reads every parameter of the configuration as `dtype`, one at a time.
///
/// # Errors
/// As [`read_values`].
pub(crate) fn read_parameters(
    header: &Header,
    config: &DecoderConfig,
    dtype: DType,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (parameter, _) in config.parameter_shapes() {
        let values = read_values(header, config, &parameter)?;
        tensors.insert(parameter, values.to_dtype(dtype)?.to_device(device)?);
    }
    Ok(tensors)
}

/// Returns true if any matrix is quantised.
#[cfg(feature = "text")]
pub(crate) fn any_quantized(header: &Header) -> bool {
    header.tensors.values().any(|info| supports(info.dtype) && info.shape.len() == 2)
}

/// Parameters in f32, and those that stay quantised.
type DenseAndQuantized = (BTreeMap<String, Tensor>, BTreeMap<String, QuantizedMatrix>);

/// Reads every parameter of the configuration; quantised matrices stay as they are stored.
///
/// # Errors
/// As [`read_parameters`].
pub(crate) fn read_quantized(header: &Header, config: &DecoderConfig) -> Result<DenseAndQuantized> {
    let mut dense = BTreeMap::new();
    let mut quantized = BTreeMap::new();
    for (parameter, _) in config.parameter_shapes() {
        let (info, bytes) = read_stored(header, config, &parameter)?;
        if info.shape.len() == 2 && supports(info.dtype) {
            let matrix = quantized_matrix(&info, bytes)?;
            check_values(header, &parameter, &matrix.dequantize()?)?;
            quantized.insert(parameter, matrix);
        } else {
            let values = widened(&info, bytes)?;
            check_values(header, &parameter, &values)?;
            dense.insert(parameter, values);
        }
    }
    Ok((dense, quantized))
}

/// Reads every parameter once and keeps none.
///
/// # Errors
/// As [`read_parameters`].
pub(crate) fn verify(header: &Header, config: &DecoderConfig) -> Result<()> {
    for (parameter, _) in config.parameter_shapes() {
        read_values(header, config, &parameter)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_the_values_of_the_gguf_package() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let header = Header::read(&folder.join("tests/fixtures/gguf/types.gguf")).unwrap();
        let names: Vec<&String> = header.tensors.keys().filter(|n| !n.contains('.')).collect();
        assert_eq!(names.len(), 12);
        for name in names {
            let found = read_floats(&header, name).unwrap();
            let expected = read_floats(&header, &format!("{name}.values")).unwrap();
            assert_eq!(found.len(), 3 * 256);
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs(), "{name}: {a} and {b}");
            }
        }
    }

    #[test]
    fn rows_of_heads_are_moved_and_moved_back() {
        let pairs: Vec<u8> = (0..2 * 6 * 2).collect();
        let halves = reordered(&pairs, 12, 6, |at, half| 2 * (at % half) + at / half);
        assert_eq!(halves[..12], [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
        assert_eq!(reordered(&halves, 12, 6, |at, half| at % 2 * half + at / 2), pairs);
    }
}
