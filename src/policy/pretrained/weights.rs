//! The safetensors files of a model checkpoint, checked as a whole and read tensor by tensor.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::check_content;
use crate::policy::finite::check_finite;
use crate::policy::pretrained::names::standard_name;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A longer header is taken for a damaged file.
const LONGEST_HEADER: u64 = 100_000_000;

/// One safetensors file: its header in memory, its data on disk.
struct Shard {
    path: PathBuf,
    file: File,
    /// Offset of the data in the file.
    start: u64,
    /// The tensors by their standard names.
    tensors: BTreeMap<String, Stored>,
}

/// A tensor of a file.
struct Stored {
    /// Its name in the file.
    name: String,
    info: TensorInfo,
}

impl Shard {
    /// Reads and checks the header.
    fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let broken = |reason: String| Error::file(path, "safetensors header", reason);
        check_content(path)?;
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < 8 {
            return Err(broken(format!("{length} bytes: the file is truncated")));
        }
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(io)?;
        let header = u64::from_le_bytes(prefix);
        if header > LONGEST_HEADER || header + 8 > length {
            return Err(broken(format!(
                "{length} bytes with a header of {header}: the file is truncated"
            )));
        }
        let mut bytes = Vec::new();
        (&mut file).take(header).read_to_end(&mut bytes).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let start = header + 8;
        let data = metadata.data_len() as u64;
        if start + data != length {
            return Err(broken(format!(
                "the file has {length} bytes, but its header declares {}",
                start + data
            )));
        }
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let stored = Stored { name: name.clone(), info: info.clone() };
            if let Some(other) = tensors.insert(standard_name(&name), stored) {
                let reason = format!("is another name of {}", other.name);
                return Err(Error::file(path, name, reason));
            }
        }
        Ok(Self { path: path.to_path_buf(), file, start, tensors })
    }

    /// Reads one tensor, whose numbers must be finite, and converts it from its stored float type
    /// to `dtype`.
    fn read(&mut self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (bytes, stored, shape) = self.bytes(name)?;
        let tensor = Tensor::from_raw_buffer(&bytes, stored, &shape, &Device::Cpu)?;
        drop(bytes);
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// Reads the bytes of one tensor, whose numbers must be finite; returns their type and shape.
    fn bytes(&mut self, name: &str) -> Result<(Vec<u8>, DType, Vec<usize>)> {
        let Some(Stored { name, info }) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, name, "the tensor is missing"));
        };
        let stored = float(info.dtype).ok_or_else(|| not_a_float(&self.path, name, info.dtype))?;
        let (first, last) = info.data_offsets;
        let mut bytes = vec![0; last - first];
        let mut read = || {
            self.file.seek(SeekFrom::Start(self.start + first as u64))?;
            self.file.read_exact(&mut bytes)
        };
        read().map_err(|e| Error::io(&self.path, e))?;
        check_finite(&self.path, name, info.dtype, &info.shape, &bytes)?;
        Ok((bytes, stored, info.shape.clone()))
    }
}

