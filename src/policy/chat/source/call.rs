//! Calls, filters and tests in expressions.

use crate::policy::chat::source::cursor::Parser;
use crate::policy::chat::source::lexer::Token;
use crate::policy::chat::source::literal::Refused;
use crate::policy::chat::source::piece::{Level, Piece};
use crate::policy::chat::source::rewrite::{Name, Variadic};

/// An argument of a call.
enum Argument {
    Plain(String),
    Named(String, String),
    /// `*list` or `**dict`.
    Spread(String),
}

impl Argument {
    fn text(self) -> String {
        match self {
            Self::Plain(text) | Self::Spread(text) => text,
            Self::Named(name, text) => format!("{name}={text}"),
        }
    }
}

impl Parser<'_> {
    /// The arguments of a call, without their parentheses.
    pub(crate) fn arguments(&mut self) -> Result<String, Refused> {
        let args = self.argument_list()?;
        let texts: Vec<String> = args.into_iter().map(Argument::text).collect();
        Ok(texts.join(", "))
    }

    /// The arguments of a macro that takes any number of them.
    pub(crate) fn variadic_arguments(&mut self, variadic: &Variadic) -> Result<String, Refused> {
        let mut given = Vec::new();
        let mut more = String::new();
        let mut named = String::new();
        for arg in self.argument_list()? {
            match arg {
                Argument::Plain(text) if given.len() < variadic.parameters.len() => {
                    given.push(text);
                }
                Argument::Plain(text) => more.push_str(&format!("{text}, ")),
                Argument::Named(name, text) if variadic.parameters.contains(&name) => {
                    given.push(format!("{name}={text}"));
                }
                Argument::Named(name, text) => {
                    named.push_str(&format!("('{name}', {text}), "));
                }
                Argument::Spread(_) => {
                    return Err(self.refused("`*` in a call of a macro that uses `varargs`"));
                }
            }
        }
        if !more.is_empty() {
            given.push(format!("varargs=({more})"));
        }
        if !named.is_empty() {
            given.push(format!("kwargs=([{named}]|__dict)"));
        }
        Ok(given.join(", "))
    }

    fn argument_list(&mut self) -> Result<Vec<Argument>, Refused> {
        self.expect_sign("(")?;
        self.nested(|parser| {
            let mut args: Vec<Argument> = Vec::new();
            while !parser.is_sign(")") {
                if !args.is_empty() {
                    parser.expect_sign(",")?;
                    if parser.is_sign(")") {
                        break;
                    }
                }
                let named = args.iter().any(|arg| !matches!(arg, Argument::Plain(_)));
                args.push(parser.argument(named)?);
            }
            parser.expect_sign(")")?;
            Ok(args)
        })
    }

    fn argument(&mut self, named: bool) -> Result<Argument, Refused> {
        for sign in ["**", "*"] {
            if self.skip_sign(sign) {
                let text = self.expression(true)?.at(Level::Chain);
                return Ok(Argument::Spread(format!("{sign}{text}")));
            }
        }
        if let (Some(Token::Name(name)), Some((Token::Sign("="), _))) =
            (self.peek(), self.tokens.get(self.at + 1))
        {
            self.at += 2;
            return Ok(Argument::Named(name.clone(), self.expression(true)?.at(Level::Chain)));
        }
        if named {
            return Err(self.unexpected("a named argument"));
        }
        Ok(Argument::Plain(self.expression(true)?.at(Level::Chain)))
    }

    pub(crate) fn filters(&mut self, mut value: Piece) -> Result<Piece, Refused> {
        loop {
            if self.skip_sign("|") {
                value = self.filter(value)?;
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_sign("(") {
                let args = self.arguments()?;
                value = Piece::tight(format!("{}({args})", value.at(Level::Tight)));
            } else {
                return Ok(value);
            }
        }
    }

    fn dotted_name(&mut self) -> Result<String, Refused> {
        let mut name = self.expect_name()?.to_owned();
        while self.skip_sign(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn filter(&mut self, value: Piece) -> Result<Piece, Refused> {
        let call = self.filter_call()?;
        Ok(Piece { text: format!("{}|{call}", value.at(Level::Chain)), level: Level::Chain })
    }

    /// A filter's name and arguments.
    pub(crate) fn filter_call(&mut self) -> Result<String, Refused> {
        let name = self.dotted_name()?;
        if !(self.rules.knows)(Name::Filter(&name)) {
            self.unknown.push(self.refused(format!("unknown filter: {name}")));
        }
        let args = if self.is_sign("(") { self.arguments()? } else { String::new() };
        Ok(format!("{name}({args})"))
    }

    fn test(&mut self, value: Piece) -> Result<Piece, Refused> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !(self.rules.knows)(Name::Test(&name)) {
            self.unknown.push(self.refused(format!("unknown test: {name}")));
        }
        let args = self.test_arguments()?;
        let separator = if args.is_empty() { "" } else { ", " };
        let operator = if negated { "__is_not" } else { "__is" };
        Ok(value.filter(operator, &[format!("'{name}'{separator}{args}")]))
    }

    fn test_arguments(&mut self) -> Result<String, Refused> {
        let starts = match self.peek() {
            Some(Token::Sign("(")) => return self.arguments(),
            Some(Token::Name(name)) => !["else", "or", "and"].contains(&name.as_str()),
            Some(Token::Sign(sign)) => ["[", "{"].contains(sign),
            Some(_) => true,
            None => false,
        };
        if !starts {
            return Ok(String::new());
        }
        if self.is_name("is") {
            return Err(self.refused("tests cannot be chained with `is`"));
        }
        let primary = self.primary()?;
        Ok(self.postfix(primary)?.at(Level::Chain))
    }
}
