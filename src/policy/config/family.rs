//! The supported families of decoders.

/// The architecture of a decoder's blocks. Families differ in the biases and norms of their
/// attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): biases on queries, keys and values.
    Qwen2,
    /// Qwen3 (arXiv 2505.09388): a norm on every query and key head, no biases.
    Qwen3,
    /// Llama 2 and 3 (arXiv 2407.21783) and models with the same layout, such as SmolLM2: neither
    /// norms nor biases.
    Llama,
    /// Mistral (arXiv 2310.06825) without its sliding window: the same blocks as Llama.
    Mistral,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Qwen2, Self::Qwen3, Self::Llama, Self::Mistral];

    /// The `model_type` of a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// The single entry of `architectures` in a `config.json`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
        }
    }

    /// Returns true if the family's configurations have the choice `attention_bias`.
    pub(crate) fn has_optional_biases(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Llama)
    }

    /// `max_position_embeddings` of a configuration that does not state it.
    pub(crate) fn unstated_context(self) -> usize {
        match self {
            Self::Qwen2 | Self::Qwen3 => 32_768,
            Self::Llama => 2_048,
            Self::Mistral => 131_072,
        }
    }

    /// `num_key_value_heads` of a configuration that does not state it; `None` for as many as
    /// query heads.
    pub(crate) fn unstated_key_value_heads(self) -> Option<usize> {
        match self {
            Self::Qwen2 | Self::Qwen3 => Some(32),
            Self::Llama => None,
            Self::Mistral => Some(8),
        }
    }
}
