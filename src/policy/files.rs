//! Safetensors and JSON files, with errors that name the file and the tensor or field.

use crate::console::note;
use crate::files::atomic_write;
use crate::kernels::quantized::weight::Weight;
use crate::policy::finite::check_finite;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use safetensors::{Dtype, View};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

/// Writes named tensors as one safetensors file, atomically; equal tensors give equal bytes.
pub(crate) fn save_tensors<V>(path: &Path, tensors: &BTreeMap<String, V>) -> Result<()>
where
    for<'a> &'a V: View,
{
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors.iter(), Some(metadata))
        .map_err(|e| Error::file(path, "safetensors", e.to_string()))?;
    atomic_write(path, &bytes)
}

/// Quantised weights are stored as f32, converted one at a time.
impl View for &Weight {
    fn dtype(&self) -> Dtype {
        match self {
            Weight::Dense(tensor) => View::dtype(tensor),
            Weight::Quantized(_) => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Weight::Dense(tensor) => View::shape(tensor),
            Weight::Quantized(matrix) => matrix.shape(),
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Weight::Dense(tensor) => View::data(tensor),
            Weight::Quantized(matrix) => {
                let bytes = matrix.values().into_iter().flat_map(f32::to_le_bytes);
                Cow::Owned(bytes.collect())
            }
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Weight::Dense(tensor) => View::data_len(tensor),
            Weight::Quantized(_) => self.elem_count() * size_of::<f32>(),
        }
    }
}

/// Reads and parses a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    check_content(path)?;
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))
}

/// Reads all tensors of a safetensors file, whose numbers must be finite.
pub(crate) fn load_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    check_content(path)?;
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| {
        Error::file(path, "safetensors header", format!("{} bytes: {e}", bytes.len()))
    })?;
    let load = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        check_finite(path, &name, view.dtype(), view.shape(), view.data())?;
        let tensor = candle_core::safetensors::Load::load(&view, device)
            .map_err(|e| Error::file(path, name.clone(), e.to_string()))?;
        Ok((name, tensor))
    };
    file.tensors().into_iter().map(load).collect()
}

/// Requires a file to be more than a placeholder for its content: a pointer of Git LFS, or the web
/// page of a failed download.
pub(crate) fn check_content(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    (&mut file).take(512).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    let head = String::from_utf8_lossy(&head);
    if head.starts_with("version https://git-lfs.github.com/spec/") {
        let size = head.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        let reason = format!(
            "this is a Git LFS pointer to a file{size}, not the file: run `git lfs pull` in its \
             folder, or download the file itself"
        );
        return Err(Error::file(path, "content", reason));
    }
    let start = head.trim_start().to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        let reason = "this is a web page, not the file: download the file itself";
        return Err(Error::file(path, "content", reason));
    }
    Ok(())
}

/// Prints a warning to standard error, once per process.
pub(crate) fn warn_once(text: &str) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Ok(mut printed) = PRINTED.lock() else { return };
    if printed.insert(text.to_owned()) {
        note(format_args!("warning: {text}"));
    }
}
