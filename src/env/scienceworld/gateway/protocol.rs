//! The gateway's line protocol (Py4J 0.10): encodes requests and decodes replies, without I/O.
//!
//! A request is a command line, its parts and the line `e`. A reply is one line: `!`, then `y`
//! (success) or `x` (failure), a type letter and the escaped value. Source: py4j 0.10.9.9,
//! `Protocol.java`.

use std::borrow::Cow;

/// An argument of a remote call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Arg<'a> {
    Text(&'a str),
    Int(i32),
    Bool(bool),
    Ref(&'a str),
}

/// The value of a successful reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    /// An object that the gateway keeps until it is deleted; also lists, maps, sets and arrays.
    Ref(String),
}

/// A failure that the gateway reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error of the gateway itself (unknown method, dead reference, refused token).
    Text(String),
    /// An exception, which the gateway keeps until it is deleted.
    Exception(String),
}

/// Escapes backslash, carriage return and line feed.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '\r', '\n']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n"))
}

/// Inverts [`escape`]; an unknown escape yields its second character.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

fn push_arg(out: &mut String, arg: Arg<'_>) {
    match arg {
        Arg::Text(text) => {
            out.push('s');
            out.push_str(&escape(text));
        }
        Arg::Int(number) => {
            out.push('i');
            out.push_str(&number.to_string());
        }
        Arg::Bool(flag) => out.push_str(if flag { "bTrue" } else { "bFalse" }),
        Arg::Ref(id) => {
            out.push('r');
            out.push_str(id);
        }
    }
    out.push('\n');
}

fn request(head: &[&str], args: &[Arg<'_>]) -> String {
    let mut out = String::new();
    for line in head {
        out.push_str(line);
        out.push('\n');
    }
    for &arg in args {
        push_arg(&mut out, arg);
    }
    out.push_str("e\n");
    out
}

/// Encodes a method call on a reference, or on `z:class.Name` for a static method.
pub(crate) fn call(target: &str, method: &str, args: &[Arg<'_>]) -> String {
    request(&["c", target, method], args)
}

/// Encodes a constructor call.
pub(crate) fn construct(class: &str, args: &[Arg<'_>]) -> String {
    request(&["i", class], args)
}

/// Encodes the deletion of an object.
pub(crate) fn delete(id: &str) -> String {
    request(&["m", "d", id], &[])
}

/// Encodes the creation of an array of `len` elements of `class`.
pub(crate) fn new_array(class: &str, len: i32) -> String {
    request(&["a", "c"], &[Arg::Text(class), Arg::Int(len)])
}

/// Encodes `array[index] = value`.
pub(crate) fn set_array(array: &str, index: i32, value: Arg<'_>) -> String {
    request(&["a", "s", array], &[Arg::Int(index), value])
}

/// Encodes the first request of every connection, which presents the token.
pub(crate) fn authenticate(token: &str) -> String {
    format!("A\n{token}\n")
}

/// Decodes one reply line, without its line feed.
///
/// # Errors
/// The start of a line that is not a reply.
pub(crate) fn decode(line: &str) -> Result<Result<Value, Fault>, String> {
    let bad = || format!("{:?}", line.chars().take(80).collect::<String>());
    let body = line.strip_prefix('!').ok_or_else(bad)?;
    if let Some(value) = body.strip_prefix('y') {
        return decode_value(value).map(Ok).ok_or_else(bad);
    }
    let fault = body.strip_prefix('x').ok_or_else(bad)?;
    Ok(Err(match fault.chars().next() {
        Some('r') => Fault::Exception(fault[1..].to_owned()),
        Some('s') => Fault::Text(unescape(&fault[1..])),
        _ => Fault::Text(fault.to_owned()),
    }))
}

fn decode_value(text: &str) -> Option<Value> {
    let kind = text.chars().next()?;
    let rest = &text[kind.len_utf8()..];
    Some(match kind {
        'n' | 'v' => Value::Null,
        'b' => Value::Bool(rest.eq_ignore_ascii_case("true")),
        'i' | 'L' => Value::Int(rest.parse().ok()?),
        'd' => Value::Double(rest.parse().ok()?),
        's' => Value::Text(unescape(rest)),
        'D' | 'j' => Value::Text(rest.to_owned()),
        'r' | 'l' | 'a' | 'h' | 't' | 'g' if !rest.is_empty() => Value::Ref(rest.to_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_have_the_layout_of_the_gateway() {
        let args = [Arg::Text("a\nb\\"), Arg::Int(-3), Arg::Bool(false), Arg::Ref("o7")];
        assert_eq!(call("o1", "load", &args), "c\no1\nload\nsa\\nb\\\\\ni-3\nbFalse\nro7\ne\n");
        assert_eq!(construct("java.io.File", &[Arg::Text("x")]), "i\njava.io.File\nsx\ne\n");
        assert_eq!(delete("o4"), "m\nd\no4\ne\n");
        assert_eq!(new_array("java.net.URL", 1), "a\nc\nsjava.net.URL\ni1\ne\n");
        assert_eq!(set_array("o2", 0, Arg::Ref("o1")), "a\ns\no2\ni0\nro1\ne\n");
        assert_eq!(authenticate("T="), "A\nT=\n");
    }

    #[test]
    fn replies_are_decoded_by_type() {
        let ok = |line| decode(line).unwrap().unwrap();
        assert_eq!(ok("!yv"), Value::Null);
        assert_eq!(ok("!yi-12"), Value::Int(-12));
        assert_eq!(ok("!yd0.29"), Value::Double(0.29));
        assert_eq!(ok("!ybtrue"), Value::Bool(true));
        assert_eq!(ok("!ys\\\\n\\n"), Value::Text("\\n\n".into()));
        assert_eq!(ok("!ylo12"), Value::Ref("o12".into()));
        assert_eq!(decode("!xro3").unwrap(), Err(Fault::Exception("o3".into())));
        assert_eq!(decode("!xsno\\nway").unwrap(), Err(Fault::Text("no\nway".into())));
        for bad in ["", "y", "!z", "!y", "!yi", "!yix", "!yl", "!yq1"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn unescape_inverts_escape(text in "[a\\\\nr\n\r\u{e9}\u{1f}]{0,40}") {
            let line = escape(&text).into_owned();
            prop_assert!(!line.contains(['\n', '\r']));
            prop_assert_eq!(unescape(&line), text);
        }

        #[test]
        fn decode_never_panics(line in "[!yxsirldb\u{e9}o\\\\0-9.]{0,12}") {
            let _ = decode(&line);
        }
    }
}
