//! Grammar documents: blocks of JSON rules, and actions with a command template and a feedback.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::env::alfworld::error::{AlfworldError, Result, Source};
use crate::env::alfworld::grammar::chars::{is_space, is_word};

/// A rule of a non-terminal.
#[derive(Debug, Deserialize)]
pub(crate) struct RawRule<'a> {
    #[serde(borrow)]
    pub(crate) rhs: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) condition: Cow<'a, str>,
}

/// The texts of an action.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawAction<'a> {
    pub(crate) template: &'a str,
    pub(crate) feedback: &'a str,
}

/// A parsed document; a later non-terminal or action replaces an earlier one of the same name.
#[derive(Debug, Default)]
pub(crate) struct Document<'a> {
    pub(crate) rules: BTreeMap<String, Vec<RawRule<'a>>>,
    pub(crate) actions: BTreeMap<String, RawAction<'a>>,
}

/// A position in a document.
struct Cursor<'a> {
    source: Source<'a>,
    at: usize,
}

impl<'a> Document<'a> {
    /// Parses the text of a grammar.
    pub(crate) fn parse(source: Source<'a>) -> Result<Self> {
        let mut cursor = Cursor { source, at: 0 };
        let mut document = Self::default();
        while !cursor.is_at_end() {
            if cursor.eat_keyword("grammar") {
                document.read_rules(&mut cursor)?;
            } else if cursor.eat_keyword("action") {
                document.read_action(&mut cursor)?;
            } else {
                return Err(cursor.error("expected `action` or `grammar`"));
            }
        }
        Ok(document)
    }

    fn read_rules(&mut self, cursor: &mut Cursor<'a>) -> Result<()> {
        let block = cursor.field(Cursor::block)?;
        let rules: BTreeMap<String, Vec<RawRule>> = if has_comments(block) {
            let text = without_comments(block);
            let owned = serde_json::from_str(&text).map_err(|e| cursor.json_error(block, &e))?;
            into_owned(owned)
        } else {
            serde_json::from_str(block).map_err(|e| cursor.json_error(block, &e))?
        };
        self.rules.extend(rules);
        Ok(())
    }

    fn read_action(&mut self, cursor: &mut Cursor<'a>) -> Result<()> {
        let start = cursor.at;
        let name = cursor.name()?.to_lowercase();
        cursor.expect("{")?;
        let mut template = None;
        let mut feedback = None;
        while !cursor.eat("}") {
            let field = cursor.at;
            let repeated = if cursor.eat_keyword("template") {
                template.replace(cursor.field(Cursor::string)?).is_some()
            } else if cursor.eat_keyword("feedback") {
                feedback.replace(cursor.field(Cursor::string)?).is_some()
            } else if cursor.eat_keyword("grammar") {
                self.read_rules(cursor)?;
                false
            } else if cursor.eat_keyword("pddl") {
                cursor.field(Cursor::block)?;
                false
            } else {
                let reason = "expected `template`, `feedback`, `grammar`, `pddl` or `}`";
                return Err(cursor.error(reason));
            };
            if repeated {
                return Err(cursor.source.error(field, cursor.at, "this field is repeated"));
            }
        }
        let (Some(template), Some(feedback)) = (template, feedback) else {
            let reason = "an action needs a template and a feedback";
            return Err(cursor.source.error(start, cursor.at, reason));
        };
        self.actions.insert(name, RawAction { template, feedback });
        Ok(())
    }
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.source.text[self.at..]
    }

    /// Skips white space and comments, `#` to the end of the line.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            self.at += blank;
            if !self.rest().starts_with('#') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.skip();
        self.rest().is_empty()
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn eat_keyword(&mut self, word: &str) -> bool {
        self.skip();
        let after = self.rest().strip_prefix(word);
        after.is_some_and(|after| !after.starts_with(is_word)) && self.eat(word)
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(self.error(&format!("expected `{token}`")))
        }
    }

    /// Reads `:: value ;`.
    fn field(&mut self, value: fn(&mut Self) -> Result<&'a str>) -> Result<&'a str> {
        self.expect("::")?;
        let value = value(self)?;
        self.expect(";")?;
        Ok(value)
    }

    fn name(&mut self) -> Result<&'a str> {
        self.skip();
        let rest = self.rest();
        let end = rest.find(|c| !(is_word(c) || matches!(c, '/' | '-'))).unwrap_or(rest.len());
        self.at += end;
        match end {
            0 => Err(self.error("expected a name")),
            _ => Ok(&rest[..end]),
        }
    }

    fn string(&mut self) -> Result<&'a str> {
        self.delimited("\"")
    }

    fn block(&mut self) -> Result<&'a str> {
        self.delimited("\"\"\"")
    }

    fn delimited(&mut self, quote: &str) -> Result<&'a str> {
        self.skip();
        let found = self.rest().strip_prefix(quote).and_then(|inner| inner.split_once(quote));
        let Some((inner, _)) = found else {
            return Err(self.error(&format!("expected a text in {quote}")));
        };
        self.at += inner.len() + 2 * quote.len();
        Ok(inner)
    }

    /// Creates an error at the next token.
    fn error(&self, reason: &str) -> AlfworldError {
        let rest = self.rest();
        let end =
            rest.char_indices().skip(1).find(|(_, c)| !is_word(*c)).map_or(rest.len(), |(i, _)| i);
        self.source.error(self.at, self.at + end, reason)
    }

    /// Locates an error of the JSON parser in `block`.
    fn json_error(&self, block: &'a str, error: &serde_json::Error) -> AlfworldError {
        let line_start = match error.line() {
            0 | 1 => 0,
            line => block.match_indices('\n').nth(line - 2).map_or(0, |(i, _)| i + 1),
        };
        let inside = (line_start + error.column().saturating_sub(1)).min(block.len());
        let inside = (0..=inside).rev().find(|&i| block.is_char_boundary(i)).unwrap_or(0);
        let end = block[inside..].find(['\n', ',', ':']).map_or(block.len(), |i| inside + i);
        let start = block.as_ptr() as usize - self.source.text.as_ptr() as usize;
        let reason = error.to_string(); // It ends with a position inside the block.
        let reason = reason.split(" at line ").next().unwrap_or_default();
        self.source.error(start + inside, start + end, reason)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start_matches(is_space).starts_with('#')
}

fn has_comments(block: &str) -> bool {
    block.contains('#') && block.lines().any(is_comment)
}

/// Empties the comment lines of a block.
fn without_comments(block: &str) -> String {
    let lines = block.split('\n').map(|line| if is_comment(line) { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn into_owned(rules: BTreeMap<String, Vec<RawRule>>) -> BTreeMap<String, Vec<RawRule<'static>>> {
    let owned = |rule: RawRule| RawRule {
        rhs: Cow::Owned(rule.rhs.into_owned()),
        condition: Cow::Owned(rule.condition.into_owned()),
    };
    let rules = rules.into_iter();
    rules.map(|(name, list)| (name, list.into_iter().map(owned).collect())).collect()
}
