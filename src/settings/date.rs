//! A calendar date as a setting.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::settings::range::OutOfRange;

/// A date of the Gregorian calendar from 1970 to 9999, such as `2024-07-26`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const RULE: &str = "must be a date from 1970-01-01 to 9999-12-31, such as 2024-07-26";

impl Date {
    /// A date known when the program is written.
    ///
    /// # Panics
    /// A day that does not exist: when the program is compiled, if this is called in a `const`.
    pub const fn literal(year: u16, month: u8, day: u8) -> Self {
        assert!(year >= 1970 && year <= 9999 && month >= 1 && month <= 12);
        assert!(day >= 1 && day <= days_of_month(year, month));
        Self { year, month, day }
    }

    /// Seconds from 1970 to the beginning of this day in UTC.
    pub fn seconds(self) -> u64 {
        // Years begin in March here, so that a leap day is the last day of its year (Hinnant,
        // "chrono-Compatible Low-Level Date Algorithms", 2013).
        let late = u64::from(self.month <= 2);
        let year = u64::from(self.year) - late;
        let month = (u64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + u64::from(self.day) - 1;
        let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
        (days - 719_468) * 86_400
    }
}

/// Number of days of a month, counted from 1.
const fn days_of_month(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + leap as u8,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl std::str::FromStr for Date {
    type Err = OutOfRange;

    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        parsed(text).ok_or_else(|| OutOfRange::new(RULE, format!("{text:?}")))
    }
}

/// `YYYY-MM-DD`, with leading zeros.
fn parsed(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let shaped = bytes.len() == 10
        && (0..10).all(|i| match i {
            4 | 7 => bytes[i] == b'-',
            _ => bytes[i].is_ascii_digit(),
        });
    if !shaped {
        return None;
    }
    let year = digits(0, 4).filter(|&year| year >= 1970)?;
    let month = digits(5, 7).filter(|month| (1..=12).contains(month))? as u8;
    let days = u16::from(days_of_month(year, month));
    let day = digits(8, 10).filter(|&day| day >= 1 && day <= days)? as u8;
    Some(Date { year, month, day })
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DateVisitor)
    }
}

/// Reads a date from a string, or from a date of TOML without quotes.
struct DateVisitor;

impl<'de> serde::de::Visitor<'de> for DateVisitor {
    type Value = Date;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a date such as 2024-07-26")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Date, E> {
        text.parse().map_err(E::custom)
    }

    /// The toml crate hands over its dates as a map with one entry.
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Date, A::Error> {
        let entry = map.next_entry::<String, String>()?;
        let text = entry.map_or_else(String::new, |(_, text)| text);
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1972-02-29", 789),
            ("2000-03-01", 11_017),
            ("2024-02-29", 19_782),
            ("2024-07-26", 19_930),
            ("9999-12-31", 2_932_896),
        ] {
            let date: Date = text.parse().unwrap();
            assert_eq!((date.seconds(), date.to_string()), (days * 86_400, text.to_owned()));
        }
        assert_eq!(Date::literal(2024, 7, 26), "2024-07-26".parse().unwrap());
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for text in [
            "",
            "today",
            "2023-02-29",
            "2100-02-29",
            "2024-13-01",
            "2024-00-10",
            "2024-01-32",
            "1969-12-31",
            "24-07-26",
            "2024-7-26",
            "2024-07-26T00:00:00Z",
            "2024-07-é",
        ] {
            let error = text.parse::<Date>().unwrap_err().to_string();
            assert!(error.contains("must be a date") && error.contains(text), "{error}");
        }
    }
}
