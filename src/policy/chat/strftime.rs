//! `strftime` for templates that print the date, in English and UTC.
//!
//! Own code instead of a date library: templates need neither time zones nor parsing, and date
//! libraries lack the flags, widths and weeks of the C library that Python calls.

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

/// The codes that are other codes written out.
fn composed(code: char) -> Option<&'static str> {
    Some(match code {
        'c' => "%a %b %e %H:%M:%S %Y",
        'D' | 'x' => "%m/%d/%y",
        'F' => "%Y-%m-%d",
        'r' => "%I:%M:%S %p",
        'R' => "%H:%M",
        'T' | 'X' => "%H:%M:%S",
        _ => return None,
    })
}

/// A time in UTC by the fields of the calendar.
struct Moment {
    seconds: u64,
    year: u64,
    /// 1 to 12.
    month: usize,
    day: u64,
    /// 0 to 365.
    day_of_year: u64,
    /// 0 to 6, from Sunday.
    weekday: u64,
}

impl Moment {
    fn new(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        let day_of_year = days - days_before(year);
        Self { seconds, year, month, day, day_of_year, weekday: (days + 4) % 7 }
    }

    fn hour(&self) -> u64 {
        self.seconds % 86_400 / 3600
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (u64, u64) {
        let monday = (self.weekday + 6) % 7;
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let year_days = |year: u64| if leap(year) { 366 } else { 365 };
        // The week's Thursday decides the year.
        let thursday = self.day_of_year as i64 - monday as i64 + 3;
        if thursday < 0 {
            let days = thursday + year_days(self.year - 1) as i64;
            return (self.year - 1, days as u64 / 7 + 1);
        }
        let thursday = thursday as u64;
        if thursday >= year_days(self.year) {
            return (self.year + 1, (thursday - year_days(self.year)) / 7 + 1);
        }
        (self.year, thursday / 7 + 1)
    }

    /// A code's number with its digits and the character that fills them.
    fn number(&self, code: char) -> Option<(u64, usize, char)> {
        let hour12 = (self.hour() + 11) % 12 + 1;
        let (iso_year, iso_week) = self.iso_week();
        Some(match code {
            'C' => (self.year / 100, 2, '0'),
            'd' => (self.day, 2, '0'),
            'e' => (self.day, 2, ' '),
            'g' => (iso_year % 100, 2, '0'),
            'G' => (iso_year, 4, '0'),
            'H' => (self.hour(), 2, '0'),
            'I' => (hour12, 2, '0'),
            'j' => (self.day_of_year + 1, 3, '0'),
            'k' => (self.hour(), 2, ' '),
            'l' => (hour12, 2, ' '),
            'm' => (self.month as u64, 2, '0'),
            'M' => (self.seconds / 60 % 60, 2, '0'),
            's' => (self.seconds, 1, '0'),
            'S' => (self.seconds % 60, 2, '0'),
            'u' => ((self.weekday + 6) % 7 + 1, 1, '0'),
            'U' => ((self.day_of_year + 7 - self.weekday) / 7, 2, '0'),
            'V' => (iso_week, 2, '0'),
            'w' => (self.weekday, 1, '0'),
            'W' => ((self.day_of_year + 7 - (self.weekday + 6) % 7) / 7, 2, '0'),
            'y' => (self.year % 100, 2, '0'),
            'Y' => (self.year, 4, '0'),
            _ => return None,
        })
    }

    /// A code's name.
    fn name(&self, code: char) -> Option<&'static str> {
        let weekday = DAYS[(self.weekday as usize + 6) % 7];
        let month = MONTHS[self.month - 1];
        Some(match code {
            'a' => &weekday[..3],
            'A' => weekday,
            'b' | 'h' => &month[..3],
            'B' => month,
            'p' | 'P' => {
                if self.hour() < 12 {
                    "AM"
                } else {
                    "PM"
                }
            }
            'n' => "\n",
            't' => "\t",
            '%' => "%",
            // A time without a zone.
            'z' | 'Z' => "",
            _ => return None,
        })
    }
}

/// What stands between `%` and a code.
#[derive(Default)]
struct Flags {
    /// The last of `_`, `-`, `0` and `+`.
    pad: Option<char>,
    upper: bool,
    swap: bool,
    width: Option<usize>,
}

