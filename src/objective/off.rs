//! `None` as `false`: TOML has no null, and a setting left out means its default.

use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Setting<T> {
    Off(bool),
    On(T),
}

pub(crate) fn serialize<T: Serialize, S: Serializer>(
    value: &Option<T>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(s),
        None => s.serialize_bool(false),
    }
}

pub(crate) fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    match Setting::deserialize(d)? {
        Setting::Off(false) => Ok(None),
        Setting::Off(true) => {
            Err(D::Error::custom("`true` says nothing: give the setting, or `false`"))
        }
        Setting::On(value) => Ok(Some(value)),
    }
}

/// The setting where it is given at all.
pub(crate) fn given<'de, T, D>(d: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserialize(d).map(Some)
}
