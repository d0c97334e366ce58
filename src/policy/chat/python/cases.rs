//! Methods of Python's `str` that ask for or change the case of characters.

use crate::policy::chat::python::unicode::{
    casefold, is_alpha, is_cased, is_decimal, is_digit, is_numeric, is_printable, is_space,
    is_title, push_title,
};

/// The result of `text.name()`; `None` if the method has another kind of result.
pub(crate) fn test(text: &str, name: &str) -> Option<bool> {
    let all = |class: fn(char) -> bool| !text.is_empty() && text.chars().all(class);
    Some(match name {
        "isalnum" => all(|c| is_alpha(c) || is_numeric(c)),
        "isalpha" => all(is_alpha),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "isidentifier" => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| c == '_' || is_alpha(c))
                && chars.all(|c| c == '_' || is_alpha(c) || is_decimal(c))
        }
        "islower" => {
            text.chars().any(is_cased) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
        }
        "isupper" => {
            text.chars().any(is_cased) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
        }
        "istitle" => is_titled(text),
        _ => return None,
    })
}

/// Python's `islower` and `isupper` for the tests of these names.
pub(crate) fn is_case(text: &str, upper: bool) -> bool {
    test(text, if upper { "isupper" } else { "islower" }) == Some(true)
}

fn is_titled(text: &str) -> bool {
    let mut cased = false;
    let mut any = false;
    for c in text.chars() {
        let starts = c.is_uppercase() || is_title(c);
        if (starts && cased) || (c.is_lowercase() && !cased) {
            return false;
        }
        cased = is_cased(c);
        any |= cased;
    }
    any
}

/// The text of `text.name()`; `None` for another method.
pub(crate) fn changed(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => casefold(text),
        "capitalize" => capitalized(text),
        "swapcase" => {
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                if is_title(c) {
                    out.push(c);
                } else if c.is_uppercase() {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
            }
            out
        }
        "title" => {
            let mut out = String::with_capacity(text.len());
            let mut cased = false;
            for c in text.chars() {
                if cased {
                    out.extend(c.to_lowercase());
                } else {
                    push_title(c, &mut out);
                }
                cased = is_cased(c);
            }
            out
        }
        _ => return None,
    })
}

fn capitalized(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    if let Some(first) = chars.next() {
        push_title(first, &mut out);
    }
    let rest: String = chars.collect();
    out.push_str(&rest.to_lowercase());
    out
}
