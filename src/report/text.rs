//! Text and numbers as HTML and SVG show them.

/// Escapes text for HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Formats a number briefly enough for a label.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{x:.1e}");
    }
    let digits = if size >= 100.0 { 1 } else { 4 };
    let text = format!("{x:.digits$}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" {
        "0".to_owned()
    } else {
        short.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, -0.00001, 0.6000000000000001, 1.0, 123456.0, 1234.56, 2.5e9].map(number);
        assert_eq!(texts, ["0", "-1.0e-5", "0.6", "1", "123456", "1234.6", "2.5e9"]);
    }
}
