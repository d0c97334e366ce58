//! The fields of a game file as they are written, found without reading what they say.

/// The values of a game file's fields, as JSON writes them.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) domain: &'a str,
    pub(crate) grammar: &'a str,
    pub(crate) problem: &'a str,
    pub(crate) solvable: Option<&'a str>,
    pub(crate) walkthrough: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// The fields of a JSON object that has the fields of a game file, each at most once, and no others. `None` for every
    /// other text; the values may still be no JSON.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut values = [None; 5];
        let mut rest = skip(skip(text).strip_prefix('{')?);
        loop {
            let (key, after) = string(rest)?;
            let place = match key {
                "\"pddl_domain\"" => 0,
                "\"grammar\"" => 1,
                "\"pddl_problem\"" => 2,
                "\"solvable\"" => 3,
                "\"walkthrough\"" => 4,
                _ => return None,
            };
            let (value, after) = value(skip(skip(after).strip_prefix(':')?))?;
            if values[place].replace(value).is_some() {
                return None;
            }
            match skip(after).strip_prefix(',') {
                Some(after) => rest = skip(after),
                None if skip(skip(after).strip_prefix('}')?).is_empty() => break,
                None => return None,
            }
        }
        let [domain, grammar, problem, solvable, walkthrough] = values;
        Some(Self { domain: domain?, grammar: grammar?, problem: problem?, solvable, walkthrough })
    }
}

/// What a string says that JSON writes so; `None` if it has `\\u` escapes or is not JSON.
pub(crate) fn unescape(written: &str) -> Option<String> {
    let mut rest = written.strip_prefix('"')?.strip_suffix('"')?;
    if rest.bytes().fold(false, |any, byte| any | (byte < b' ')) {
        return None;
    }
    let mut text = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        text.push(match after.as_bytes().first()? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
            _ => return None,
        });
        rest = &after[1..];
    }
    text.push_str(rest);
    Some(text)
}

/// Passes JSON's white space.
fn skip(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\r', '\t'])
}

/// The string at the beginning, with its quotes, and what comes after it.
fn string(text: &str) -> Option<(&str, &str)> {
    let mut end = 1;
    text.strip_prefix('"')?;
    loop {
        end += text[end..].find('"')? + 1;
        let before = text[1..end - 1].bytes().rev().take_while(|&byte| byte == b'\\').count();
        if before % 2 == 0 {
            return Some(text.split_at(end));
        }
    }
}

/// The value at the beginning, up to the comma or bracket that ends it, and what comes after it.
fn value(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('"') {
        return string(text);
    }
    let (mut end, mut depth) = (0, 0_usize);
    loop {
        let next = end + text[end..].find(['"', '[', '{', ']', '}', ','])?;
        end = next + 1;
        match text.as_bytes()[next] {
            b'"' => end = next + string(&text[next..])?.0.len(),
            b'[' | b'{' => depth += 1,
            b',' if depth > 0 => {}
            b',' => return Some(text.split_at(next)),
            _ if depth == 0 => return Some(text.split_at(next)),
            _ => depth -= 1,
        }
    }
}
