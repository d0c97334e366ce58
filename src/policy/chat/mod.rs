//! Chat templates: conversations rendered as the text that a model checkpoint was trained on.
//!
//! An instruction-tuned model only behaves if its prompts match its training text character for
//! character. Checkpoints therefore ship a Jinja template, and Python's transformers defines how it
//! renders. This module reproduces that rendering: minijinja compiles and runs the template, with
//! Python's operators, methods, filters, tests and `json.dumps` in the place of its own. It is
//! tested against transformers' output. Text inside messages never becomes a
//! special token, so an environment cannot end a turn or forge a role.

pub(crate) mod conversation;
pub(crate) mod environment;
pub(crate) mod json;
pub(crate) mod marks;
pub(crate) mod python;
pub(crate) mod source;
pub(crate) mod strftime;
pub(crate) mod template;

pub use conversation::{Chat, Message};
pub use template::ChatTemplate;
