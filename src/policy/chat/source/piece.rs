//! Parts of the expressions that are written for minijinja.

use crate::policy::chat::source::literal::write_quoted;

/// Minijinja's text of an expression, and how tightly it binds.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Level {
    /// `and`, `or`, `not`, `if`.
    Loose,
    /// A chain of filters.
    Chain,
    /// A name, a literal, a call or brackets.
    Tight,
}

impl Piece {
    /// The text of a string literal.
    pub(crate) fn literal(text: &str) -> Self {
        let mut out = String::new();
        write_quoted(text, &mut out);
        Self::tight(out)
    }

    pub(crate) fn float(number: f64) -> Self {
        if number.is_finite() {
            Self::tight(format!("{number:?}"))
        } else {
            Self::tight("(1e308|__mul(10.0))")
        }
    }

    pub(crate) fn tight(text: impl Into<String>) -> Self {
        Self { text: text.into(), level: Level::Tight }
    }

    pub(crate) fn loose(text: String) -> Self {
        Self { text, level: Level::Loose }
    }

    pub(crate) fn text(self) -> String {
        self.text
    }

    pub(crate) fn at(self, level: Level) -> String {
        if self.level < level {
            format!("({})", self.text)
        } else {
            self.text
        }
    }

    /// Applies one of this crate's filters.
    pub(crate) fn filter(self, name: &str, args: &[String]) -> Self {
        let text = format!("{}|{name}({})", self.at(Level::Chain), args.join(", "));
        Self { text, level: Level::Chain }
    }
}
