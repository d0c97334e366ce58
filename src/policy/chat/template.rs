//! Chat templates: conversations as the text a checkpoint was trained on, as transformers renders them.

use crate::policy::chat::conversation::Chat;
use crate::policy::chat::environment::{environment, without_generation_tags};
use crate::policy::chat::marks;
use crate::policy::source::Source;
use crate::policy::tokenizer::Tokenizer;
use crate::{Error, Result};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};

/// The special tokens that a template may name.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A checkpoint's Jinja template (or several, by name), rendered to the letter as transformers 5 does.
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
    /// Where the template was read, for errors.
    path: PathBuf,
}

impl ChatTemplate {
    /// A template with the special tokens that it may name, such as (`"bos_token"`, `"<s>"`).
    ///
    /// # Errors
    /// A template that is not Jinja.
    pub fn new(template: &str, tokens: &[(&str, &str)]) -> Result<Self> {
        let owned = |&(name, token): &(&str, &str)| (name.to_owned(), token.to_owned());
        let named = [(DEFAULT.to_owned(), template.to_owned())];
        Self::compile(named, tokens.iter().map(owned).collect(), Path::new("chat_template"))
    }

    /// The template of `chat_template.jinja`, or else of `tokenizer_config.json`, which also names the special tokens, as
    /// `special_tokens_map.json` does in older checkpoints.
    ///
    /// # Errors
    /// A source without a template, a file that is malformed, a template that is not Jinja.
    pub fn open(source: &Source) -> Result<Self> {
        let config = source.optional_file("tokenizer_config.json")?;
        let fields = match &config {
            Some(path) => read_object(path)?,
            None => Map::new(),
        };
        let older = match source.optional_file("special_tokens_map.json")? {
            Some(path) => read_object(&path)?,
            None => Map::new(),
        };
        let text = |name: &str| {
            fields.get(name).and_then(token_text).or_else(|| token_text(older.get(name)?))
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

    /// Fixes the time that `strftime_now` gives, in seconds since 1970 (UTC); otherwise it is the system's, in UTC.
    pub fn set_time(&mut self, seconds: u64) {
        self.environment.add_global("__now", Value::from(seconds));
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// Whatever the template refuses: `raise_exception`, an unknown function, filter or test by name, a missing value.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let has = |name: &str| self.environment.get_template(name).is_ok();
        let name = if chat.has_tools() && has(TOOL_USE) { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|e| failed(&self.path, &e))?;
        let tokens =
            self.tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.clone())));
        let context = Value::from_pairs(tokens.chain(chat.variables()));
        template.render(context).map_err(|e| failed(&self.path, &e))
    }

    /// The conversation as token ids: special tokens that the template writes are tokens, those that stand in the
    /// messages or tools are ordinary text.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
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

fn read_object(path: &Path) -> Result<Map<String, Json>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))
}

/// A token given as text or as an object with its content.
fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// A template given as text, or several with their names.
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
            "must be text, or a list of names and templates with a default",
        )),
    }
}
