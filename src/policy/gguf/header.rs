//! The header of a GGUF file: metadata and the places of the tensors.
//!
//! Layout, little-endian: the magic `GGUF`, a version, the numbers of tensors and of metadata
//! entries; each metadata entry as key, type and value; each tensor as name, dimensions (innermost
//! first), type and offset; then, aligned, the tensors' data (format specification of ggml).

use crate::policy::files::check_content;
use crate::policy::gguf::types::tensor_type;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::{Value, DEFAULT_ALIGNMENT};
use candle_core::quantized::GgmlDType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Deeper lists of lists are taken for a damaged file.
const DEEPEST: usize = 4;
const MOST_DIMENSIONS: u32 = 4;
const ALIGNMENT: &str = "general.alignment";

/// The metadata of a GGUF file, and where its tensors are.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: PathBuf,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorInfo {
    pub(crate) dtype: GgmlDType,
    /// Dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Offset of its data in the file.
    pub(crate) start: u64,
    /// Length of its data in bytes.
    pub(crate) length: u64,
}

impl Header {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// By key or tensor: a file that is not GGUF of version 2 or 3, truncated or malformed; a
    /// tensor of a type that is not read.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        check_content(path)?;
        let mut reader = Reader::open(path)?;
        reader.check_version()?;
        let tensors = reader.count("tensor_count", 8 + 4 + 4 + 8)?;
        let entries = reader.count("metadata_kv_count", 8 + 4 + 1)?;
        let mut metadata = BTreeMap::new();
        for index in 0..entries {
            reader.place = format!("metadata[{index}]");
            let key = reader.name()?;
            reader.place.clone_from(&key);
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            if metadata.insert(key, value).is_some() {
                return Err(reader.error("stands in the file twice"));
            }
        }
        let mut infos = BTreeMap::new();
        for index in 0..tensors {
            reader.place = format!("tensors[{index}]");
            let name = reader.name()?;
            reader.place.clone_from(&name);
            let info = reader.tensor()?;
            if infos.insert(name, info).is_some() {
                return Err(reader.error("stands in the file twice"));
            }
        }
        let alignment = alignment(path, &metadata)?;
        let start = reader.at.next_multiple_of(alignment);
        for (name, info) in &mut infos {
            reader.place.clone_from(name);
            if !info.start.is_multiple_of(alignment) {
                let offset = info.start;
                return Err(reader.error(format!("offset {offset} is not aligned to {alignment}")));
            }
            info.start = info.start.saturating_add(start);
            let end = info.start.saturating_add(info.length);
            if end > reader.length {
                let length = reader.length;
                let reason = format!("ends at byte {end}, the file at {length}: it is truncated");
                return Err(reader.error(reason));
            }
        }
        Ok(Self { path: path.to_path_buf(), metadata, tensors: infos })
    }
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<u64> {
    let Some(value) = metadata.get(ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT) };
    match value.to_u64() {
        Ok(bytes) if bytes > 0 && bytes.is_multiple_of(8) && bytes <= 1 << 20 => Ok(bytes),
        Ok(_) | Err(_) => {
            let reason = format!("= {value:?}: must be a multiple of 8, at most 2²⁰");
            Err(Error::file(path, ALIGNMENT, reason))
        }
    }
}

/// Reads the header from front to back, and knows how much of the file is left.
struct Reader<'p> {
    path: &'p Path,
    input: BufReader<File>,
    /// Bytes read so far.
    at: u64,
    /// Bytes of the file.
    length: u64,
    /// The entry that is being read, for errors.
    place: String,
}

