//! Checkpoints in Hugging Face's layout: a folder or a repository of the hub, read and written.

use crate::files::{atomic_folder, atomic_write};
#[cfg(feature = "text")]
use crate::policy::chat::template::ChatTemplate;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::generation::GenerationConfig;
use crate::policy::pretrained::index;
use crate::policy::pretrained::weights::Weights;
use crate::policy::source::Source;
#[cfg(feature = "text")]
use crate::policy::tokenizer::Tokenizer;
use crate::{Error, Result};
use candle_core::{DType, Device};
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Files that are handed on as they are when a checkpoint is saved.
const COMPANIONS: &[&str] = &[
    GENERATION,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// A pretrained decoder: its configuration, weights, tokenizer and chat template, each read when it is asked for.
///
/// ```no_run
/// use epo::policy::{Decoder, Pretrained, Source};
/// use candle_core::{DType, Device};
///
/// # fn main() -> epo::Result<()> {
/// let pretrained = Pretrained::open(Source::open("models/Qwen2.5-0.5B-Instruct")?)?;
/// let parameters = pretrained.parameters(DType::F32, &Device::Cpu)?;
/// let decoder = Decoder::new(pretrained.config(), &parameters)?;
/// // … training …
/// pretrained.save("models/trained", &parameters, Pretrained::SHARD_BYTES)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Pretrained {
    source: Source,
    config: DecoderConfig,
    /// The configuration as it was read, with what does not enter the model.
    json: Value,
    generation: GenerationConfig,
}

impl Pretrained {
    /// A good limit of a weight file, in bytes.
    pub const SHARD_BYTES: u64 = 5_000_000_000;

    /// Reads `config.json` and, where there is one, `generation_config.json`.
    ///
    /// # Errors
    /// A file that is missing or malformed, an architecture or a field that is not supported, by name; a hub that
    /// cannot be reached.
    pub fn open(source: impl Into<Source>) -> Result<Self> {
        let source = source.into();
        let path = source.file(CONFIG)?;
        let config = DecoderConfig::from_file(&path)?;
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let json =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, "json", e.to_string()))?;
        let path = source.optional_file(GENERATION)?.unwrap_or(path);
        let generation = GenerationConfig::from_file(&path)?;
        generation.check(&path, config.vocab_size)?;
        Ok(Self { source, config, json, generation })
    }

    /// The same for sequences of at most `tokens`, which less memory is needed for.
    ///
    /// # Errors
    /// 0, or more than the model was made for.
    pub fn with_context(mut self, tokens: usize) -> Result<Self> {
        let most = self.config.max_position_embeddings;
        if tokens == 0 || tokens > most {
            let reason =
                format!("must be between 1 and the checkpoint's max_position_embeddings, {most}");
            return Err(Error::setting("model.context", tokens, reason));
        }
        self.config.max_position_embeddings = tokens;
        Ok(self)
    }

    /// Where the files come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// How its authors sample from it.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    fn weights(&self) -> Result<Weights> {
        Weights::open(&index::weight_files(&self.source)?, &self.config)
    }

    /// The files that decide what the model is: configuration, tokenizer and chat template, and with `weights` these too.
    #[cfg(feature = "text")]
    pub(crate) fn files(&self, weights: bool) -> Result<Vec<std::path::PathBuf>> {
        let mut files = Vec::new();
        for name in [CONFIG, "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"] {
            files.extend(self.source.optional_file(name)?);
        }
        if weights {
            files.extend(index::weight_files(&self.source)?);
        }
        Ok(files)
    }

    /// The dtype in which the weights are stored.
    ///
    /// # Errors
    /// As [`Pretrained::parameters`].
    pub fn stored_dtype(&self) -> Result<DType> {
        self.weights()?.dtype()
    }

    /// The weights, converted to `dtype` one tensor at a time from `model.safetensors` or its shards.
    ///
    /// # Errors
    /// A file that is missing, cut off or damaged; a tensor that is missing, unknown, of another shape, not a float, or a
    /// second copy of a tied head that differs from the embeddings: by file and name.
    pub fn parameters(&self, dtype: DType, device: &Device) -> Result<Parameters> {
        let tensors = self.weights()?.read(&self.config, dtype, device)?;
        Parameters::from_tensors(&self.config, tensors)
    }

    /// The tokenizer of `tokenizer.json`.
    ///
    /// # Errors
    /// A file that is missing or malformed, or a vocabulary larger than the model's.
    #[cfg(feature = "text")]
    #[cfg_attr(docsrs, doc(cfg(feature = "text")))]
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::load(self.source.file("tokenizer.json")?)?;
        tokenizer.check_fits(&self.config)?;
        Ok(tokenizer)
    }

    /// The chat template of `chat_template.jinja` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`ChatTemplate::open`].
    #[cfg(feature = "text")]
    #[cfg_attr(docsrs, doc(cfg(feature = "text")))]
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::open(&self.source)
    }

    /// Writes a new folder that this type and Python's `from_pretrained` read: the configuration, the weights in the
    /// parameters' dtype and in files of at most `shard_bytes` of tensors, and the source's other files. It appears whole or
    /// not at all.
    ///
    /// # Errors
    /// Parameters of another model, a folder that is not empty, a file that cannot be written.
    pub fn save(
        &self,
        folder: impl AsRef<Path>,
        parameters: &Parameters,
        shard_bytes: u64,
    ) -> Result<()> {
        parameters.check_fits(&self.config)?;
        let mut companions = Vec::new();
        for &name in COMPANIONS {
            companions.extend(self.source.optional_file(name)?.map(|path| (name, path)));
        }
        atomic_folder(folder.as_ref(), |folder| {
            index::write_weights(folder, parameters, shard_bytes)?;
            for (name, path) in &companions {
                let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
                atomic_write(folder.join(name), bytes)?;
            }
            atomic_write(folder.join(CONFIG), format!("{:#}\n", self.saved_config(parameters)?))
        })
    }

    /// The configuration as it was read, with the dtype of `parameters`.
    fn saved_config(&self, parameters: &Parameters) -> Result<Value> {
        let mut json = self.json.clone();
        let name = match parameters.get("model.norm.weight")?.dtype() {
            DType::F64 => "float64",
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        if let Some(fields) = json.as_object_mut() {
            fields.remove("dtype");
            // The older name, which newer versions read too.
            fields.insert("torch_dtype".to_owned(), name.into());
        }
        Ok(json)
    }
}
