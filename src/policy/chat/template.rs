//! The chat template of a model checkpoint, read, compiled and rendered.

use crate::policy::chat::conversation::Chat;
use crate::policy::chat::environment::{environment, knows};
use crate::policy::chat::marks;
use crate::policy::chat::source::python_source;
use crate::policy::source::{Source, SourceText};
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
    /// Names of the templates and their files, for error messages.
    paths: Vec<(String, PathBuf)>,
}

/// A template as it was read.
struct Text {
    name: String,
    text: String,
    path: PathBuf,
}

impl ChatTemplate {
    /// Compiles a template with the special tokens that it may use, such as (`"bos_token"`,
    /// `"<s>"`).
    ///
    /// # Errors
    /// By line: a template that is not valid Jinja, or a construct that cannot be rendered as in
    /// Python.
    pub fn new(template: &str, tokens: &[(&str, &str)]) -> Result<Self> {
        let owned = |&(name, token): &(&str, &str)| (name.to_owned(), token.to_owned());
        let text = Text {
            name: DEFAULT.to_owned(),
            text: template.to_owned(),
            path: "chat_template".into(),
        };
        Self::compile(vec![text], tokens.iter().map(owned).collect())
    }

    /// Reads the template from `chat_template.jinja` and those in `additional_chat_templates` or,
    /// if there are none, from `tokenizer_config.json`.
    ///
    /// The special tokens come from `tokenizer_config.json` and, in older checkpoints,
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// A source without a template, a malformed file or, by line, a template that is not valid
    /// Jinja or cannot be rendered as in Python.
    pub fn open(source: &Source) -> Result<Self> {
        let config = source.text("tokenizer_config.json")?;
        let fields: Map<String, Json> = match &config {
            Some(file) => file.json()?,
            None => Map::new(),
        };
        let token_map: Map<String, Json> = match source.text("special_tokens_map.json")? {
            Some(file) => file.json()?,
            None => Map::new(),
        };
        let text = |name: &str| {
            fields.get(name).and_then(token_text).or_else(|| token_text(token_map.get(name)?))
        };
        let tokens =
            TOKENS.into_iter().filter_map(|name| Some((name.to_owned(), text(name)?))).collect();
        let mut texts = Vec::new();
        if let Some(SourceText { path, text }) = source.text("chat_template.jinja")? {
            texts.push(Text { name: DEFAULT.to_owned(), text, path });
        }
        for (name, SourceText { path, text }) in source.additional_templates()? {
            texts.push(Text { name, text, path });
        }
        if let (true, Some(config), Some(template)) =
            (texts.is_empty(), config, fields.get("chat_template"))
        {
            texts = named_templates(template, &config.path)?;
        }
        if texts.iter().any(|text| text.name == DEFAULT) {
            return Self::compile(texts, tokens);
        }
        Err(Error::setting("model.source", source, "has no chat template"))
    }

    fn compile(texts: Vec<Text>, tokens: Vec<(String, String)>) -> Result<Self> {
        let mut paths = Vec::new();
        let unnamed = Path::new("chat_template");
        let mut environment = environment().map_err(|e| failed(unnamed, &e))?;
        for Text { name, text, path } in texts {
            let source = python_source(&text, &knows)
                .map_err(|e| Error::file(&path, "chat_template", e.to_string()))?;
            let added = environment.add_template_owned(name.clone(), source);
            added.map_err(|e| failed(&path, &e))?;
            paths.push((name, path));
        }
        Ok(Self { environment, tokens, paths })
    }

    /// Fixes the time that `strftime_now` prints, in seconds since 1970 (UTC). The default is the
    /// system's clock, in UTC.
    pub fn set_time(&mut self, seconds: u64) {
        self.environment.add_global("__now", Value::from(seconds));
    }

    /// Renders the conversation as text.
    ///
    /// # Errors
    /// A call of `raise_exception`, an unknown function or method (by name), an undefined value, or
    /// another error that Python reports too.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let file = |wanted: &str| self.paths.iter().find(|(name, _)| name == wanted);
        let tool_use = if chat.has_tools() { file(TOOL_USE) } else { None };
        let (name, path) = tool_use
            .or_else(|| file(DEFAULT))
            .ok_or_else(|| Error::file("chat_template", "chat_template", "there is no template"))?;
        let template = self.environment.get_template(name).map_err(|e| failed(path, &e))?;
        let tokens =
            self.tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.clone())));
        let context = Value::from_pairs(tokens.chain(chat.variables()));
        template.render(context).map_err(|e| failed(path, &e))
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
fn named_templates(value: &Json, path: &Path) -> Result<Vec<Text>> {
    let new = |name: &str, text: &str| Text {
        name: name.to_owned(),
        text: text.to_owned(),
        path: path.to_path_buf(),
    };
    if let Some(text) = value.as_str() {
        return Ok(vec![new(DEFAULT, text)]);
    }
    let named =
        |item: &Json| Some(new(item.get("name")?.as_str()?, item.get("template")?.as_str()?));
    let templates =
        value.as_array().and_then(|list| list.iter().map(named).collect::<Option<Vec<_>>>());
    match templates {
        Some(list) if list.iter().any(|text| text.name == DEFAULT) => Ok(list),
        _ => Err(Error::file(
            path,
            "chat_template",
            "must be a string, or a list of named templates that includes `default`",
        )),
    }
}
