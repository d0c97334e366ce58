//! Building blocks of settings: numbers with a range, and settings that can be switched off.

pub(crate) mod date;
pub(crate) mod off;
pub(crate) mod range;

pub use date::Date;
pub use range::{
    AtLeast, Count, Decay, Finite, Limit, NonNegative, OpenUnit, OutOfRange, Positive, Share, Unit,
};
