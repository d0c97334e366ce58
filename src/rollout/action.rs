//! Parsing of actions out of the text that a policy generates.
//!
//! A pretrained chat model reasons before it acts, so its action stands between tags. A small
//! policy writes nothing but the action. The authors' two projections are here too, so that
//! published runs can be compared on the same terms.

use serde::{Deserialize, Serialize};

/// Format of a turn's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionFormat {
    /// The whole text is the action.
    #[default]
    Plain,
    /// `<think>…</think><action>…</action>`: the first closed action, whatever surrounds it.
    /// Without one, the whole text becomes the action and is not well-formed.
    Tagged,
    /// The authors' rules for ALFWorld (EPO's repository, `projection.py`): as `Tagged`, in lower
    /// case. Without a closed action the last 30 characters become the action and are not
    /// well-formed. A text without `<think>` and `</think>`, or with a character of U+4E00 to
    /// U+9FFF, is not well-formed either.
    OfficialAlfworld,
    /// The authors' rules for ScienceWorld: the same, but the case is kept and the fallback is the
    /// last 20 characters.
    OfficialScienceworld,
}

/// An action as it is passed to the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The action, without surrounding white space.
    pub text: String,
    /// The text followed the format.
    pub well_formed: bool,
}

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const OPEN: &str = "<action>";
const CLOSE: &str = "</action>";

/// The tags of all formats.
pub(crate) const TAGS: [&str; 4] = [THINK, THOUGHT, OPEN, CLOSE];

impl ActionFormat {
    /// Parses the action out of a generated text.
    pub fn read(self, text: &str) -> Action {
        self.read_after("", text)
    }

    /// Parses the action out of a generated text that continues `opening`, the end of the prompt.
    ///
    /// Some chat templates open the reasoning themselves, with `<think>`. A plain action is then
    /// the text after `</think>`, and a text without it is not well-formed.
    pub fn read_after(self, opening: &str, text: &str) -> Action {
        let is = |action: &str, well_formed| Action { text: action.trim().to_owned(), well_formed };
        let whole = format!("{opening}{text}");
        match self {
            Self::Plain if is_open(opening, THINK, THOUGHT) => match text.split_once(THOUGHT) {
                Some((_, action)) => is(action, true),
                None => is(text, false),
            },
            Self::Plain => is(text, true),
            Self::Tagged => match tagged(&whole) {
                Some(action) => is(action, true),
                None => is(text, false),
            },
            Self::OfficialAlfworld => {
                official(&whole, &whole.to_lowercase(), &text.to_lowercase(), 30)
            }
            Self::OfficialScienceworld => official(&whole, &whole, text, 20),
        }
    }

    /// The text with which a policy takes `action`.
    pub fn written(self, action: &str) -> String {
        self.written_after("", action)
    }

    /// The text with which a policy takes `action` after a prompt that ends with `opening`.
    pub fn written_after(self, opening: &str, action: &str) -> String {
        let thinks = is_open(opening, THINK, THOUGHT);
        let line_break = if opening.ends_with('\n') { "" } else { "\n" };
        match self {
            Self::Plain if thinks => format!("{line_break}{THOUGHT}\n\n{action}"),
            Self::Plain => action.to_owned(),
            _ if is_open(opening, OPEN, CLOSE) => format!("{action}{CLOSE}"),
            _ if thinks => format!("{line_break}{THOUGHT}{OPEN}{action}{CLOSE}"),
            _ if opening.contains(THOUGHT) => format!("{OPEN}{action}{CLOSE}"),
            _ => format!("{THINK}\n{THOUGHT}{OPEN}{action}{CLOSE}"),
        }
    }

    /// Texts that end a turn, besides the end token.
    pub fn stop_strings(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            _ => &[CLOSE],
        }
    }
}

/// The text between the first opening tag and the first closing tag after it.
fn tagged(text: &str) -> Option<&str> {
    let rest = &text[text.find(OPEN)? + OPEN.len()..];
    Some(&rest[..rest.find(CLOSE)?])
}

/// Returns true if the last tag `open` in a text is not closed.
fn is_open(text: &str, open: &str, close: &str) -> bool {
    match (text.rfind(open), text.rfind(close)) {
        (Some(open), Some(close)) => open > close,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Applies the authors' rules: reasoning tags are searched in `text`, the action in `folded`, the
/// text in the case that the environment expects; the last `last` characters of `generated` are the
/// fallback.
fn official(text: &str, folded: &str, generated: &str, last: usize) -> Action {
    // As Python's text[start + len: end] with the first tag of each kind, in any order.
    let tags = folded.find(OPEN).zip(folded.find(CLOSE));
    let action = tags.map(|(open, close)| folded.get(open + OPEN.len()..close).unwrap_or_default());
    let thought = text.contains(THINK) && text.contains(THOUGHT);
    let foreign = text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    let well_formed = action.is_some() && thought && !foreign;
    let text = match action {
        Some(action) => action.trim().to_owned(),
        None => {
            let skipped = generated.chars().count().saturating_sub(last);
            generated.chars().skip(skipped).collect()
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
    fn plain_takes_the_whole_text_and_tagged_the_text_between_tags() {
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
    fn a_written_action_is_read_back() {
        use ActionFormat::{OfficialAlfworld, OfficialScienceworld, Plain, Tagged};
        for format in [Plain, Tagged, OfficialAlfworld, OfficialScienceworld] {
            for opening in [
                "",
                "<think>",
                "<think>\n",
                "<think>\n\n</think>\n\n",
                "<think>\n</think><action>",
                "<think>\nOkay, ",
            ] {
                let written = format.written_after(opening, "take mug 1");
                let Action { text, well_formed } = format.read_after(opening, &written);
                assert_eq!((text, well_formed), is("take mug 1", true), "{opening:?}");
                let tags = format!("{opening}{written}");
                assert!(TAGS.iter().all(|tag| tags.matches(tag).count() <= 1), "{tags:?}");
            }
        }
        assert_eq!(Tagged.written_after("<think>\n", "x"), "</think><action>x</action>");
    }

    #[test]
    fn an_answer_is_judged_together_with_what_the_prompt_has_begun() {
        let opened = |format: ActionFormat, said| {
            let Action { text, well_formed } = format.read_after("<think>\n", said);
            (text, well_formed)
        };
        let said = "I look.\n</think><action>look</action>";
        let formats = [
            ActionFormat::Tagged,
            ActionFormat::OfficialAlfworld,
            ActionFormat::OfficialScienceworld,
        ];
        for format in formats {
            assert_eq!(opened(format, said), is("look", true));
        }
        assert_eq!(opened(formats[1], "<action>look</action>"), is("look", false));
        // What becomes the action of a text without one is generated.
        assert_eq!(opened(formats[0], "hm"), is("hm", false));
        assert_eq!(opened(formats[1], "Hm"), is("hm", false));
        assert_eq!(opened(ActionFormat::Plain, "Hm.</think>\n\nlook"), is("look", true));
        assert_eq!(opened(ActionFormat::Plain, "look"), is("look", false));
    }
}