impl<'p> Reader<'p> {
    fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let input = BufReader::with_capacity(1 << 16, file);
        Ok(Self { path, input, at: 0, length, place: "header".to_owned() })
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::file(self.path, &*self.place, reason)
    }

    fn truncated(&self) -> Error {
        let length = self.length;
        self.error(format!("the file ends here, after {length} bytes: it is truncated"))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        if N as u64 > self.length - self.at {
            return Err(self.truncated());
        }
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|e| Error::io(self.path, e))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn check_version(&mut self) -> Result<()> {
        if &self.take::<4>()? != b"GGUF" {
            return Err(self.error("is not a GGUF file: it does not begin with `GGUF`"));
        }
        self.place = "version".to_owned();
        match self.u32()? {
            2 | 3 => Ok(()),
            1 => Err(self.error("= 1: versions 2 and 3 are read; convert the model again")),
            version if matches!(version.swap_bytes(), 1..=3) => {
                Err(self.error("the file is big-endian, which is not read"))
            }
            version => Err(self.error(format!("= {version}: versions 2 and 3 are read"))),
        }
    }

    /// A number of entries that are at least `size` bytes long.
    fn count(&mut self, place: &str, size: u64) -> Result<u64> {
        place.clone_into(&mut self.place);
        let count = self.u64()?;
        self.check_room(count, size)?;
        Ok(count)
    }

    fn check_room(&self, count: u64, size: u64) -> Result<()> {
        let left = self.length - self.at;
        if count.saturating_mul(size) > left {
            let reason = format!("{count} entries do not fit into the {left} bytes that are left");
            return Err(self.error(format!("{reason}: the file is truncated or damaged")));
        }
        Ok(())
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = self.u64()?;
        if length > self.length - self.at {
            return Err(self.truncated());
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes);
        let read = read.map_err(|e| Error::io(self.path, e))? as u64;
        self.at += read;
        if read < length {
            return Err(self.truncated());
        }
        Ok(bytes)
    }

    /// A key, or the name of a tensor.
    fn name(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes).map_err(|_| self.error("its name is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.take()?)),
            1 => Value::I8(i8::from_le_bytes(self.take()?)),
            2 => Value::U16(u16::from_le_bytes(self.take()?)),
            3 => Value::I16(i16::from_le_bytes(self.take()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.take()?)),
            6 => Value::F32(f32::from_le_bytes(self.take()?)),
            7 => match self.take()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(self.error(format!("= {other}: must be true or false"))),
            },
            // Some converters end texts with a zero, and some texts are not UTF-8.
            8 => {
                let bytes = self.bytes()?;
                let text = String::from_utf8_lossy(&bytes);
                Value::String(text.trim_end_matches('\0').to_owned())
            }
            9 => Value::Array(self.list(depth)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.take()?)),
            12 => Value::F64(f64::from_le_bytes(self.take()?)),
            other => return Err(self.error(format!("has the unknown value type {other}"))),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>> {
        if depth == DEEPEST {
            return Err(self.error(format!("lists are nested more than {DEEPEST} deep")));
        }
        let kind = self.u32()?;
        let count = self.u64()?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            _ => 8,
        };
        self.check_room(count, size)?;
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }

    /// A tensor's entry after its name; `start` is still relative to the data.
    fn tensor(&mut self) -> Result<TensorInfo> {
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > MOST_DIMENSIONS {
            return Err(self.error(format!("has {dimensions} dimensions, must be 1 to 4")));
        }
        let sizes: Vec<u64> = (0..dimensions).map(|_| self.u64()).collect::<Result<_>>()?;
        let dtype = tensor_type(self.u32()?).map_err(|reason| self.error(reason))?;
        let block = dtype.block_size() as u64;
        let elements = sizes.iter().try_fold(1_u64, |all, &size| all.checked_mul(size));
        let length = elements.and_then(|all| (all / block).checked_mul(dtype.type_size() as u64));
        let (Some(_), Some(length)) = (elements, length) else {
            return Err(self.error(format!("has shape {sizes:?}, more elements than a file holds")));
        };
        if !sizes[0].is_multiple_of(block) {
            let row = sizes[0];
            return Err(self.error(format!("has rows of {row}, which {dtype:?} stores by {block}")));
        }
        let start = self.u64()?;
        let shape = sizes.into_iter().rev().map(|size| size as usize).collect();
        Ok(TensorInfo { dtype, shape, start, length })
    }
}
