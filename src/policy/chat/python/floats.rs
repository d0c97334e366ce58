//! Floats as Python prints them.

/// `repr(number)`: the shortest digits that read back as `number`.
pub(crate) fn repr(number: f64) -> String {
    if !number.is_finite() {
        return special(number).to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&power) {
        return format!("{number:?}");
    }
    format!("{digits}{}", exponent_text(power))
}

fn special(number: f64) -> &'static str {
    if number.is_nan() {
        "nan"
    } else if number > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

fn exponent_text(power: i32) -> String {
    format!("e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `number` without its sign, by a format code of `e`, `f` or `g`; `alternate` keeps trailing zeros
/// of `g`.
pub(crate) fn formatted(number: f64, code: char, precision: usize, alternate: bool) -> String {
    let number = number.abs();
    if !number.is_finite() {
        return special(number).to_owned();
    }
    match code {
        'f' => {
            let dot = if alternate && precision == 0 { "." } else { "" };
            format!("{number:.precision$}{dot}")
        }
        'e' => exponential(number, precision),
        _ => general(number, precision.max(1), alternate),
    }
}

fn exponential(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}{}", exponent_text(exponent.parse().unwrap_or(0)))
}

fn general(number: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{number:.*e}", precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |digits: &str| {
        if alternate || !digits.contains('.') {
            digits.to_owned()
        } else {
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    if power < -4 || power >= precision as i32 {
        return format!("{}{}", trimmed(digits), exponent_text(power));
    }
    let decimals = usize::try_from(precision as i32 - 1 - power).unwrap_or(0);
    trimmed(&format!("{number:.decimals$}"))
}
