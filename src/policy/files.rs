//! Safetensors and JSON files, with errors that name the file and the tensor or field.

use crate::files::atomic_write;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Writes named tensors as one safetensors file, atomically; equal tensors give equal bytes.
pub(crate) fn save_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors.iter(), Some(metadata))
        .map_err(|e| Error::file(path, "safetensors", e.to_string()))?;
    atomic_write(path, &bytes)
}

/// Reads and parses a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))
}

/// Reads all tensors of a safetensors file.
pub(crate) fn load_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| {
        Error::file(path, "safetensors header", format!("{} bytes: {e}", bytes.len()))
    })?;
    let load = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let tensor = candle_core::safetensors::Load::load(&view, device)
            .map_err(|e| Error::file(path, name.clone(), e.to_string()))?;
        Ok((name, tensor))
    };
    file.tensors().into_iter().map(load).collect()
}
