//! How an action is written inside what the policy says.

use serde::{Deserialize, Serialize};

/// The form of a turn's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionFormat {
    /// All of it is the action.
    #[default]
    Plain,
    /// `<think>…</think><action>…</action>`: the first closed action, whatever stands around it. Without one, all of the
    /// text is tried as an action, which is not well-formed.
    Tagged,
    /// The authors' rules for ALFWorld (EPO's repository, `projection.py`): as `Tagged`, in lower case; without a closed
    /// action the last 30 characters are tried, not well-formed; and neither is a text without `<think>` and `</think>` or with a
    /// character of U+4E00 to U+9FFF.
    OfficialAlfworld,
    /// The authors' rules for ScienceWorld: the same, but the case is kept, and the last 20 characters are tried.
    OfficialScienceworld,
}

/// An action as an environment gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The action, without white space around it.
    pub text: String,
    /// It was written in the form that the format asks for.
    pub well_formed: bool,
}

const OPEN: &str = "<action>";
const CLOSE: &str = "</action>";

impl ActionFormat {
    /// The action in what the policy said.
    pub fn read(self, said: &str) -> Action {
        match self {
            Self::Plain => Action { text: said.trim().to_owned(), well_formed: true },
            Self::Tagged => match between(said) {
                Some(action) => Action { text: action.trim().to_owned(), well_formed: true },
                None => Action { text: said.trim().to_owned(), well_formed: false },
            },
            Self::OfficialAlfworld => official(&said.to_lowercase(), said, 30),
            Self::OfficialScienceworld => official(said, said, 20),
        }
    }

    /// What a policy says that takes `action`.
    pub fn written(self, action: &str) -> String {
        match self {
            Self::Plain => action.to_owned(),
            _ => format!("<think>\n</think>{OPEN}{action}{CLOSE}"),
        }
    }

    /// Texts that end a turn.
    pub fn stop_strings(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            _ => &[CLOSE],
        }
    }
}

/// What stands between the first opening tag and the first closing one behind it.
fn between(text: &str) -> Option<&str> {
    let rest = &text[text.find(OPEN)? + OPEN.len()..];
    Some(&rest[..rest.find(CLOSE)?])
}

/// `text` is what the action is taken from, `said` what the tags of the reasoning are looked for in.
fn official(text: &str, said: &str, last: usize) -> Action {
    // Python's text[start + len: end], whose tags are the first of each kind wherever they are.
    let tags = text.find(OPEN).zip(text.find(CLOSE));
    let action = tags.map(|(open, close)| text.get(open + OPEN.len()..close).unwrap_or_default());
    let thought = said.contains("<think>") && said.contains("</think>");
    let foreign = said.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    let well_formed = action.is_some() && thought && !foreign;
    let text = match action {
        Some(action) => action.trim().to_owned(),
        None => {
            let skipped = text.chars().count().saturating_sub(last);
            text.chars().skip(skipped).collect()
        }
    };
    Action { text, well_formed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: ActionFormat, said: &str) -> (String, bool) {
        let Action { text, well_formed } = format.read(said);
        (text, well_formed)
    }

    fn is(text: &str, well_formed: bool) -> (String, bool) {
        (text.to_owned(), well_formed)
    }

    #[test]
    fn plain_is_everything_and_tags_are_what_stands_between_them() {
        assert_eq!(read(ActionFormat::Plain, " go north\n"), is("go north", true));
        let tagged = |said| read(ActionFormat::Tagged, said);
        assert_eq!(tagged("<think>hm</think>\n<action> Go </action> x"), is("Go", true));
        assert_eq!(tagged("</action><action>a</action><action>b</action>"), is("a", true));
        assert_eq!(tagged("<action>go north"), is("<action>go north", false));
    }

    #[test]
    fn the_official_rules_are_followed() {
        use ActionFormat::{OfficialAlfworld, OfficialScienceworld};
        let good = "<think>Hm</think><action> Go To Desk 1 </action>";
        assert_eq!(read(OfficialAlfworld, good), is("go to desk 1", true));
        assert_eq!(read(OfficialScienceworld, good), is("Go To Desk 1", true));
        assert_eq!(read(OfficialAlfworld, "<action>look</action>"), is("look", false));
        assert_eq!(
            read(OfficialAlfworld, "<Think>a</Think><action>look</action>"),
            is("look", false)
        );
        assert_eq!(
            read(OfficialAlfworld, "<think>桌</think><action>look</action>"),
            is("look", false)
        );
        let long = "I would like to go to the desk number one";
        assert_eq!(read(OfficialAlfworld, long), is("e to go to the desk number one", false));
        assert_eq!(read(OfficialScienceworld, long), is(" the desk number one", false));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for format in [ActionFormat::Plain, ActionFormat::Tagged, ActionFormat::OfficialAlfworld] {
            assert_eq!(read(format, &format.written("take mug 1")), is("take mug 1", true));
        }
    }
}
