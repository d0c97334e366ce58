//! The weight files of a model checkpoint: one `model.safetensors`, or shards with a
//! `model.safetensors.index.json`.

use crate::files::atomic_write;
use crate::kernels::quantized::weight::Weight;
use crate::policy::files::read_json;
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::formats::missing;
use crate::policy::source::Source;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The index of a sharded model checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: BTreeMap<String, serde_json::Value>,
    /// File name of every tensor.
    weight_map: BTreeMap<String, String>,
}

/// Returns the paths of a source's weight files, all of which exist.
pub(crate) fn weight_files(source: &Source) -> Result<Vec<PathBuf>> {
    if let Some(path) = source.optional_file(WHOLE)? {
        return Ok(vec![path]);
    }
    let Some(path) = source.optional_file(INDEX)? else {
        return Err(missing(source, &format!("{WHOLE} and no {INDEX}")));
    };
    let index: Index = read_json(&path)?;
    if index.weight_map.is_empty() {
        return Err(Error::file(&path, "weight_map", "names no file"));
    }
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name.as_str());
        if !plain {
            return Err(Error::file(
                &path,
                "weight_map",
                format!("{name:?} is not the name of a file in the same folder"),
            ));
        }
        let shard = source.optional_file(name)?;
        files.push(shard.ok_or_else(|| {
            Error::file(&path, "weight_map", format!("the shard {name} is missing"))
        })?);
    }
    Ok(files)
}

/// Writes the weights into `folder`: one file, or several and their index if they exceed `limit`
/// bytes.
///
/// A file holds at most `limit` bytes of tensors, or one tensor that is larger.
pub(crate) fn write_weights(folder: &Path, parameters: &Parameters, limit: u64) -> Result<()> {
    let shards = split(parameters.base_weights(), limit);
    if let [whole] = shards.as_slice() {
        return write_shard(&folder.join(WHOLE), whole);
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    let mut total = 0;
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        write_shard(&folder.join(&file), shard)?;
        total += shard.values().map(size).sum::<u64>();
        weight_map.extend(shard.keys().map(|name| (name.clone(), file.clone())));
    }
    let metadata = BTreeMap::from([("total_size".to_owned(), total.into())]);
    let path = folder.join(INDEX);
    let text = serde_json::to_string_pretty(&Index { metadata, weight_map });
    atomic_write(&path, text.map_err(|e| Error::file(&path, "index", e.to_string()))?)
}

fn size(weight: &Weight) -> u64 {
    (weight.elem_count() * weight.dtype().size_in_bytes()) as u64
}

/// Splits the tensors, in order, into shards of at most `limit` bytes.
fn split(tensors: BTreeMap<String, Weight>, limit: u64) -> Vec<BTreeMap<String, Weight>> {
    let mut shards = vec![BTreeMap::new()];
    let mut room = limit;
    for (name, tensor) in tensors {
        let size = size(&tensor);
        if size > room && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(BTreeMap::new());
            room = limit;
        }
        room = room.saturating_sub(size);
        if let Some(shard) = shards.last_mut() {
            shard.insert(name, tensor);
        }
    }
    shards
}

/// Writes and syncs one weight file with one tensor in memory at a time.
fn write_shard(path: &Path, tensors: &BTreeMap<String, Weight>) -> Result<()> {
    let io = |e| Error::io(path, e);
    // safetensors writes a temporary file with narrower permissions than those of a new file.
    let permissions =
        File::create(path).and_then(|file| file.metadata()).map_err(io)?.permissions();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors.iter(), Some(metadata), path)
        .map_err(|e| Error::file(path, "safetensors", e.to_string()))?;
    std::fs::set_permissions(path, permissions).map_err(io)?;
    File::open(path).and_then(|file| file.sync_all()).map_err(io)
}
