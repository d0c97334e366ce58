//! A pretrained model and the files around its weights.

use crate::files::{atomic_folder, atomic_write};
#[cfg(feature = "text")]
use crate::policy::chat::template::ChatTemplate;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{read_json, warn_once};
#[cfg(feature = "text")]
use crate::policy::gguf::export::{self, GgufType};
#[cfg(feature = "text")]
use crate::policy::gguf::export_tokenizer::tokenizer_metadata;
use crate::policy::gguf::file::GgufFile;
use crate::policy::gguf::{tensors, texts};
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::formats::{missing, refuse_adapter};
use crate::policy::pretrained::generation::GenerationConfig;
use crate::policy::pretrained::index;
use crate::policy::pretrained::weights::Weights;
use crate::policy::source::{Source, SourceText, TEMPLATES};
#[cfg(feature = "text")]
use crate::policy::tokenizer::Tokenizer;
use crate::{Error, Result};
use candle_core::{DType, Device};
use serde_json::Value;
use std::path::Path;
#[cfg(feature = "text")]
use std::path::PathBuf;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Files that are copied unchanged when a model checkpoint is saved.
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

/// A model checkpoint: configuration, weights, tokenizer and chat template. Opening reads the
/// configuration and, if it ties the output head to the embeddings, compares a head that is stored
/// in addition.
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
    /// The configuration file as read, including fields that do not affect the model.
    json: Value,
    generation: GenerationConfig,
    /// Every `eos_token_id` of `config.json` and `generation_config.json`.
    end_ids: Vec<u32>,
    /// The sliding window in tokens, if it limits the context.
    window: Option<usize>,
}

impl Pretrained {
    /// Default limit of a weight file, in bytes.
    pub const SHARD_BYTES: u64 = 5_000_000_000;

    /// Opens a model checkpoint: reads `config.json` and, if present, `generation_config.json`.
    ///
    /// A configuration may tie the output head to the embeddings although another head is stored.
    /// As in transformers, the stored head is then used, and a warning is printed. To find it, such
    /// a model's weight files are opened, and downloaded first if the source is a Hub.
    ///
    /// # Errors
    /// A missing or malformed file, an unsupported architecture or field (by name), a LoRA adapter
    /// instead of a model, or a Hub that cannot be reached.
    pub fn open(source: impl Into<Source>) -> Result<Self> {
        Self::open_ignoring(source, &[])
    }

    /// [`Pretrained::open`] with the names of unknown fields of `config.json` that do not change
    /// the model, as for [`DecoderConfig::from_file_ignoring`].
    ///
    /// # Errors
    /// As [`Pretrained::open`] and [`DecoderConfig::from_file_ignoring`].
    pub fn open_ignoring(source: impl Into<Source>, ignore: &[String]) -> Result<Self> {
        let source = source.into();
        if let Source::Gguf(file) = source {
            return Self::open_gguf(file, ignore);
        }
        let path = source.optional_file(CONFIG)?;
        refuse_adapter(&source)?;
        let path = match (path, &source) {
            (Some(path), _) => path,
            (None, Source::Folder(_) | Source::Gguf(_)) => return Err(missing(&source, CONFIG)),
            #[cfg(feature = "hub")]
            (None, Source::Hub(hub)) => return Err(hub.missing(CONFIG)),
        };
        let config = DecoderConfig::from_file_ignoring(&path, ignore)?;
        let json: Value = read_json(&path)?;
        let in_config = GenerationConfig::from_file(&path)?;
        let mut end_ids = in_config.eos_token_ids.clone();
        // A default that was never adapted to the vocabulary; it cannot be sampled.
        end_ids.retain(|&id| (id as usize) < config.vocab_size);
        let generation = match source.optional_file(GENERATION)? {
            Some(path) => {
                let generation = GenerationConfig::from_file(&path)?;
                generation.check(&path, config.vocab_size)?;
                let others = generation.eos_token_ids.iter().filter(|id| !end_ids.contains(id));
                end_ids.extend(others.copied().collect::<Vec<u32>>());
                generation
            }
            None => GenerationConfig { eos_token_ids: end_ids.clone(), ..in_config },
        };
        let stated = json["max_position_embeddings"].as_u64();
        let stated = stated.unwrap_or(config.family.unstated_context() as u64);
        let most = config.max_position_embeddings;
        let window = ((most as u64) < stated).then_some(most);
        let mut model = Self { source, config, json, generation, end_ids, window };
        if model.config.tie_word_embeddings {
            model.untie()?;
        }
        Ok(model)
    }

    /// Opens a GGUF file, whose metadata becomes the files of a checkpoint.
    fn open_gguf(file: GgufFile, ignore: &[String]) -> Result<Self> {
        let config = file.config(ignore)?;
        let json = texts::config_json(&file.header, &config);
        let generation = texts::generation_json(&file.header, config.vocab_size)?;
        let generation = GenerationConfig::from_json(&generation, file.path())?;
        let end_ids = generation.eos_token_ids.clone();
        Ok(Self { source: file.into(), config, json, generation, end_ids, window: None })
    }