/// Formats a time as Python's `datetime.strftime` does with glibc in the C locale. A code that
/// glibc does not know stays as it is.
pub(crate) fn strftime(format: &str, seconds: u64) -> String {
    let moment = Moment::new(seconds);
    let mut out = String::with_capacity(format.len() * 2);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = code(rest, &moment, &mut out);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Writes the code at the start of `text` and returns its length.
fn code(text: &str, moment: &Moment, out: &mut String) -> usize {
    // Python replaces this code itself; the clock has whole seconds.
    if text.starts_with("%f") {
        out.push_str("000000");
        return 2;
    }
    let mut flags = Flags::default();
    let mut rest = text[1..].char_indices().map(|(at, c)| (at + 1, c)).peekable();
    while let Some((_, flag)) = rest.next_if(|(_, c)| "_-0+^#".contains(*c)) {
        match flag {
            '^' => flags.upper = true,
            '#' => flags.swap = true,
            pad => flags.pad = Some(pad),
        }
    }
    while let Some((_, digit)) = rest.next_if(|(_, c)| c.is_ascii_digit()) {
        let digit = digit as usize - '0' as usize;
        flags.width = Some((flags.width.unwrap_or(0) * 10 + digit).min(1024));
    }
    let modifier = rest.next_if(|(_, c)| *c == 'E' || *c == 'O').map(|(_, c)| c);
    let last = rest.next();
    let length = last.map_or(text.len(), |(at, code)| at + code.len_utf8());
    let written = last.and_then(|(_, code)| written(code, modifier, &flags, moment));
    out.push_str(&written.unwrap_or_else(|| {
        let kept = &text[..length];
        padded(if flags.upper { kept.to_ascii_uppercase() } else { kept.to_owned() }, &flags)
    }));
    length
}

fn written(code: char, modifier: Option<char>, flags: &Flags, moment: &Moment) -> Option<String> {
    let fits = match modifier {
        Some('E') => "cCxXyYntpPrRsTuzZ%".contains(code),
        Some(_) => !"aAcDFxXY".contains(code),
        None => true,
    };
    if !fits {
        return None;
    }
    if let Some(format) = composed(code) {
        let mut text = strftime(format, moment.seconds);
        if flags.upper {
            text.make_ascii_uppercase();
        }
        return Some(padded(text, flags));
    }
    if let Some((number, digits, fill)) = moment.number(code) {
        return Some(numeric(number, digits, fill, flags));
    }
    let name = moment.name(code)?;
    let text = match (code, flags.upper, flags.swap) {
        ('P', ..) => name.to_lowercase(),
        ('p', _, true) => name.to_lowercase(),
        ('a' | 'A' | 'b' | 'B' | 'h', _, true) | (_, true, _) => name.to_uppercase(),
        _ => name.to_owned(),
    };
    Some(if code == 'z' { text } else { padded(text, flags) })
}

fn numeric(number: u64, digits: usize, fill: char, flags: &Flags) -> String {
    let (fill, digits) = match flags.pad {
        Some('-') => (' ', 1),
        Some('_') => (' ', digits),
        Some(_) => ('0', digits),
        None => (fill, digits),
    };
    let text = number.to_string();
    let width = flags.width.unwrap_or(digits).max(digits);
    let missing = width.saturating_sub(text.len());
    let run: String = std::iter::repeat_n(fill, missing).collect();
    run + &text
}

fn padded(text: String, flags: &Flags) -> String {
    let fill = match flags.pad {
        Some('0' | '+') => '0',
        _ => ' ',
    };
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    let run: String = std::iter::repeat_n(fill, missing).collect();
    run + &text
}

/// Days from 1970 to the start of a year.
fn days_before(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400 - 719_162
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_match_the_calendar() {
        let all = "%a %A %d %-d %b %B %m %y %Y %H:%M:%S %I %p %F %T %% %j %U %w %e";
        // 29 February 2024, 13:05:09 UTC, a Thursday.
        let expected = "Thu Thursday 29 29 Feb February 02 24 2024 13:05:09 01 PM 2024-02-29 \
                        13:05:09 % 060 08 4 29";
        assert_eq!(strftime(all, 1_709_211_909), expected);
        for (seconds, date) in [
            (0, "1970-01-01 1970-W01-4"),
            (951_868_800, "2000-03-01 2000-W09-3"),
            (4_107_542_400, "2100-03-01 2100-W09-1"),
            (1_609_459_200, "2021-01-01 2020-W53-5"),
            (1_735_516_800, "2024-12-30 2025-W01-1"),
        ] {
            assert_eq!(strftime("%F %G-W%V-%u", seconds), date);
        }
        assert_eq!(strftime("%-d %-m %_d|%05d|%^a %#p", 0), "1 1  1|00001|THU am");
        assert_eq!(strftime("%Q %-", 0), "%Q %-");
    }
}
