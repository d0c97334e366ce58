//! Rejected fields of a configuration.

/// (field, value, reason)
pub(crate) type Rejected = (String, String, String);

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
