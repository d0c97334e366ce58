//! The supported families of decoders.

/// What a decoder's blocks look like; they differ in where the attention has biases and norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): biases on queries, keys and values.
    Qwen2,
    /// Qwen3 (arXiv 2505.09388): a norm on every query and key head, no biases.
    Qwen3,
    /// Llama 2 and 3 (arXiv 2407.21783), and what is laid out like it, such as SmolLM2: neither norms nor biases.
    Llama,
    /// Mistral (arXiv 2310.06825) without its sliding window: the blocks of Llama.
    Mistral,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Qwen2, Self::Qwen3, Self::Llama, Self::Mistral];

    /// `model_type` in a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// The only entry of `architectures` in a `config.json`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
        }
    }

    /// Whether `attention_bias` means anything to it.
    pub(crate) fn has_optional_biases(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Llama)
    }
}
