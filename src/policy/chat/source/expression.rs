//! jinja2's grammar of expressions, written again for minijinja.
//!
//! An operator becomes a filter: `a + b` is written `a|__add(b)`. Filters chain without
//! parentheses, so a long sum is not nested deeply.

use crate::policy::chat::source::cursor::Parser;
use crate::policy::chat::source::lexer::Token;
use crate::policy::chat::source::literal::Refused;
use crate::policy::chat::source::piece::{Level, Piece};

impl Parser<'_> {
    /// An expression, with `if` if `conditional`.
    pub(crate) fn expression(&mut self, conditional: bool) -> Result<Piece, Refused> {
        self.nested(|parser| if conditional { parser.conditional() } else { parser.or() })
    }

    fn conditional(&mut self) -> Result<Piece, Refused> {
        let known = self.unknown.len();
        let mut value = self.or()?;
        let conditional = self.is_name("if");
        while self.skip_name("if") {
            let condition = self.or()?.at(Level::Chain);
            let other = if self.skip_name("else") {
                format!(" else {}", self.expression(true)?.at(Level::Chain))
            } else {
                String::new()
            };
            value = Piece::loose(format!("{} if {condition}{other}", value.at(Level::Chain)));
        }
        // What a condition guards is only looked up once it is reached.
        if conditional {
            self.unknown.truncate(known);
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Piece, Refused> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?.at(Level::Chain);
            left = Piece::loose(format!("{} or {right}", self.operand(left, " or ")));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Piece, Refused> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?.at(Level::Chain);
            left = Piece::loose(format!("{} and {right}", self.operand(left, " and ")));
        }
        Ok(left)
    }

    /// The left operand of a chain of `word`, without parentheses around the chain so far.
    fn operand(&self, left: Piece, word: &str) -> String {
        let chained = left.level == Level::Loose
            && left.text.contains(word)
            && !left.text.starts_with("not ")
            && !left.text.contains(" if ")
            && !left.text.contains(if word == " or " { " and " } else { " or " });
        if chained {
            left.text
        } else {
            left.at(Level::Chain)
        }
    }

    fn not(&mut self) -> Result<Piece, Refused> {
        if !self.skip_name("not") {
            return self.comparison();
        }
        let operand = self.nested(Self::not)?;
        Ok(Piece::loose(format!("not {}", operand.at(Level::Chain))))
    }

    fn comparison(&mut self) -> Result<Piece, Refused> {
        let mut left = self.sum()?;
        let mut parts = Vec::new();
        while let Some(name) = self.comparison_sign() {
            let right = self.sum()?;
            parts.push(left.filter(name, &[right.clone().text]));
            left = right;
        }
        Ok(match parts.len() {
            0 => left,
            1 => parts.remove(0),
            _ => {
                let parts: Vec<String> = parts.into_iter().map(Piece::text).collect();
                Piece::loose(parts.join(" and "))
            }
        })
    }

    fn comparison_sign(&mut self) -> Option<&'static str> {
        let name = match self.peek()? {
            Token::Sign("==") => "__eq",
            Token::Sign("!=") => "__ne",
            Token::Sign("<") => "__lt",
            Token::Sign("<=") => "__le",
            Token::Sign(">") => "__gt",
            Token::Sign(">=") => "__ge",
            Token::Name(name) if name == "in" => "__in",
            Token::Name(name) if name == "not" => {
                match self.tokens.get(self.at + 1) {
                    Some((Token::Name(next), _)) if next == "in" => self.at += 1,
                    _ => return None,
                }
                "__not_in"
            }
            _ => return None,
        };
        self.at += 1;
        Some(name)
    }

    fn sum(&mut self) -> Result<Piece, Refused> {
        self.binary(Self::concat, &[("+", "__add"), ("-", "__sub")])
    }

    fn concat(&mut self) -> Result<Piece, Refused> {
        let first = self.product()?;
        let mut others = Vec::new();
        while self.skip_sign("~") {
            others.push(self.product()?.text);
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(first.filter("__concat", &others))
    }

    fn product(&mut self) -> Result<Piece, Refused> {
        let signs = [("*", "__mul"), ("/", "__div"), ("//", "__floordiv"), ("%", "__mod")];
        self.binary(Self::power, &signs)
    }

    fn power(&mut self) -> Result<Piece, Refused> {
        self.binary(|parser| parser.unary(true), &[("**", "__pow")])
    }

    fn binary(
        &mut self,
        operand: impl Fn(&mut Self) -> Result<Piece, Refused>,
        signs: &[(&str, &str)],
    ) -> Result<Piece, Refused> {
        let mut left = operand(self)?;
        while let Some((_, name)) = signs.iter().find(|(sign, _)| self.is_sign(sign)) {
            self.at += 1;
            let right = operand(self)?;
            left = left.filter(name, &[right.text]);
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Piece, Refused> {
        let value = if self.skip_sign("-") {
            self.nested(|parser| parser.unary(false))?.filter("__neg", &[])
        } else if self.skip_sign("+") {
            self.nested(|parser| parser.unary(false))?.filter("__pos", &[])
        } else {
            let primary = self.primary()?;
            self.postfix(primary)?
        };
        if with_filters {
            self.filters(value)
        } else {
            Ok(value)
        }
    }

    pub(crate) fn primary(&mut self) -> Result<Piece, Refused> {
        let Some(token) = self.peek() else { return Err(self.unexpected("an expression")) };
        self.at += 1;
        Ok(match token {
            Token::Name(name) => Piece::tight(match name.as_str() {
                "true" | "True" => "true",
                "false" | "False" => "false",
                "none" | "None" => "none",
                "lipsum" if self.is_sign("(") => {
                    return Err(self.refused("`lipsum` is not supported: it depends on chance"));
                }
                // Only what it stands for is supported, the blocks of the template.
                "self" if self.is_name("is") => "true",
                "self" if !self.is_sign(".") => {
                    return Err(self.refused("`self` is only supported in front of a block"));
                }
                name => name,
            }),
            Token::Text(text) => {
                let mut text = text.clone();
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Piece::literal(&text)
            }
            Token::Integer(digits) => Piece::tight(digits.clone()),
            Token::Float(number) => Piece::float(*number),
            Token::Sign("(") => {
                let piece = self.nested(|parser| parser.tuple(true, true, &[]))?;
                self.expect_sign(")")?;
                Piece::tight(format!("({})", piece.text))
            }
            Token::Sign("[") => Piece::tight(format!("[{}]", self.items("]")?.join(", "))),
            Token::Sign("{") => self.dict()?,
            Token::Sign(_) => {
                self.at -= 1;
                return Err(self.unexpected("an expression"));
            }
        })
    }

    fn items(&mut self, end: &str) -> Result<Vec<String>, Refused> {
        let mut items = Vec::new();
        while !self.is_sign(end) {
            if !items.is_empty() {
                self.expect_sign(",")?;
                if self.is_sign(end) {
                    break;
                }
            }
            items.push(self.expression(true)?.at(Level::Chain));
        }
        self.expect_sign(end)?;
        Ok(items)
    }

    fn dict(&mut self) -> Result<Piece, Refused> {
        let mut entries = Vec::new();
        while !self.is_sign("}") {
            if !entries.is_empty() {
                self.expect_sign(",")?;
                if self.is_sign("}") {
                    break;
                }
            }
            let key = self.expression(true)?.at(Level::Chain);
            self.expect_sign(":")?;
            let value = self.expression(true)?.at(Level::Chain);
            entries.push(format!("({key}, {value})"));
        }
        self.expect_sign("}")?;
        Ok(Piece { text: format!("[{}]|__dict", entries.join(", ")), level: Level::Chain })
    }

    /// An expression, or a tuple if there is a comma.
    pub(crate) fn tuple(
        &mut self,
        conditional: bool,
        empty: bool,
        ends: &[&str],
    ) -> Result<Piece, Refused> {
        let mut items: Vec<Piece> = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_sign(",")?;
            }
            let ended = self.peek().is_none()
                || self.is_sign(")")
                || ends.iter().any(|name| self.is_name(name));
            if ended {
                break;
            }
            items.push(self.expression(conditional)?);
            if !self.is_sign(",") {
                break;
            }
            is_tuple = true;
        }
        if items.len() == 1 && !is_tuple {
            return Ok(items.remove(0));
        }
        if items.is_empty() && !empty {
            return Err(self.unexpected("an expression"));
        }
        let mut text = String::from("(");
        for item in items {
            text.push_str(&item.at(Level::Chain));
            text.push_str(", ");
        }
        text.push(')');
        Ok(Piece::tight(text))
    }

    pub(crate) fn postfix(&mut self, mut value: Piece) -> Result<Piece, Refused> {
        loop {
            if self.skip_sign(".") {
                value = self.attribute(value)?;
            } else if self.skip_sign("[") {
                value = self.nested(|parser| parser.subscript(value))?;
            } else if self.is_sign("(") {
                let rules = self.rules;
                let args = match rules.variadic.get(&value.text) {
                    Some(variadic) => self.variadic_arguments(variadic)?,
                    None => self.arguments()?,
                };
                value = Piece::tight(format!("{}({args})", value.at(Level::Tight)));
            } else {
                return Ok(value);
            }
        }
    }

    fn attribute(&mut self, value: Piece) -> Result<Piece, Refused> {
        match self.advance() {
            Some(Token::Name(name)) if self.is_sign("(") => {
                let args = self.arguments()?;
                Ok(Piece::tight(format!("{}.{name}({args})", value.at(Level::Tight))))
            }
            Some(Token::Name(name)) => Ok(value.filter("__attr", &[format!("'{name}'")])),
            Some(Token::Integer(digits)) => {
                Ok(value.filter("__item", std::slice::from_ref(digits)))
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("a name or a number behind `.`"))
            }
        }
    }

    fn subscript(&mut self, value: Piece) -> Result<Piece, Refused> {
        if self.is_sign("]") {
            return Err(self.unexpected("an index"));
        }
        let mut keys = Vec::new();
        let mut slice = None;
        while !self.is_sign("]") {
            if !keys.is_empty() || slice.is_some() {
                self.expect_sign(",")?;
                slice.take().map_or(Ok(()), |_| Err(self.refused("a slice next to an index")))?;
            }
            match self.slice_part()? {
                Ok(key) => keys.push(key),
                Err(parts) => slice = Some(parts),
            }
        }
        self.expect_sign("]")?;
        match (slice, keys.as_slice()) {
            (Some(parts), []) => Ok(value.filter("__slice", &parts)),
            (Some(_), _) => Err(self.refused("a slice next to an index")),
            (None, [key]) => Ok(value.filter("__item", std::slice::from_ref(key))),
            (None, keys) => Ok(value.filter("__item", &[format!("({})", keys.join(", "))])),
        }
    }

    /// An index, or the three parts of a slice as `Err`.
    fn slice_part(&mut self) -> Result<Result<String, [String; 3]>, Refused> {
        let none = || "none".to_owned();
        let mut parts = [none(), none(), none()];
        if !self.is_sign(":") {
            let key = self.expression(true)?.at(Level::Chain);
            if !self.is_sign(":") {
                return Ok(Ok(key));
            }
            parts[0] = key;
        }
        for part in &mut parts[1..] {
            if !self.skip_sign(":") {
                break;
            }
            if !self.is_sign(":") && !self.is_sign("]") && !self.is_sign(",") {
                *part = self.expression(true)?.at(Level::Chain);
            }
        }
        Ok(Err(parts))
    }
}
