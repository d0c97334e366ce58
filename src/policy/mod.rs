//! Decoders of the Qwen2, Qwen3, Llama and Mistral families, for training and for sampling.
//!
//! One [`Decoder`] has two modes that share its weights: a teacher-forced forward pass with
//! gradients, and batched decoding with a KV cache. Rollouts and updates therefore always see the
//! same policy, and no inference server has to be kept in sync. [`Pretrained`] reads and writes
//! model checkpoints in Hugging Face's layout, [`LoraConfig`] adds LoRA adapters, and
//! `ChatTemplate` renders prompts exactly as transformers does.
//!
//! ```
//! use epo::policy::{Decoder, DecoderConfig, KvCache, Parameters, Request, SamplingParams};
//! use epo::rng::{Purpose, Stream};
//! use candle_core::{DType, Device};
//!
//! # fn main() -> epo::Result<()> {
//! let config = DecoderConfig::tiny(50);
//! let parameters = Parameters::init(&config, 7, DType::F32, &Device::Cpu)?;
//! let decoder = Decoder::new(&config, &parameters)?;
//!
//! // Training: hidden states of packed rows; compute logits only for the positions you need.
//! let hidden = decoder.forward_packed(&[&[1, 2, 3], &[4, 5]])?; // [5, hidden]
//! let logits = decoder.logits(&hidden)?; // [5, vocabulary]
//! assert_eq!(logits.dims(), [5, 50]);
//!
//! // Rollout: rows of one KV cache, continued turn after turn.
//! let mut cache = KvCache::new(&config, 2);
//! let sampling = SamplingParams { max_tokens: 4, ..SamplingParams::default() };
//! let request = |row, prompt| {
//!     let stream = Stream::new(7, Purpose::Rollout, 0, 0, row as u32);
//!     Request { row, prompt, stream, turn: 0, choices: None }
//! };
//! let requests = [request(0, &[1, 2, 3][..]), request(1, &[4, 5])];
//! let out = decoder.generate(&mut cache, &requests, &sampling)?;
//! assert_eq!(cache.len(1), 2 + out[1].ids.len());
//! # Ok(()) }
//! ```

pub(crate) mod adapter;
#[cfg(feature = "text")]
pub(crate) mod added_tokens;
pub(crate) mod agreement;
pub(crate) mod block;
pub(crate) mod cache;
#[cfg(feature = "text")]
pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod decode;
pub(crate) mod decode_device;
pub(crate) mod decoder;
pub(crate) mod files;
pub(crate) mod finite;
pub(crate) mod generate;
pub(crate) mod gguf;
pub(crate) mod gradients;
#[cfg(feature = "hub")]
pub(crate) mod hub;
pub(crate) mod initial;
pub(crate) mod lora;
#[cfg(feature = "models")]
pub(crate) mod named;
#[cfg(not(feature = "models"))]
#[path = "named_off.rs"]
pub(crate) mod named;
pub(crate) mod pages;
pub(crate) mod parameters;
pub(crate) mod peft;
pub(crate) mod peft_config;
pub(crate) mod peft_targets;
#[cfg(feature = "text")]
pub(crate) mod places;
pub(crate) mod pretrained;
pub(crate) mod request;
pub(crate) mod sampling;
pub(crate) mod source;
#[cfg(feature = "text")]
pub(crate) mod tokenizer;
#[cfg(feature = "transformers")]
pub(crate) mod transformers;
pub(crate) mod trie;
pub(crate) mod value;

pub use agreement::max_decode_forward_gap;
pub use cache::KvCache;
#[cfg(feature = "text")]
#[cfg_attr(docsrs, doc(cfg(feature = "text")))]
pub use chat::{Chat, ChatTemplate, Message};
pub use config::{DecoderConfig, Family, RopeScaling};
pub use decoder::Decoder;
pub use gguf::GgufFile;
#[cfg(feature = "text")]
#[cfg_attr(docsrs, doc(cfg(feature = "text")))]
pub use gguf::GgufType;
pub use gradients::{GradientSum, Gradients, MicroGradients};
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use hub::Hub;
pub use lora::{LoraConfig, LORA_MODULES};
pub use parameters::Parameters;
pub use pretrained::{GenerationConfig, Pretrained};
pub use request::{Finish, Generated, Request};
pub use sampling::{SamplingParams, StopStrings};
pub use source::Source;
#[cfg(feature = "text")]
#[cfg_attr(docsrs, doc(cfg(feature = "text")))]
pub use tokenizer::Tokenizer;
#[cfg(feature = "transformers")]
#[cfg_attr(docsrs, doc(cfg(feature = "transformers")))]
pub use transformers::FrozenModel;
pub use trie::TokenTrie;
pub use value::ValueModel;

#[cfg(test)]
mod tests;
