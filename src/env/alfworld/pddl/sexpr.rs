//! S-expressions as a flat list of tokens; the token of a list holds the index after the list.

use crate::env::alfworld::error::{AlfworldError, Result, Source};

/// The largest nesting depth of parentheses.
const MAX_DEPTH: usize = 64;

/// A parsed text with exactly one list at its top.
pub(crate) struct Sexpr<'a> {
    source: Source<'a>,
    /// The text in lower case: PDDL names are not case-sensitive.
    lower: &'a str,
    is_ascii: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy)]
struct Token {
    start: u32,
    end: u32,
    /// The index of the token after this word, or after the list's closing parenthesis.
    next: u32,
}

/// A word or a list.
#[derive(Clone, Copy)]
pub(crate) struct Node<'s> {
    tree: &'s Sexpr<'s>,
    at: usize,
}

/// The items of a list.
#[derive(Clone)]
pub(crate) struct Items<'s> {
    tree: &'s Sexpr<'s>,
    at: usize,
    end: usize,
}

impl<'a> Sexpr<'a> {
    /// Parses `source`; `lower` is its text in lower case.
    pub(crate) fn parse(source: Source<'a>, lower: &'a str) -> Result<Self> {
        let tokens = Vec::with_capacity(lower.len() / 12);
        let mut tree = Self { source, lower, is_ascii: lower.is_ascii(), tokens };
        let bytes = lower.as_bytes();
        let mut at = 0;
        let mut open = Vec::new();
        while let Some(&byte) = bytes.get(at) {
            at = match byte {
                _ if is_space(byte) => at + 1,
                b';' => line_end(bytes, at),
                b'(' => tree.open(at, &mut open)?,
                b')' => tree.close(at, &mut open)?,
                _ => tree.word(bytes, at, open.is_empty())?,
            };
        }
        match open.last() {
            Some(&unclosed) => Err(tree.error_at(unclosed, "this parenthesis is never closed")),
            None if tree.tokens.is_empty() => Err(source.error(0, 0, "there is nothing here")),
            None => Ok(tree),
        }
    }

    fn open(&mut self, at: usize, open: &mut Vec<usize>) -> Result<usize> {
        if open.is_empty() && !self.tokens.is_empty() {
            let reason = "the text goes on after its last parenthesis";
            return Err(self.source.error(at, at + 1, reason));
        }
        if open.len() == MAX_DEPTH {
            let reason = format!("parentheses are nested more than {MAX_DEPTH} deep");
            return Err(self.source.error(at, at + 1, reason));
        }
        open.push(self.tokens.len());
        self.push(at, at + 1);
        Ok(at + 1)
    }

    fn close(&mut self, at: usize, open: &mut Vec<usize>) -> Result<usize> {
        let Some(opened) = open.pop() else {
            return Err(self.source.error(at, at + 1, "this parenthesis closes nothing"));
        };
        self.push(at, at + 1);
        self.tokens[opened].next = self.tokens.len() as u32;
        Ok(at + 1)
    }

    fn word(&mut self, bytes: &[u8], start: usize, outside: bool) -> Result<usize> {
        let rest = &bytes[start + 1..];
        let length = rest.iter().position(|&byte| ends_word(byte)).unwrap_or(rest.len());
        let end = start + 1 + length;
        if !self.is_ascii && !bytes[start..end].is_ascii() {
            let reason = "only ASCII characters are allowed outside comments";
            return Err(self.source.error(start, end, reason));
        }
        if outside {
            return Err(self.source.error(start, end, "expected one list in parentheses"));
        }
        self.push(start, end);
        Ok(end)
    }

    fn push(&mut self, start: usize, end: usize) {
        let next = self.tokens.len() as u32 + 1;
        self.tokens.push(Token { start: start as u32, end: end as u32, next });
    }

    fn error_at(&self, at: usize, reason: &str) -> AlfworldError {
        let token = self.tokens[at];
        self.source.error(token.start as usize, token.end as usize, reason)
    }

    /// The list at the root.
    pub(crate) fn root(&self) -> Node<'_> {
        Node { tree: self, at: 0 }
    }
}

impl<'s> Node<'s> {
    /// Returns the word, if the node is one.
    #[inline]
    pub(crate) fn as_word(self) -> Option<&'s str> {
        let token = self.tree.tokens[self.at];
        let is_word = token.next as usize == self.at + 1;
        is_word.then(|| &self.tree.lower[token.start as usize..token.end as usize])
    }

    /// Returns the word, or an error if the node is a list.
    #[inline]
    pub(crate) fn word(self) -> Result<&'s str> {
        self.as_word().ok_or_else(|| self.error("expected a word"))
    }

    /// Returns the items of the list.
    pub(crate) fn items(self) -> Result<Items<'s>> {
        if self.as_word().is_some() {
            return Err(self.error("expected a list in parentheses"));
        }
        let end = self.tree.tokens[self.at].next as usize - 1;
        Ok(Items { tree: self.tree, at: self.at + 1, end })
    }

    /// Returns the first word of the list and the items after it.
    pub(crate) fn headed(self) -> Result<(&'s str, Items<'s>)> {
        let mut items = self.items()?;
        let head = items.next().ok_or_else(|| self.error("an empty list"))?.word()?;
        Ok((head, items))
    }

    /// Creates an error at this node.
    pub(crate) fn error(self, reason: impl Into<String>) -> AlfworldError {
        let token = self.tree.tokens[self.at];
        self.tree.source.error(token.start as usize, token.end as usize, reason)
    }
}

impl<'s> Iterator for Items<'s> {
    type Item = Node<'s>;

    fn next(&mut self) -> Option<Node<'s>> {
        if self.at == self.end {
            return None;
        }
        let node = Node { tree: self.tree, at: self.at };
        self.at = self.tree.tokens[self.at].next as usize;
        Some(node)
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |i| at + i)
}

/// Tests if a word ends before this byte.
fn ends_word(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b'(' | b')' | b';' | b'?')
}

/// Tests for white space: ASCII's, and its four separator characters.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0x1c..=0x1f)
}
