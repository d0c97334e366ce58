//! The chat template of a model checkpoint, read, compiled and rendered.

use crate::policy::chat::conversation::Chat;
use crate::policy::chat::environment::{environment, without_generation_tags};
use crate::policy::chat::marks;
use crate::policy::files::read_json;
use crate::policy::source::Source;
use crate::policy::tokenizer::Tokenizer;
use crate::{Error, Result};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};

/// Names of the special tokens that a template may use.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The Jinja chat template of a model checkpoint, or several by name, rendered exactly as by
/// transformers 5.
///
/// ```
/// use epo::policy::{Chat, ChatTemplate, Message};
///
/// # fn main() -> epo::Result<()> {
/// let template = ChatTemplate::new(
///     "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}",
///     &[("eos_token", "</s>")],
/// )?;
/// let chat = Chat::new(&[Message::user(" look "), Message::assistant("around")])?;
/// assert_eq!(template.render(&chat)?, "<user>look</s><assistant>around</s>");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Vec<(String, String)>,
    /// The template's file, for error messages.
    path: PathBuf,
}

impl ChatTemplate {
    /// Compiles a template with the special tokens that it may use, such as (`"bos_token"`,
    /// `"<s>"`).
    ///
    /// # Errors
    /// A template that is not valid Jinja.
    pub fn new(template: &str, tokens: &[(&str, &str)]) -> Result<Self> {
        let owned = |&(name, token): &(&str, &str)| (name.to_owned(), token.to_owned());
        let named = [(DEFAULT.to_owned(), template.to_owned())];
        Self::compile(named, tokens.iter().map(owned).collect(), Path::new("chat_template"))
    }

    /// Reads the template from `chat_template.jinja` or, if there is none, from
    /// `tokenizer_config.json`.
    ///
    /// The special tokens come from `tokenizer_config.json` and, in older checkpoints,
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// A source without a template, a malformed file, or a template that is not valid Jinja.
    pub fn open(source: &Source) -> Result<Self> {
        let config = source.optional_file("tokenizer_config.json")?;
        let fields: Map<String, Json> = match &config {
            Some(path) => read_json(path)?,
            None => Map::new(),
        };
        let token_map: Map<String, Json> = match source.optional_file("special_tokens_map.json")? {
            Some(path) => read_json(&path)?,
            None => Map::new(),
        };
        let text = |name: &str| {
            fields.get(name).and_then(token_text).or_else(|| token_text(token_map.get(name)?))
        };
        let tokens =
            TOKENS.into_iter().filter_map(|name| Some((name.to_owned(), text(name)?))).collect();
        if let Some(path) = source.optional_file("chat_template.jinja")? {
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            return Self::compile([(DEFAULT.to_owned(), text)], tokens, &path);
        }
        match (config, fields.get("chat_template")) {
            (Some(path), Some(template)) => {
                Self::compile(named_templates(template, &path)?, tokens, &path)
            }
            _ => Err(Error::setting("source", source, "has no chat template")),
        }
    }

    fn compile(
        templates: impl IntoIterator<Item = (String, String)>,
        tokens: Vec<(String, String)>,
        path: &Path,
    ) -> Result<Self> {
        let mut environment = environment().map_err(|e| failed(path, &e))?;
        for (name, text) in templates {
            let added = environment.add_template_owned(name, without_generation_tags(&text));
            added.map_err(|e| failed(path, &e))?;
        }
        Ok(Self { environment, tokens, path: path.to_path_buf() })
    }

    /// Fixes the time that `strftime_now` prints, in seconds since 1970 (UTC). The default is the
    /// system's clock, in UTC.
    pub fn set_time(&mut self, seconds: u64) {
        self.environment.add_global("__now", Value::from(seconds));
    }

    /// Renders the conversation as text.
    ///
    /// # Errors
    /// A call of `raise_exception`, an unknown function, filter or test (by name), or an undefined
    /// value.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let has = |name: &str| self.environment.get_template(name).is_ok();
        let name = if chat.has_tools() && has(TOOL_USE) { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|e| failed(&self.path, &e))?;
        let tokens =
            self.tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.clone())));
        let context = Value::from_pairs(tokens.chain(chat.variables()));
        template.render(context).map_err(|e| failed(&self.path, &e))
    }

    /// Renders the conversation as token ids. Special tokens that the template writes become
    /// tokens; those inside messages or tools are encoded as ordinary text.
    ///
    /// # Errors
    /// A template that cannot be rendered, or text that the tokenizer cannot encode.
    pub fn encode(&self, chat: &Chat, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let special = tokenizer.special_tokens();
        let text = self.render(&chat.map_text(&|text| marks::mark(text, &special)))?;
        marks::encode(&text, &special, tokenizer)
    }
}

fn failed(path: &Path, error: &minijinja::Error) -> Error {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    Error::file(path, "chat_template", reason)
}

/// The text of a token, which is stored as a string or as an object with a `content`.
fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// The templates of a `chat_template` field: one string, or a list of names and templates.
fn named_templates(value: &Json, path: &Path) -> Result<Vec<(String, String)>> {
    if let Some(text) = value.as_str() {
        return Ok(vec![(DEFAULT.to_owned(), text.to_owned())]);
    }
    let named = |item: &Json| {
        Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()))
    };
    let templates =
        value.as_array().and_then(|list| list.iter().map(named).collect::<Option<Vec<_>>>());
    match templates {
        Some(list) if list.iter().any(|(name, _)| name == DEFAULT) => Ok(list),
        _ => Err(Error::file(
            path,
            "chat_template",
            "must be a string, or a list of named templates that includes `default`",
        )),
    }
}
