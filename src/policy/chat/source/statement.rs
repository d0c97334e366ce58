//! Block tags: their expressions are rewritten, and what only marks text is taken out.

use crate::policy::chat::source::cursor::Parser;
use crate::policy::chat::source::lexer::Token;
use crate::policy::chat::source::literal::Refused;
use crate::policy::chat::source::rewrite::Rules;
use crate::policy::chat::source::scan::Tag;

/// What an open block does to the tags inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Tags are only reached under a condition.
    If,
    Other,
    /// Variables that are set inside stay inside, so there is a `with` around its body.
    Scope,
}

/// Rewrites what stands in a block tag, as one or more tags, and opens or closes its frame.
pub(crate) fn rewritten(
    tag: &Tag<'_>,
    rules: &Rules<'_>,
    frames: &mut Vec<Frame>,
) -> Result<Vec<String>, Refused> {
    let mut parser = Parser::new(&tag.tokens, tag.line, rules);
    let word = match parser.advance() {
        Some(Token::Name(word)) => word.as_str(),
        _ => return Err(parser.refused("syntax error: a tag does not start with a word")),
    };
    let guarded = word == "if" || word == "elif" || frames.last() == Some(&Frame::If);
    let (mut bodies, frame) = body(word, &mut parser, rules)?;
    parser.expect_end()?;
    if let (Some(unknown), false) = (parser.unknown(), guarded) {
        return Err(unknown);
    }
    if frame == Some(Frame::Scope) {
        bodies.push("with".to_owned());
    }
    frames.extend(frame);
    let closed = if word.starts_with("end") { frames.pop() } else { None };
    if closed == Some(Frame::Scope) {
        bodies.insert(0, "endwith".to_owned());
    }
    Ok(bodies)
}

/// The tags that stand for one tag, and the frame that it opens.
fn body(
    word: &str,
    parser: &mut Parser<'_>,
    rules: &Rules<'_>,
) -> Result<(Vec<String>, Option<Frame>), Refused> {
    let body = match word {
        "if" | "elif" => format!("{word} {}", parser.tuple(false, false, &[])?.text()),
        "for" => for_loop(parser)?,
        "macro" => return Ok((macro_tags(parser, rules)?, Some(Frame::Other))),
        "set" => {
            let (body, is_block) = set(parser)?;
            return Ok((vec![body], is_block.then_some(Frame::Scope)));
        }
        "call" => call(parser)?,
        "filter" => filter(parser)?,
        "with" => with(parser)?,
        "block" => block(parser)?,
        // `generation` marks the assistant's text for training; its variables stay inside.
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        "endblock" => {
            parser.peek().map(|_| parser.expect_name()).transpose()?;
            word.to_owned()
        }
        _ if PLAIN.contains(&word) => word.to_owned(),
        _ => return Err(parser.refused(format!("unknown statement: `{word}` is not supported"))),
    };
    let frame = match word {
        "if" => Some(Frame::If),
        "filter" => Some(Frame::Scope),
        "for" | "call" | "with" | "block" | "generation" => Some(Frame::Other),
        _ => None,
    };
    Ok((vec![body], frame))
}

/// Tags of a single word.
const PLAIN: [&str; 11] = [
    "else",
    "endif",
    "endfor",
    "endset",
    "endmacro",
    "endcall",
    "endfilter",
    "endwith",
    "break",
    "continue",
    "endraw",
];

/// The targets of an assignment, and their number if there are several.
struct Targets {
    text: String,
    count: Option<usize>,
}

fn targets(parser: &mut Parser<'_>, ends: &[&str]) -> Result<Targets, Refused> {
    let mut items = Vec::new();
    let mut is_tuple = false;
    loop {
        if parser.skip_sign("(") {
            items.push(format!("({})", targets(parser, &[])?.text));
            parser.expect_sign(")")?;
        } else {
            items.push(target(parser)?);
        }
        if !parser.skip_sign(",") {
            break;
        }
        is_tuple = true;
        let ended = parser.is_sign("=") || parser.is_sign(")") || parser.peek().is_none();
        if ended || ends.iter().any(|name| parser.is_name(name)) {
            break;
        }
    }
    let nested = items.len() == 1 && items[0].starts_with('(');
    let count = (is_tuple || nested).then_some(if nested && !is_tuple {
        items[0].split(", ").count()
    } else {
        items.len()
    });
    let mut text = items.join(", ");
    if is_tuple && items.len() == 1 {
        text.push(',');
    }
    Ok(Targets { text, count })
}

fn target(parser: &mut Parser<'_>) -> Result<String, Refused> {
    let name = parser.expect_name()?;
    if ["true", "false", "none", "True", "False", "None"].contains(&name) {
        return Err(parser.refused(format!("syntax error: cannot assign to `{name}`")));
    }
    if parser.skip_sign(".") {
        return Ok(format!("{name}.{}", parser.expect_name()?));
    }
    Ok(name.to_owned())
}

