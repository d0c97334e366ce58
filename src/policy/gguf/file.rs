//! A GGUF file as a source of a model checkpoint.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::gguf::config::read_config;
use crate::policy::gguf::header::Header;
use crate::policy::gguf::tensors::check_tensors;
use crate::Result;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A model in GGUF, the file format of llama.cpp.
///
/// Architectures `llama`, `qwen2` and `qwen3`; tensors in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1,
/// Q8_0 and the K-quants; tokenizers of the model `gpt2` with the words of SmolLM, Qwen2 or
/// Llama 3. The header is read when the file is opened, tensors when they are needed.
#[derive(Clone)]
pub struct GgufFile {
    pub(crate) header: Arc<Header>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// By key or tensor: a file that is not GGUF of version 2 or 3, truncated or malformed; a
    /// tensor of a type that is not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { header: Arc::new(Header::read(path.as_ref())?) })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.header.path
    }

    /// Returns true if a file begins as a GGUF file does, or is called like one.
    pub(crate) fn is_one(path: &Path) -> bool {
        let mut magic = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        named || (read.is_ok() && &magic == b"GGUF")
    }

    /// The configuration; every tensor of it is in the file.
    ///
    /// # Errors
    /// A key or tensor that is missing, malformed, unknown or unsupported.
    pub(crate) fn config(&self, ignore: &[String]) -> Result<DecoderConfig> {
        let config = read_config(&self.header, ignore)?;
        check_tensors(&self.header, &config)?;
        Ok(config)
    }
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GgufFile").field(&self.header.path).finish()
    }
}
