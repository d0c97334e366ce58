//! The input of a chat template: messages, tools and further variables.

use crate::{Error, Result};
use minijinja::value::{Serde, ValueKind};
use minijinja::Value;
use serde::Serialize;

/// A message of plain text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or any other role that the template knows.
    pub role: String,
    /// The message's text.
    pub content: String,
}

impl Message {
    /// A message with any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// A message with instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A message from the environment or a person.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message from the policy.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// A conversation, the tools that may be called in it, and further variables of the template.
///
/// Templates print fields in their given order. Pass messages as structs or as JSON text, not as a
/// `serde_json::Value`, which sorts its fields.
#[derive(Debug, Clone)]
pub struct Chat {
    messages: Vec<Value>,
    tools: Option<Value>,
    add_generation_prompt: bool,
    variables: Vec<(String, Value)>,
}

impl Chat {
    /// A conversation of [`Message`]s, or of structs with further fields such as tool calls.
    ///
    /// # Errors
    /// An empty list, or a message that is not a struct.
    pub fn new<M: Serialize>(messages: &[M]) -> Result<Self> {
        Self::of(Value::from(Serde(messages)))
    }

    /// A conversation from the JSON of a list of messages.
    ///
    /// # Errors
    /// Malformed JSON, an empty list, or a message that is not an object.
    pub fn from_json(messages: &str) -> Result<Self> {
        Self::of(json("messages", messages)?)
    }

    fn of(messages: Value) -> Result<Self> {
        let refused = |reason: &str| Error::setting("messages", &messages, reason);
        let list = messages.try_iter().map_err(|e| refused(&e.to_string()))?;
        let list: Vec<Value> = list
            .map(|message| normalized(&message))
            .collect::<Option<_>>()
            .ok_or_else(|| refused("every message must be an object with fields"))?;
        if list.is_empty() {
            return Err(refused("must hold at least one message"));
        }
        Ok(Self {
            messages: list,
            tools: None,
            add_generation_prompt: false,
            variables: Vec::new(),
        })
    }

    /// Adds tools from the JSON text of a list; each tool is a function with a JSON schema of its
    /// parameters.
    ///
    /// # Errors
    /// Malformed JSON.
    pub fn with_tools_json(mut self, tools: &str) -> Result<Self> {
        self.tools = Some(json("tools", tools)?);
        Ok(self)
    }

    /// Sets whether the text ends with the start of the policy's next message.
    pub fn with_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }

    /// Sets one more template variable, such as `enable_thinking` of Qwen3's template.
    pub fn with_variable<T: Serialize>(mut self, name: impl Into<String>, value: &T) -> Self {
        self.variables.push((name.into(), Value::from(Serde(value))));
        self
    }

    pub(crate) fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// Names and values of all template variables except the special tokens.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, Value)> + '_ {
        let none = Value::from(());
        let fixed = [
            ("messages", Value::from(self.messages.clone())),
            ("tools", self.tools.clone().unwrap_or_else(|| none.clone())),
            ("documents", none),
            ("add_generation_prompt", Value::from(self.add_generation_prompt)),
        ];
        let own = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        own.chain(self.variables.iter().cloned())
    }

    /// Applies `change` to every string in the messages, tools and variables.
    pub(crate) fn map_text(&self, change: &dyn Fn(&str) -> String) -> Self {
        Self {
            messages: self.messages.iter().map(|value| map_text(value, change)).collect(),
            tools: self.tools.as_ref().map(|value| map_text(value, change)),
            add_generation_prompt: self.add_generation_prompt,
            variables: self
                .variables
                .iter()
                .map(|(name, v)| (name.clone(), map_text(v, change)))
                .collect(),
        }
    }
}

fn json(field: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::setting(field, text, e.to_string()))
}

/// The entries of a map; empty for any other value.
fn entries(map: &Value) -> Vec<(Value, Value)> {
    let keys = map.try_iter().into_iter().flatten();
    keys.map(|key| (key.clone(), map.get_item(&key).unwrap_or_default())).collect()
}

/// Prepares a message as transformers does before rendering: null fields are dropped, and reasoning
/// that is stored under an older name is also available as `reasoning_content`. Returns `None` if
/// the message is not a map.
fn normalized(message: &Value) -> Option<Value> {
    if message.kind() != ValueKind::Map {
        return None;
    }
    let mut fields = entries(message);
    fields.retain(|(_, value)| !value.is_none());
    let named = |name: &str| {
        fields.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, v)| v.clone())
    };
    let reasoning = ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(named);
    if let Some(reasoning) = reasoning {
        if named("thinking").is_none() {
            fields.insert(0, (Value::from("thinking"), reasoning.clone()));
        }
        fields.retain(|(key, _)| key.as_str() != Some("reasoning_content"));
        fields.push((Value::from("reasoning_content"), reasoning));
    }
    Some(Value::from_pairs(fields))
}

fn map_text(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => {
            value.as_str().map_or_else(|| value.clone(), |text| Value::from(change(text)))
        }
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            Value::from(items.map(|item| map_text(&item, change)).collect::<Vec<_>>())
        }
        ValueKind::Map => {
            let changed = |(key, item): (Value, Value)| (key, map_text(&item, change));
            Value::from_pairs(entries(value).into_iter().map(changed))
        }
        _ => value.clone(),
    }
}