fn float(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

fn not_a_float(path: &Path, name: &str, dtype: Dtype) -> Error {
    Error::file(path, name, format!("dtype {dtype:?}: must be a float of 16 to 64 bits"))
}

/// All weight files of a model checkpoint, opened and checked against the configuration.
pub(crate) struct Weights {
    shards: Vec<Shard>,
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl Weights {
    /// Opens the files and requires exactly the configuration's tensors, in any float dtype and
    /// under any name that [`standard_name`] understands.
    ///
    /// A second copy of a tied head and the rotary buffers of older files are allowed in addition.
    /// A tied head without the embeddings is taken for both.
    pub(crate) fn open(paths: &[PathBuf], config: &DecoderConfig) -> Result<Self> {
        let mut shards = paths.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>>>()?;
        let shapes: BTreeMap<_, _> = config.parameter_shapes().into_iter().collect();
        let tied = config.tie_word_embeddings;
        if tied && !shards.iter().any(|shard| shard.tensors.contains_key(EMBEDDING)) {
            for shard in &mut shards {
                if let Some(head) = shard.tensors.remove(HEAD) {
                    shard.tensors.insert(EMBEDDING.to_owned(), head);
                }
            }
        }
        for shard in &shards {
            for (standard, Stored { name, info }) in &shard.tensors {
                let copy = tied && standard == HEAD;
                let expected = if copy { shapes.get(EMBEDDING) } else { shapes.get(standard) };
                check_tensor(&shard.path, name, info, expected)?;
            }
        }
        let weights = Self { shards };
        for name in shapes.keys() {
            weights.find(name)?;
        }
        Ok(weights)
    }

    /// Index of the only file that holds `name`.
    fn find(&self, name: &str) -> Result<usize> {
        let mut holders =
            (0..self.shards.len()).filter(|&i| self.shards[i].tensors.contains_key(name));
        match (holders.next(), holders.next()) {
            (Some(i), None) => Ok(i),
            (Some(_), Some(again)) => {
                let shard = &self.shards[again];
                let stored = &shard.tensors[name].name;
                Err(Error::file(&shard.path, stored, "is also in another file"))
            }
            (None, _) if name == HEAD => {
                let reason = "the tensor is missing; a model whose head is its embeddings has \
                    \"tie_word_embeddings\": true in config.json";
                Err(Error::file(self.location(), name, reason))
            }
            (None, _) => Err(Error::file(self.location(), name, "the tensor is missing")),
        }
    }

    /// The path for errors: the only file, or the folder of several.
    fn location(&self) -> &Path {
        match self.shards.as_slice() {
            [] => Path::new(""),
            [only] => &only.path,
            [first, ..] => first.path.parent().unwrap_or(&first.path),
        }
    }

    /// The dtype in which the embeddings are stored.
    pub(crate) fn dtype(&self) -> Result<DType> {
        let shard = &self.shards[self.find(EMBEDDING)?];
        let dtype = shard.tensors[EMBEDDING].info.dtype;
        float(dtype).ok_or_else(|| not_a_float(&shard.path, EMBEDDING, dtype))
    }

    /// Reads every tensor of the configuration, file by file.
    pub(crate) fn read(
        &mut self,
        config: &DecoderConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        let shapes: BTreeMap<_, _> = config.parameter_shapes().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for shard in &mut self.shards {
            let names: Vec<String> =
                shard.tensors.keys().filter(|n| shapes.contains_key(*n)).cloned().collect();
            for name in names {
                let tensor = shard.read(&name, dtype, device)?;
                tensors.insert(name, tensor);
            }
        }
        Ok(tensors)
    }

    /// Reads every tensor of the configuration once, one at a time, and keeps none.
    pub(crate) fn verify(&mut self, config: &DecoderConfig) -> Result<()> {
        for (name, _) in config.parameter_shapes() {
            let shard = self.find(&name)?;
            self.shards[shard].bytes(&name)?;
        }
        Ok(())
    }

    /// Returns true if the files hold a head that is not the embeddings.
    pub(crate) fn has_own_head(&mut self) -> Result<bool> {
        let (Ok(embedding), Ok(head)) = (self.find(EMBEDDING), self.find(HEAD)) else {
            return Ok(false);
        };
        let (a, a_dtype, shape) = self.shards[embedding].bytes(EMBEDDING)?;
        let (b, b_dtype, _) = self.shards[head].bytes(HEAD)?;
        if a_dtype == b_dtype {
            return Ok(a != b);
        }
        let wide = |bytes: &[u8], dtype: DType| {
            Tensor::from_raw_buffer(bytes, dtype, &shape, &Device::Cpu)?.to_dtype(DType::F64)
        };
        let different = wide(&a, a_dtype)?.ne(&wide(&b, b_dtype)?)?;
        Ok(different.to_dtype(DType::F32)?.max_all()?.to_scalar::<f32>()? > 0.0)
    }
}

/// Requires a stored tensor to be one of the configuration's, of its shape and a float.
fn check_tensor(
    path: &Path,
    name: &str,
    info: &TensorInfo,
    expected: Option<&Vec<usize>>,
) -> Result<()> {
    let Some(expected) = expected else {
        // Rotary frequencies follow from the configuration.
        if name.ends_with("rotary_emb.inv_freq") {
            return Ok(());
        }
        return Err(Error::file(path, name, "the configured model has no such tensor"));
    };
    if info.shape != *expected {
        let reason = format!("has shape {:?}, the model needs {expected:?}", info.shape);
        return Err(Error::file(path, name, reason));
    }
    float(info.dtype).map(drop).ok_or_else(|| not_a_float(path, name, info.dtype))
}
