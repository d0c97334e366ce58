//! Scores of tokens: log-probabilities and entropies of logits, and of hidden states through a
//! head.

pub(crate) mod block;
pub(crate) mod head;
pub(crate) mod kept;
pub(crate) mod linear_logprob_entropy;
pub(crate) mod logit;
pub(crate) mod logprob_entropy;
pub(crate) mod quantized_head;
pub(crate) mod scoring;
pub(crate) mod softmax;
pub(crate) mod support;