fn for_loop(parser: &mut Parser<'_>) -> Result<String, Refused> {
    let targets = targets(parser, &["in"])?;
    if !parser.skip_name("in") {
        return Err(parser.unexpected("`in`"));
    }
    let list = parser.tuple(false, false, &["recursive"])?.text();
    let rows = targets.count.map_or(String::new(), |count| count.to_string());
    let mut body = format!("for {} in ({list})|__rows({rows})", targets.text);
    if parser.skip_name("if") {
        body.push_str(&format!(" if ({})", parser.expression(true)?.text()));
    }
    if parser.skip_name("recursive") {
        body.push_str(" recursive");
    }
    Ok(body)
}

/// The text of a `set`, and true if it opens a block.
fn set(parser: &mut Parser<'_>) -> Result<(String, bool), Refused> {
    let targets = targets(parser, &[])?;
    if parser.skip_sign("=") {
        let value = parser.tuple(true, false, &[])?.text();
        let unpacked = match targets.count {
            Some(count) => format!("({value})|__unpack({count})"),
            None => value,
        };
        return Ok((format!("set {} = {unpacked}", targets.text), false));
    }
    let mut filters = String::new();
    while parser.skip_sign("|") {
        filters.push('|');
        filters.push_str(&parser.filter_call()?);
    }
    Ok((format!("set {}{filters}", targets.text), true))
}

/// The parameters of a macro or a call block.
struct Signature {
    /// With parentheses.
    text: String,
    /// Tags in the body that set defaults which depend on other parameters.
    defaults: Vec<String>,
}

fn signature(parser: &mut Parser<'_>, more: &[&str]) -> Result<Signature, Refused> {
    parser.expect_sign("(")?;
    let mut parameters: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut defaults = Vec::new();
    let mut optional = false;
    while !parser.is_sign(")") {
        if !names.is_empty() {
            parser.expect_sign(",")?;
            if parser.is_sign(")") {
                break;
            }
        }
        let name = target(parser)?;
        if names.contains(&name) {
            return Err(parser.refused(format!("syntax error: the parameter `{name}` twice")));
        }
        if parser.skip_sign("=") {
            optional = true;
            let start = parser.position();
            let default = parser.expression(true)?.text();
            if parser.used_since(start, &names) {
                parameters.push(name.clone());
                defaults.push(format!("if {name}|__is('undefined')"));
                defaults.push(format!("set {name} = ({default})"));
                defaults.push("endif".to_owned());
            } else {
                parameters.push(format!("{name}=({default})"));
            }
        } else if optional {
            return Err(parser.refused("a parameter without a default behind one with a default"));
        } else {
            parameters.push(name.clone());
        }
        names.push(name);
    }
    parser.expect_sign(")")?;
    parameters.extend(more.iter().map(|parameter| (*parameter).to_owned()));
    Ok(Signature { text: format!("({})", parameters.join(", ")), defaults })
}

fn macro_tags(parser: &mut Parser<'_>, rules: &Rules<'_>) -> Result<Vec<String>, Refused> {
    let name = parser.expect_name()?;
    let more: &[&str] = match rules.variadic.get(name) {
        Some(_) => &["varargs=()", "kwargs=([]|__dict)"],
        None => &[],
    };
    let Signature { text, defaults } = signature(parser, more)?;
    let mut tags = vec![format!("macro {name}{text}")];
    tags.extend(defaults);
    Ok(tags)
}

fn call(parser: &mut Parser<'_>) -> Result<String, Refused> {
    let mut parameters = String::new();
    if parser.is_sign("(") {
        let Signature { text, defaults } = signature(parser, &[])?;
        if !defaults.is_empty() {
            return Err(parser.refused("a default of a call block that uses another parameter"));
        }
        parameters = text;
    }
    Ok(format!("call{parameters} {}", parser.expression(true)?.text()))
}

fn filter(parser: &mut Parser<'_>) -> Result<String, Refused> {
    let mut filters = parser.filter_call()?;
    while parser.skip_sign("|") {
        filters.push('|');
        filters.push_str(&parser.filter_call()?);
    }
    Ok(format!("filter {filters}"))
}

fn with(parser: &mut Parser<'_>) -> Result<String, Refused> {
    // All values are computed before the first name is set.
    let mut values = Vec::new();
    let mut names = Vec::new();
    while parser.peek().is_some() {
        if !values.is_empty() {
            parser.expect_sign(",")?;
        }
        let name = target(parser)?;
        if parser.is_sign(",") {
            return Err(parser.refused("`with` sets several names from one value"));
        }
        parser.expect_sign("=")?;
        let value = format!("__with{}", values.len());
        values.push(format!("{value} = ({})", parser.expression(true)?.text()));
        names.push(format!("{name} = {value}"));
    }
    values.append(&mut names);
    Ok(format!("with {}", values.join(", ")))
}

fn block(parser: &mut Parser<'_>) -> Result<String, Refused> {
    let name = parser.expect_name()?;
    if parser.peek().is_some() {
        return Err(parser.refused(format!("block `{name}`: only its name is supported")));
    }
    Ok(format!("block {name}"))
}
