//! Filters that shorten, wrap and indent text.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::numbers::{expect_index, index};
use crate::policy::chat::python::sequences::length;
use crate::policy::chat::python::strings::lines;
use crate::policy::chat::python::types::{failed, text_like, wrong_type};
use crate::policy::chat::python::unicode::{is_alpha, is_numeric};
use minijinja::{Error, Value};

pub(crate) fn call(name: &str, args: &Args) -> Result<Value, Error> {
    match name {
        "indent" => indent(args),
        "truncate" => truncate(args),
        _ => word_wrap(args),
    }
}

fn indent(args: &Args) -> Result<Value, Error> {
    let [value, width, first, blank] = args.bind(["s", "width", "first", "blank"], 1)?;
    let value = value.unwrap_or_default();
    let text = value.as_str().ok_or_else(|| wrong_type("indent", &value))?;
    let indent = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(indent) => indent.to_owned(),
            None => {
                let width = expect_index(width, "indent")?.clamp(0, 1 << 12);
                " ".repeat(usize::try_from(width).unwrap_or(0))
            }
        },
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let blank = is_true(blank);
    let ended = format!("{text}\n");
    let mut out = if is_true(first) { indent.clone() } else { String::new() };
    for (i, line) in lines(&ended, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indent);
            }
        }
        out.push_str(line);
    }
    Ok(text_like(&value, out))
}

fn truncate(args: &Args) -> Result<Value, Error> {
    let [value, most, kill, end, leeway] =
        args.bind(["s", "length", "killwords", "end", "leeway"], 1)?;
    let value = value.unwrap_or_default();
    let most = most.map_or(Ok(255), |most| expect_index(&most, "truncate"))?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end_length = length(&end)? as i128;
    let leeway = match leeway.filter(|leeway| !leeway.is_none()) {
        Some(leeway) => expect_index(&leeway, "truncate")?,
        None => 5,
    };
    if most < end_length || leeway < 0 {
        return Err(failed("truncate: the length is less than that of the end"));
    }
    if length(&value)? as i128 <= most + leeway {
        return Ok(value);
    }
    let (Some(text), Some(end)) = (value.as_str(), end.as_str()) else {
        return Err(wrong_type("truncate", &value));
    };
    let kept = usize::try_from(most - end_length).unwrap_or(0);
    let mut kept: String = text.chars().take(kept).collect();
    if !kill.is_some_and(|kill| kill.is_true()) {
        if let Some(space) = kept.rfind(' ') {
            kept.truncate(space);
        }
    }
    Ok(text_like(&value, kept + end))
}

/// What `textwrap` counts as white space.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

