//! Chat templates: conversations as the text a checkpoint was trained on, as transformers renders them.

pub(crate) mod conversation;
pub(crate) mod environment;
pub(crate) mod json;
pub(crate) mod marks;
pub(crate) mod strftime;
pub(crate) mod template;

pub use conversation::{Chat, Message};
pub use template::ChatTemplate;
