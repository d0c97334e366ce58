//! Numbers with a range, so that a settings struct that exists is valid.
//!
//! A range is checked once, where a value enters: by `TryFrom` in Rust, by serde when a file or a
//! command line is read. The code that uses a setting then has nothing left to check. The error
//! states the rule and the value; whoever reads the settings adds the key.
//!
//! ```
//! use epo::settings::{AtLeast, Positive};
//! let learning_rate = Positive::try_from(3e-4)?;
//! assert_eq!(learning_rate.get(), 3e-4);
//! let error = AtLeast::<2>::try_from(1).unwrap_err();
//! assert_eq!(error.to_string(), "must be at least 2, got 1");
//! # Ok::<(), epo::settings::OutOfRange>(())
//! ```

use serde::{Deserialize, Serialize};

/// A number outside the range of its setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}, got {value}")]
pub struct OutOfRange {
    rule: String,
    value: String,
}

impl OutOfRange {
    pub(crate) fn new(rule: impl Into<String>, value: impl ToString) -> Self {
        Self { rule: rule.into(), value: value.to_string() }
    }
}

impl From<OutOfRange> for crate::Error {
    fn from(error: OutOfRange) -> Self {
        Self::setting("number", error.value, error.rule)
    }
}

/// A count from `MIN` to `MAX`.
///
/// `MAX` turns a number with some zeros too many into an error that names its setting, instead of
/// a process that runs out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct AtLeast<const MIN: usize, const MAX: usize = 1_000_000>(usize);

/// A count from 1 to 10⁶.
pub type Count = AtLeast<1>;

/// A limit from 1 to 10⁹ that may be out of reach, such as the steps between checkpoints.
pub type Limit = AtLeast<1, 1_000_000_000>;

impl<const MIN: usize, const MAX: usize> AtLeast<MIN, MAX> {
    /// A count known when the program is written.
    ///
    /// # Panics
    /// A count out of range: when the program is compiled, if this is called in a `const`.
    pub const fn literal(count: usize) -> Self {
        assert!(count >= MIN && count <= MAX);
        Self(count)
    }

    /// The count.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<usize> for AtLeast<MIN, MAX> {
    type Error = OutOfRange;

    fn try_from(count: usize) -> Result<Self, OutOfRange> {
        if count < MIN {
            Err(OutOfRange::new(format!("must be at least {MIN}"), count))
        } else if count > MAX {
            Err(OutOfRange::new(format!("must be at most {MAX}"), count))
        } else {
            Ok(Self(count))
        }
    }
}

impl<const MIN: usize, const MAX: usize> From<AtLeast<MIN, MAX>> for usize {
    fn from(count: AtLeast<MIN, MAX>) -> usize {
        count.0
    }
}

impl<const MIN: usize, const MAX: usize> std::fmt::Display for AtLeast<MIN, MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines a finite f64 that satisfies a condition.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $x:ident => $condition:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            const fn holds($x: f64) -> bool {
                $x.is_finite() && $condition
            }

            /// A number known when the program is written.
            ///
            /// # Panics
            /// A number out of range: when the program is compiled, if this is called in a `const`.
            pub const fn literal(value: f64) -> Self {
                assert!(Self::holds(value), $rule);
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = OutOfRange;

            fn try_from(value: f64) -> Result<Self, OutOfRange> {
                if Self::holds(value) {
                    Ok(Self(value))
                } else {
                    Err(OutOfRange::new($rule, value))
                }
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> f64 {
                value.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A finite number.
    Finite, _x => true, "must be finite"
}
number! {
    /// A number in (0, ∞).
    Positive, x => x > 0.0, "must be positive and finite"
}
number! {
    /// A number in [0, ∞).
    NonNegative, x => x >= 0.0, "must be finite and at least 0"
}
number! {
    /// A number in [0, 1].
    Unit, x => x >= 0.0 && x <= 1.0, "must be in [0, 1]"
}
number! {
    /// A number in (0, 1].
    Share, x => x > 0.0 && x <= 1.0, "must be in (0, 1]"
}
number! {
    /// A number in [0, 1).
    Decay, x => x >= 0.0 && x < 1.0, "must be in [0, 1)"
}
number! {
    /// A number in (0, 1).
    OpenUnit, x => x > 0.0 && x < 1.0, "must be in (0, 1)"
}
