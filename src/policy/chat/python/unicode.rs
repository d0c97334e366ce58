//! Python's classes and cases of characters.

use unicode_categories::UnicodeCategories;

/// `str.isspace` of a character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.isprintable` of a character.
pub(crate) fn is_printable(c: char) -> bool {
    match c {
        '"' | '\'' | '\\' => true,
        // Behind a letter, Rust escapes exactly what is not printable.
        c => {
            let mut pair = [0; 8];
            pair[0] = b'a';
            let length = 1 + c.encode_utf8(&mut pair[1..]).len();
            let text = std::str::from_utf8(&pair[..length]).unwrap_or("a");
            text.escape_debug().eq(text.chars())
        }
    }
}

pub(crate) fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_letter())
}

pub(crate) fn is_decimal(c: char) -> bool {
    c.is_number_decimal_digit()
}

/// `str.isdigit` of a character: decimal digits, and digits in another position or a circle.
pub(crate) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c,
            '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐'
            | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒' | '\u{1369}'..='\u{1371}'
            | '\u{19da}' | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}'
            | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}')
}

/// `str.isnumeric` of a character.
pub(crate) fn is_numeric(c: char) -> bool {
    c.is_numeric()
        || is_digit(c)
        || matches!(
            c,
            '〇' | '一'
                | '二'
                | '三'
                | '四'
                | '五'
                | '六'
                | '七'
                | '八'
                | '九'
                | '十'
                | '百'
                | '千'
                | '万'
                | '億'
                | '兆'
                | '零'
                | '壹'
                | '貳'
                | '參'
                | '肆'
                | '伍'
                | '陸'
                | '柒'
                | '捌'
                | '玖'
                | '拾'
        )
}

/// Tells if a character has an upper or a lower case.
pub(crate) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// Tells if a character is one letter in title case, such as ǅ.
pub(crate) fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}'
        | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

/// Writes a character in title case.
pub(crate) fn push_title(c: char, out: &mut String) {
    let code = u32::from(c);
    let single = match c {
        'Ǆ' | 'ǅ' | 'ǆ' => Some('ǅ'),
        'Ǉ' | 'ǈ' | 'ǉ' => Some('ǈ'),
        'Ǌ' | 'ǋ' | 'ǌ' => Some('ǋ'),
        'Ǳ' | 'ǲ' | 'ǳ' => Some('ǲ'),
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => {
            char::from_u32(code + 8)
        }
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(code + 9),
        // Georgian letters have capitals, but no title case.
        '\u{10d0}'..='\u{10ff}' => Some(c),
        _ if is_title(c) => Some(c),
        _ => None,
    };
    if let Some(single) = single {
        out.push(single);
        return;
    }
    let mut upper = c.to_uppercase();
    out.extend(upper.next());
    for rest in upper {
        out.extend(rest.to_lowercase());
    }
}

/// `str.casefold`.
pub(crate) fn casefold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ı' => out.push(c),
            'İ' => out.extend(c.to_lowercase()),
            _ => {
                for upper in c.to_uppercase() {
                    out.extend(upper.to_lowercase());
                }
            }
        }
    }
    out
}
