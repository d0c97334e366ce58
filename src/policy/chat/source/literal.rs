//! String literals: Python's escapes are read, and minijinja's are written.

use std::fmt::Write;

/// A construct that is not valid Jinja or cannot be rendered as in Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    /// The line of the template, from 1; 0 while it is not known.
    pub(crate) line: usize,
}

impl Refused {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), line: 0 }
    }

    /// Adds the line unless a more exact one is known.
    pub(crate) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// The text of a literal's body.
///
/// jinja2 first writes characters outside ASCII as escapes and then reads all escapes, so a
/// backslash in front of such a character escapes the escape.
pub(crate) fn unescaped(body: &str) -> Result<String, Refused> {
    if !body.contains('\\') {
        return Ok(body.to_owned());
    }
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let length = escape(rest, &mut out)?;
        rest = &rest[length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads the escape behind a backslash and returns its length.
fn escape(rest: &str, out: &mut String) -> Result<usize, Refused> {
    let c = rest.chars().next().unwrap_or('\\');
    let plain = match c {
        '\n' => return Ok(1),
        '\\' | '\'' | '"' => c,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '0'..='7' => return octal(rest, out),
        'x' => return hexadecimal(rest, 2, out),
        'u' => return hexadecimal(rest, 4, out),
        'U' => return hexadecimal(rest, 8, out),
        'N' => return named(rest),
        c if c.is_ascii() => {
            out.push('\\');
            c
        }
        c => {
            write_backslashed(c, out);
            return Ok(c.len_utf8());
        }
    };
    out.push(plain);
    Ok(c.len_utf8())
}

/// Writes what is left of an escaped character outside ASCII: the escape itself.
fn write_backslashed(c: char, out: &mut String) {
    let code = u32::from(c);
    let written = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    debug_assert!(written.is_ok());
}

fn octal(rest: &str, out: &mut String) -> Result<usize, Refused> {
    let digits: String = rest.chars().take(3).take_while(|c| c.is_digit(8)).collect();
    push_code(u32::from_str_radix(&digits, 8).unwrap_or(0), &digits, out)?;
    Ok(digits.len())
}

fn hexadecimal(rest: &str, length: usize, out: &mut String) -> Result<usize, Refused> {
    let shown: String = rest.chars().take(1 + length).collect();
    let digits: String = rest[1..].chars().take(length).collect();
    if digits.len() < length || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refused::new(format!("the escape \\{shown} in a string is cut off")));
    }
    push_code(u32::from_str_radix(&digits, 16).unwrap_or(u32::MAX), &shown, out)?;
    Ok(1 + length)
}

fn push_code(code: u32, shown: &str, out: &mut String) -> Result<(), Refused> {
    let c = char::from_u32(code)
        .ok_or_else(|| Refused::new(format!("the escape \\{shown} is no character")))?;
    out.push(c);
    Ok(())
}

fn named(rest: &str) -> Result<usize, Refused> {
    let end = rest.find('}').map_or(1, |end| end + 1);
    Err(Refused::new(format!(
        "the escape \\{} in a string is not supported; write the character or \\uXXXX",
        &rest[..end]
    )))
}

/// Writes a string literal that minijinja reads as `text`.
pub(crate) fn write_quoted(text: &str, out: &mut String) {
    out.push('\'');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Delimiters of tags inside a literal.
            '{' | '}' | '%' | '#' => {
                let written = write!(out, "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok());
            }
            c if c.is_control() && u32::from(c) < 0x10000 => {
                let written = write!(out, "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok());
            }
            c => out.push(c),
        }
    }
    out.push('\'');
}