fn word_wrap(args: &Args) -> Result<Value, Error> {
    let names = ["s", "width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [value, width, long, separator, hyphens] = args.bind(names, 1)?;
    let value = value.unwrap_or_default();
    let text = value.as_str().ok_or_else(|| wrong_type("wordwrap", &value))?;
    let width = width
        .map_or(Ok(79), |width| index(&width).ok_or_else(|| wrong_type("wordwrap", &width)))?;
    let lines = lines(text, false);
    let width = match usize::try_from(width) {
        Ok(width) if width > 0 => width,
        _ if lines.is_empty() => 1,
        _ => return Err(failed("wordwrap: the width must be at least 1")),
    };
    let is_true = |value: Option<Value>| value.is_none_or(|value| value.is_true());
    let (long, hyphens) = (is_true(long), is_true(hyphens));
    let separator = separator.filter(|separator| !separator.is_none());
    let separator = match &separator {
        Some(separator) => separator.as_str().ok_or_else(|| wrong_type("wordwrap", separator))?,
        None => "\n",
    };
    let wrapped: Vec<String> = lines
        .into_iter()
        .map(|line| wrap_line(line, width, long, hyphens).join(separator))
        .collect();
    Ok(Value::from(wrapped.join(separator)))
}

fn wrap_line(line: &str, width: usize, long: bool, hyphens: bool) -> Vec<String> {
    let mut chunks = chunks(line, hyphens);
    chunks.reverse();
    let size = |chunk: &Vec<char>| chunk.len();
    let mut out: Vec<String> = Vec::new();
    while let Some(last) = chunks.last() {
        let mut current: Vec<Vec<char>> = Vec::new();
        let mut used = 0;
        if last.iter().all(|c| c.is_whitespace()) && !out.is_empty() {
            chunks.pop();
        }
        while let Some(chunk) = chunks.last() {
            if used + size(chunk) > width {
                break;
            }
            used += size(chunk);
            current.extend(chunks.pop());
        }
        if chunks.last().is_some_and(|chunk| size(chunk) > width) {
            break_chunk(&mut chunks, &mut current, width, used, long, hyphens);
        }
        if current.last().is_some_and(|chunk| chunk.iter().all(|c| c.is_whitespace())) {
            current.pop();
        }
        if !current.is_empty() {
            out.push(current.concat().into_iter().collect());
        }
    }
    out
}

/// Breaks a chunk that is wider than a line.
fn break_chunk(
    chunks: &mut Vec<Vec<char>>,
    current: &mut Vec<Vec<char>>,
    width: usize,
    used: usize,
    long: bool,
    hyphens: bool,
) {
    let space = width - used;
    if !long {
        if current.is_empty() {
            current.extend(chunks.pop());
        }
        return;
    }
    let Some(chunk) = chunks.last_mut() else { return };
    let mut end = space;
    if hyphens && chunk.len() > space {
        let hyphen = chunk[..space].iter().rposition(|c| *c == '-');
        if let Some(hyphen) = hyphen {
            if hyphen > 0 && chunk[..hyphen].iter().any(|c| *c != '-') {
                end = hyphen + 1;
            }
        }
    }
    let rest = chunk.split_off(end);
    let head = std::mem::replace(chunk, rest);
    current.push(head);
}

/// Words and the white space between them; words may break behind hyphens.
fn chunks(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let chars: Vec<char> = line.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        if is_blank(chars[at]) {
            while at < chars.len() && is_blank(chars[at]) {
                at += 1;
            }
        } else if let Some(end) = if hyphens { dash(&chars, at) } else { None } {
            at = end;
        } else {
            at += 1;
            while at < chars.len()
                && !is_blank(chars[at])
                && !(hyphens && breaks(&chars, start, at))
            {
                at += 1;
            }
        }
        out.push(chars[start..at].to_vec());
    }
    out
}

fn is_word(c: char) -> bool {
    c == '_' || is_alpha(c) || is_numeric(c)
}

fn is_letter(c: char) -> bool {
    c == '_' || is_alpha(c)
}

/// The end of a dash of two or more hyphens between words, at `at`.
fn dash(chars: &[char], at: usize) -> Option<usize> {
    let before = *chars.get(at.checked_sub(1)?)?;
    if !is_word(before) && !"!\"'&.,?".contains(before) {
        return None;
    }
    let length = chars[at..].iter().take_while(|c| **c == '-').count();
    let next = chars.get(at + length)?;
    (length >= 2 && is_word(*next)).then_some(at + length)
}

/// Tells if a word that started at `start` may end at `at`.
fn breaks(chars: &[char], start: usize, at: usize) -> bool {
    if dash(chars, at).is_some() {
        return true;
    }
    if chars[at - 1] != '-' || at - 1 == start {
        return false;
    }
    let letter = |i: Option<usize>| i.and_then(|i| chars.get(i)).is_some_and(|c| is_letter(*c));
    let back = |n: usize| at.checked_sub(n);
    let hyphen = back(3).is_some_and(|i| chars[i] == '-');
    let behind = letter(back(2)) && (letter(back(3)) || (hyphen && letter(back(4))));
    let skip = usize::from(chars.get(at + 1) == Some(&'-'));
    behind && letter(Some(at)) && letter(Some(at + 1 + skip))
}