    /// Unties the output head if another one is stored.
    fn untie(&mut self) -> Result<()> {
        // Files that are missing or damaged are reported when weights are needed.
        let Ok(mut weights) = self.weights() else { return Ok(()) };
        if weights.has_own_head()? {
            self.config.tie_word_embeddings = false;
            self.json["tie_word_embeddings"] = false.into();
            warn_once(&format!(
                "{}: lm_head.weight differs from the embeddings although config.json ties them \
                 (tie_word_embeddings): the stored head is used",
                self.source
            ));
        }
        Ok(())
    }

    /// Limits the context to `tokens`, which saves memory.
    ///
    /// # Errors
    /// A limit of 0, or one above the checkpoint's [`DecoderConfig::max_position_embeddings`].
    pub fn with_context(mut self, tokens: usize) -> Result<Self> {
        let most = self.config.max_position_embeddings;
        if tokens == 0 || tokens > most {
            let limit = match self.window {
                Some(_) => "sliding_window",
                None => "max_position_embeddings",
            };
            let reason = format!("must be between 1 and the model's {limit}, {most}");
            return Err(Error::setting("model.context", tokens, reason));
        }
        self.config.max_position_embeddings = tokens;
        Ok(self)
    }

    /// The sliding window in tokens, if it limits the context.
    #[cfg(feature = "text")]
    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    /// The source of the files.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The sampling settings that the checkpoint recommends.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Every `eos_token_id` of `config.json` and `generation_config.json`: the ids that end a turn.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    fn weights(&self) -> Result<Weights> {
        Weights::open(&index::weight_files(&self.source)?, &self.config)
    }

    /// Names and paths of the files that define the model: configuration, tokenizer, chat template
    /// and, if `weights`, the weights. A GGUF file has all of them, under any name.
    #[cfg(feature = "text")]
    pub(crate) fn files(&self, weights: bool) -> Result<Vec<(String, PathBuf)>> {
        if let Source::Gguf(file) = &self.source {
            return Ok(vec![("the GGUF file".to_owned(), file.path().to_path_buf())]);
        }
        let mut files = Vec::new();
        for name in [
            CONFIG,
            GENERATION,
            "added_tokens.json",
            "chat_template.jinja",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            files.extend(self.source.optional_file(name)?);
        }
        let templates = self.source.additional_templates()?;
        files.extend(templates.into_iter().map(|(_, text)| text.path));
        if weights {
            files.extend(index::weight_files(&self.source)?);
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into();
        Ok(files.into_iter().map(|path| (name(&path), path)).collect())
    }

    /// The dtype in which the weights are stored; f32 for the quantised types of a GGUF file.
    ///
    /// # Errors
    /// Weight files that are missing, damaged or of another model.
    pub fn stored_dtype(&self) -> Result<DType> {
        if let Source::Gguf(file) = &self.source {
            return Ok(tensors::float_type(&file.header));
        }
        self.weights()?.dtype()
    }

    /// Reads the weights from `model.safetensors`, its shards or a GGUF file, converting one tensor
    /// at a time to `dtype`.
    ///
    /// # Errors
    /// By file and tensor name: a file that is missing, truncated or damaged; a tensor that is
    /// missing, unknown, stored twice, of the wrong shape or not a float; a number that is NaN or
    /// infinite.
    pub fn parameters(&self, dtype: DType, device: &Device) -> Result<Parameters> {
        let tensors = match &self.source {
            Source::Gguf(file) => {
                tensors::read_parameters(&file.header, &self.config, dtype, device)?
            }
            _ => self.weights()?.read(&self.config, dtype, device)?,
        };
        Parameters::from_tensors(&self.config, tensors)
    }

    /// Reads the weights of a GGUF file and leaves its quantised matrices in their blocks; the
    /// others become f32. All are frozen: the base for LoRA adapters (QLoRA, Dettmers et al. 2023).
    ///
    /// # Errors
    /// A source that has no quantised weights; otherwise as [`Pretrained::parameters`].
    pub fn quantized_parameters(&self) -> Result<Parameters> {
        let Source::Gguf(file) = &self.source else { return Err(self.not_quantized()) };
        let (dense, quantized) = tensors::read_quantized(&file.header, &self.config)?;
        if quantized.is_empty() {
            return Err(self.not_quantized());
        }
        Parameters::with_quantized(&self.config, dense, quantized)
    }

    /// Requires the source to have quantised weights.
    #[cfg(feature = "text")]
    pub(crate) fn check_quantized(&self) -> Result<()> {
        match &self.source {
            Source::Gguf(file) if tensors::any_quantized(&file.header) => Ok(()),
            _ => Err(self.not_quantized()),
        }
    }

    fn not_quantized(&self) -> Error {
        let reason = format!("{} has no quantised weights: use f32 or bf16", self.source);
        Error::setting("model.dtype", "quantized", reason)
    }

    /// Reads all weights once, one tensor at a time, without keeping them.
    ///
    /// # Errors
    /// As [`Pretrained::parameters`].
    pub fn verify(&self) -> Result<()> {
        match &self.source {
            Source::Gguf(file) => tensors::verify(&file.header, &self.config),
            _ => self.weights()?.verify(&self.config),
        }
    }

    /// Reads the tokenizer ([`Tokenizer::open`]). Its turns also end at every `eos_token_id` of
    /// `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// A missing or malformed file, or a vocabulary larger than the model's.
    #[cfg(feature = "text")]
    #[cfg_attr(docsrs, doc(cfg(feature = "text")))]
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::open(&self.source)?;
        tokenizer.check_fits(&self.config)?;
        tokenizer.ending_at(&self.end_ids)
    }

    /// Reads the chat templates from `chat_template.jinja` and `additional_chat_templates`, or from
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A checkpoint without a template, a malformed file, or a template that is not valid Jinja.
    #[cfg(feature = "text")]
    #[cfg_attr(docsrs, doc(cfg(feature = "text")))]
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::open(&self.source)
    }

    /// Writes a model checkpoint that this type and Python's `from_pretrained` can read: the
    /// configuration, the weights in the parameters' dtype, and the source's tokenizer and template
    /// files.
    ///
    /// Each weight file holds at most `shard_bytes` of tensors. The new folder appears complete or
    /// not at all.
    ///
    /// # Errors
    /// Parameters of another model, a folder that is not empty, or a file that cannot be written.
    pub fn save(
        &self,
        folder: impl AsRef<Path>,
        parameters: &Parameters,
        shard_bytes: u64,
    ) -> Result<()> {
        parameters.check_fits(&self.config)?;
        let companions = self.companions()?;
        atomic_folder(folder.as_ref(), |folder| {
            index::write_weights(folder, parameters, shard_bytes)?;
            if companions.iter().any(|(name, _)| name.starts_with(TEMPLATES)) {
                let made = folder.join(TEMPLATES);
                std::fs::create_dir_all(&made).map_err(|e| Error::io(&made, e))?;
            }
            for (name, bytes) in &companions {
                atomic_write(folder.join(name), bytes)?;
            }
            atomic_write(folder.join(CONFIG), format!("{:#}\n", self.saved_config(parameters)?))
        })
    }

    /// Writes the model as one GGUF file, which llama.cpp reads: the weights with matrices as
    /// `kind`, the configuration, the tokenizer and the chat template.
    ///
    /// Parameters with adapters have to be merged first ([`Parameters::merged`]). The file appears
    /// complete or not at all.
    ///
    /// # Errors
    /// Parameters of another model, a tokenizer that GGUF has no name for, a number that f16 cannot
    /// hold, or a file that cannot be written.
    #[cfg(feature = "text")]
    #[cfg_attr(docsrs, doc(cfg(feature = "text")))]
    pub fn save_gguf(
        &self,
        path: impl AsRef<Path>,
        parameters: &Parameters,
        kind: GgufType,
    ) -> Result<()> {
        let metadata = match &self.source {
            Source::Gguf(file) => export::kept_metadata(&file.header),
            source => {
                let text = source.to_string();
                let name = text.rsplit('/').next().unwrap_or(&text);
                let mut metadata = export::config_metadata(&self.config, name);
                let tokens = self.config.vocab_size;
                metadata.extend(tokenizer_metadata(source, tokens, &self.end_ids)?);
                metadata
            }
        };
        export::write_model(path.as_ref(), &self.config, parameters, metadata, kind)
    }

    /// Names and contents of the files next to configuration and weights.
    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut companions = Vec::new();
        for &name in COMPANIONS {
            if let Some(path) = self.source.optional_file(name)? {
                let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
                companions.push((name.to_owned(), bytes));
            } else if let Source::Gguf(file) = &self.source {
                let text = texts::text(&file.header, name)?;
                companions.extend(text.map(|text| (name.to_owned(), text.into_bytes())));
            }
        }
        let templates = self.source.additional_templates()?.into_iter();
        let named = |(name, text): (_, SourceText)| {
            (format!("{TEMPLATES}/{name}.jinja"), text.text.into_bytes())
        };
        companions.extend(templates.map(named));
        Ok(companions)
    }

    /// The configuration file as read, with the dtype of `parameters`.
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
            // Read by transformers 4 and 5; `dtype` only by 5.
            fields.insert("torch_dtype".to_owned(), name.into());
        }
        Ok(json)
    }
}
