//! A position in the tokens of one tag.

use crate::policy::chat::source::lexer::Token;
use crate::policy::chat::source::literal::Refused;
use crate::policy::chat::source::rewrite::Rules;

/// Most levels of brackets and operators inside each other.
const DEPTH: usize = 48;

/// Reads the tokens of one tag.
pub(crate) struct Parser<'t> {
    pub(crate) tokens: &'t [(Token, usize)],
    pub(crate) at: usize,
    depth: usize,
    /// Line of the tag.
    line: usize,
    pub(crate) rules: &'t Rules<'t>,
    /// The errors of unknown filters and tests.
    pub(crate) unknown: Vec<Refused>,
}

impl<'t> Parser<'t> {
    pub(crate) fn new(tokens: &'t [(Token, usize)], line: usize, rules: &'t Rules<'t>) -> Self {
        Self { tokens, at: 0, depth: 0, line, rules, unknown: Vec::new() }
    }

    pub(crate) fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(crate) fn advance(&mut self) -> Option<&'t Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(crate) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    pub(crate) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(crate) fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Refused {
        let line = self.tokens.get(self.at).map_or(self.line, |(_, line)| *line);
        Refused::new(reason).at(line)
    }

    /// The error of a token that cannot stand here.
    pub(crate) fn unexpected(&self, expected: &str) -> Refused {
        let found = self.peek().map_or("the end of the tag".to_owned(), Token::shown);
        self.refused(format!("syntax error: expected {expected}, found {found}"))
    }

    pub(crate) fn expect_sign(&mut self, sign: &str) -> Result<(), Refused> {
        if self.skip_sign(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{sign}`")))
    }

    pub(crate) fn expect_name(&mut self) -> Result<&'t str, Refused> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub(crate) fn expect_end(&self) -> Result<(), Refused> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the tag")),
        }
    }

    /// The position of the next token.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Tells if one of `names` stands between a position and the next token.
    pub(crate) fn used_since(&self, position: usize, names: &[String]) -> bool {
        let used = |(token, _): &(Token, usize)| match token {
            Token::Name(name) => names.contains(name),
            _ => false,
        };
        self.tokens[position..self.at].iter().any(used)
    }

    /// The error of the first unknown filter or test.
    pub(crate) fn unknown(self) -> Option<Refused> {
        self.unknown.into_iter().next()
    }

    /// Parses one level deeper.
    pub(crate) fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.refused("an expression is nested too deeply"));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }
}
