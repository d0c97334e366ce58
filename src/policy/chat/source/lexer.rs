//! Tokens of Jinja's expressions, as jinja2's lexer reads them.

use crate::policy::chat::source::literal::{self, Refused};

/// A token of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Name(String),
    /// A string literal's text.
    Text(String),
    /// An integer's decimal digits.
    Integer(String),
    Float(f64),
    Sign(&'static str),
}

impl Token {
    /// The token as an error message shows it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(digits) => digits.clone(),
            Self::Float(number) => number.to_string(),
            Self::Sign(sign) => (*sign).to_owned(),
        }
    }
}

/// Signs, the longest first.
const SIGNS: [&str; 28] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!", "?",
];

/// Reads one token at the start of `source`, which is not white space; returns it with its length.
///
/// `after_dot` is true behind a `.`, where `0.1` is two integers.
pub(crate) fn token(source: &str, after_dot: bool) -> Result<(Token, usize), Refused> {
    if !after_dot {
        if let Some(length) = float_length(source) {
            let digits = source[..length].replace('_', "");
            let number = digits.parse().map_err(|_| Refused::new(format!("number {digits}")))?;
            return Ok((Token::Float(number), length));
        }
    }
    let first = source.chars().next().unwrap_or(' ');
    if first.is_ascii_digit() {
        return integer(source);
    }
    if first == '\'' || first == '"' {
        let length = string_length(source)
            .ok_or_else(|| Refused::new(format!("unexpected character {first:?}")))?;
        let text = literal::unescaped(&source[1..length - 1])?;
        return Ok((Token::Text(text), length));
    }
    if first == '_' || first.is_alphabetic() {
        let end = source.find(|c: char| c != '_' && !c.is_alphanumeric());
        let name = &source[..end.unwrap_or(source.len())];
        if !name.is_ascii() {
            return Err(Refused::new(format!("a name with letters outside ASCII: {name}")));
        }
        return Ok((Token::Name(name.to_owned()), name.len()));
    }
    match SIGNS.into_iter().find(|sign| source.starts_with(sign)) {
        Some("!" | "?") | None => Err(Refused::new(format!("unexpected character {first:?}"))),
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
    }
}

/// The length of a run of digits with single underscores between them; 0 if there is none.
fn digits_length(source: &str, is_digit: impl Fn(u8) -> bool) -> usize {
    let bytes = source.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(|b| is_digit(*b));
    let mut end = 0;
    while digit(end) || (end > 0 && bytes.get(end) == Some(&b'_') && digit(end + 1)) {
        end += 1;
    }
    end
}

fn float_length(source: &str) -> Option<usize> {
    let decimal = |text: &str| digits_length(text, |b| b.is_ascii_digit());
    let whole = decimal(source);
    if whole == 0 {
        return None;
    }
    let mut length = whole;
    if source[length..].starts_with('.') {
        let fraction = decimal(&source[length + 1..]);
        if fraction > 0 {
            length += 1 + fraction;
        }
    }
    let rest = &source[length..];
    if rest.starts_with(['e', 'E']) {
        let sign = usize::from(rest[1..].starts_with(['+', '-']));
        let exponent = decimal(&rest[1 + sign..]);
        if exponent > 0 {
            return Some(length + 1 + sign + exponent);
        }
    }
    (length > whole).then_some(length)
}

fn integer(source: &str) -> Result<(Token, usize), Refused> {
    let prefix = source.get(..2).unwrap_or("").to_ascii_lowercase();
    let radix = match prefix.as_str() {
        "0b" => 2,
        "0o" => 8,
        "0x" => 16,
        _ => 10,
    };
    let start = if radix == 10 { 0 } else { 2 };
    let skip = start + usize::from(start > 0 && source[start..].starts_with('_'));
    let mut length = digits_length(&source[skip..], |b| char::from(b).is_digit(radix));
    if radix != 10 && length == 0 {
        return Ok((Token::Integer("0".to_owned()), 1));
    }
    if radix == 10 && source.starts_with('0') {
        // `007` is `00` and `7`.
        length = digits_length(source, |b| b == b'0');
    }
    let digits = source[skip..skip + length].replace('_', "");
    let number = i128::from_str_radix(&digits, radix)
        .map_err(|_| Refused::new(format!("an integer of more than 127 bits: {digits}")))?;
    Ok((Token::Integer(number.to_string()), skip + length))
}

/// The length of a string literal with its quotes, or `None` if it does not end.
fn string_length(source: &str) -> Option<usize> {
    let quote = source.chars().next()?;
    let mut chars = source.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next()?;
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}
