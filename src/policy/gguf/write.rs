//! Writes GGUF files, one tensor in memory at a time.

use crate::files::atomic_file;
use crate::policy::gguf::types::TYPES;
use crate::Result;
use candle_core::quantized::gguf_file::{Value, DEFAULT_ALIGNMENT};
use candle_core::quantized::GgmlDType;
use std::path::Path;

const VERSION: u32 = 3;

/// A tensor to be written.
pub(crate) struct Planned {
    pub(crate) name: String,
    /// Dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: GgmlDType,
}

impl Planned {
    fn length(&self) -> u64 {
        let elements: usize = self.shape.iter().product();
        (elements / self.dtype.block_size() * self.dtype.type_size()) as u64
    }
}

/// Writes a file atomically; `data` gives the bytes of the tensors, called with their indices in
/// order.
///
/// # Errors
/// A file that cannot be written, or the error of `data`.
pub(crate) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    mut data: impl FnMut(usize, &Planned) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut header, key);
        header.extend(kind(value).to_le_bytes());
        put(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for &size in tensor.shape.iter().rev() {
            header.extend((size as u64).to_le_bytes());
        }
        header.extend(type_id(tensor.dtype).to_le_bytes());
        header.extend(u64::to_le_bytes(offset));
        offset = (offset + tensor.length()).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    pad(&mut header);
    atomic_file(path, |file| {
        file(&header)?;
        for (index, tensor) in tensors.iter().enumerate() {
            let mut bytes = data(index, tensor)?;
            pad(&mut bytes);
            file(&bytes)?;
        }
        Ok(())
    })
}

/// The id of a type.
fn type_id(dtype: GgmlDType) -> u32 {
    let known = TYPES.iter().find(|(.., known)| *known == Some(dtype));
    known.map_or(u32::MAX, |(id, ..)| *id)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => out.extend(number.to_le_bytes()),
        Value::I8(number) => out.extend(number.to_le_bytes()),
        Value::U16(number) => out.extend(number.to_le_bytes()),
        Value::I16(number) => out.extend(number.to_le_bytes()),
        Value::U32(number) => out.extend(number.to_le_bytes()),
        Value::I32(number) => out.extend(number.to_le_bytes()),
        Value::U64(number) => out.extend(number.to_le_bytes()),
        Value::I64(number) => out.extend(number.to_le_bytes()),
        Value::F32(number) => out.extend(number.to_le_bytes()),
        Value::F64(number) => out.extend(number.to_le_bytes()),
        Value::Bool(flag) => out.push(u8::from(*flag)),
        Value::String(text) => put_text(out, text),
        Value::Array(list) => {
            // An empty list has no element that could tell the type.
            out.extend(list.first().map_or(kind(&Value::U32(0)), kind).to_le_bytes());
            out.extend((list.len() as u64).to_le_bytes());
            for value in list {
                put(out, value);
            }
        }
    }
}
