//! Rejected fields of a configuration, before it is known whether they come from a file.

/// A rejected field: (field, value, reason).
pub(crate) type Rejected = (String, String, String);

/// Rejects `field` unless `ok`.
pub(crate) fn require(
    ok: bool,
    field: &str,
    value: impl ToString,
    reason: &str,
) -> Result<(), Rejected> {
    if ok {
        Ok(())
    } else {
        Err((field.to_owned(), value.to_string(), reason.to_owned()))
    }
}
