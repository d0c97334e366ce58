//! Keys of hash maps: a predicate or an action with its objects, packed into one integer.

/// A number and up to seven objects, 16 bits each.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u128);

impl Key {
    /// Packs a number and up to seven objects.
    ///
    /// The number is stored plus 1, so lists of different lengths never give the same key.
    #[inline]
    pub(crate) fn new(number: u16, objects: impl Iterator<Item = u16>) -> Self {
        Self(objects.fold(u128::from(number) + 1, |key, object| key << 16 | u128::from(object)))
    }
}
