//! `strftime` for templates that print the date, in English and UTC.
//!
//! Seventy lines instead of a date library: templates need neither time zones nor parsing.

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Year, month (1 to 12) and day (1 to 31) of a day number counted from 1 January 1970 (Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", 2013).
fn civil(days: u64) -> (u64, usize, u64) {
    // Days since 1 March of year 0, split into eras of 400 years.
    let days = days + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12 + 1;
    (era * 400 + year + u64::from(month <= 2), month as usize, day)
}

/// Formats a time, in seconds since 1970, as C's `strftime` does in English and UTC; the error is
/// the unknown code.
pub(crate) fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next().unwrap_or('%');
        let bare = code == '-';
        if bare {
            code = chars.next().unwrap_or('-');
        }
        out.push_str(&field(code, bare, seconds).ok_or_else(|| format!("%{code} in {format:?}"))?);
    }
    Ok(out)
}

/// The text of one format code; `bare` drops leading zeros.
fn field(code: char, bare: bool, seconds: u64) -> Option<String> {
    let days = seconds / 86_400;
    let time = seconds % 86_400;
    let (year, month, day) = civil(days);
    let hour = time / 3600;
    let minute = time / 60 % 60;
    let second = time % 60;
    let two = |number: u64| if bare { number.to_string() } else { format!("{number:02}") };
    let weekday = DAYS[((days + 3) % 7) as usize];
    let month_name = MONTHS[month - 1];
    Some(match code {
        'Y' => year.to_string(),
        'y' => two(year % 100),
        'm' => two(month as u64),
        'd' => two(day),
        'H' => two(hour),
        'I' => two((hour + 11) % 12 + 1),
        'M' => two(minute),
        'S' => two(second),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'a' => weekday[..3].to_owned(),
        'A' => weekday.to_owned(),
        'b' => month_name[..3].to_owned(),
        'B' => month_name.to_owned(),
        'F' => format!("{year}-{month:02}-{day:02}"),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_match_the_calendar() {
        let all = "%a %A %d %-d %b %B %m %y %Y %H:%M:%S %I %p %F %T %%";
        // 29 February 2024, 13:05:09 UTC, a Thursday.
        let expected =
            "Thu Thursday 29 29 Feb February 02 24 2024 13:05:09 01 PM 2024-02-29 13:05:09 %";
        assert_eq!(strftime(all, 1_709_211_909).unwrap(), expected);
        for (seconds, date) in
            [(0, "1970-01-01"), (951_868_800, "2000-03-01"), (4_107_542_400, "2100-03-01")]
        {
            assert_eq!(strftime("%F", seconds).unwrap(), date);
        }
        assert_eq!(strftime("%-d %-m", 0).unwrap(), "1 1");
        assert!(strftime("%Q", 0).unwrap_err().contains("%Q"));
    }
}
