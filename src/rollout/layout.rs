//! The texts that a chat template puts around messages, measured by rendering placeholders.

use crate::policy::chat::conversation::{Chat, Message};
use crate::policy::chat::ChatTemplate;
use crate::rollout::action::TAGS;
use crate::{Error, Result};

/// Placeholders of the texts that vary.
const GOAL: &str = "@goal and observation@";
const ACTIONS: [&str; 2] = ["@an action@", "@another action@"];
const OBSERVATIONS: [&str; 2] = ["@the next observation@", "@the last observation@"];

/// The fixed texts of a conversation: `before`, goal, `after`, action, `between`, observation,
/// `after`, action, and so on.
#[derive(Debug, PartialEq)]
pub(crate) struct Layout {
    /// Before the goal, with the instructions.
    pub(crate) before: String,
    /// After an observation: the start of the policy's turn.
    pub(crate) after: String,
    /// After an action: its end, and the start of the next observation.
    pub(crate) between: String,
    /// The end of `after` from its first tag, with which the answer begins: `<think>\n` if the
    /// template opens the reasoning itself.
    pub(crate) opening: String,
    /// White space that the template writes before an earlier action, but not in `after`.
    pub(crate) lead: String,
    /// The template keeps the white space that a text begins or ends with.
    pub(crate) keeps_space: KeepsSpace,
}

/// Where a chat template keeps the white space of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepsSpace {
    /// Before the goal.
    pub(crate) goal: bool,
    /// Before an observation.
    pub(crate) leading: bool,
    /// After an observation.
    pub(crate) trailing: bool,
}

impl KeepsSpace {
    /// White space stays as it is.
    pub(crate) const ALL: Self = Self { goal: true, leading: true, trailing: true };
}

impl Layout {
    /// Measures a template. The instructions become the system message or, if the template has no
    /// place for one, the start of the first user message.
    ///
    /// # Errors
    /// A template that rejects such a conversation, or that drops, repeats, moves or changes its
    /// texts.
    pub(crate) fn of(template: &ChatTemplate, instructions: &str) -> Result<Self> {
        let system = [Message::system(instructions), Message::user(GOAL)];
        if let Ok(layout) = Self::measured(template, &system, instructions) {
            return Ok(layout);
        }
        // Some templates refuse a system message. Others leave it out without a word, change it, or
        // move it from turn to turn.
        let first = format!("{instructions}\n\n{GOAL}");
        Self::measured(template, &[Message::user(&*first)], &first)
    }

    /// Measures a template with the messages of the first turn, which hold `instructions`.
    fn measured(template: &ChatTemplate, start: &[Message], instructions: &str) -> Result<Self> {
        let first = render(template, start, true)?;
        if first.matches(instructions).count() != 1 {
            let reason = "the template does not print the instructions exactly once";
            return Err(invalid(&first, reason));
        }
        let (before, after) = around(&first, GOAL)?;
        if after.contains(instructions) {
            return Err(invalid(&first, "the template prints the instructions after the goal"));
        }
        let turns = |n: usize| {
            let pairs = ACTIONS.iter().zip(OBSERVATIONS).take(n);
            let later = pairs.flat_map(|(a, o)| [Message::assistant(*a), Message::user(o)]);
            start.iter().cloned().chain(later).collect::<Vec<_>>()
        };
        let second = render(template, &turns(1), true)?;
        let between = later_turn(&second, before, after, 1)?;
        let third = render(template, &turns(2), true)?;
        if later_turn(&third, before, after, 2)? != between {
            return Err(invalid(&third, DIFFERS));
        }
        let lead = second[before.len() + GOAL.len()..].split(ACTIONS[0]).next();
        let lead = lead.and_then(|earlier| earlier.strip_prefix(after));
        let lead = lead.filter(|lead| lead.trim().is_empty()).unwrap_or_default();
        let layout = Self {
            lead: lead.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
            between: between.to_owned(),
            opening: opening(template, start, &first, after),
            keeps_space: keeps_space(template, turns(1)),
        };
        Ok(layout)
    }
}

const DIFFERS: &str = "the template writes a later turn differently from the first, so that a \
    conversation cannot grow turn by turn: edit chat_template.jinja to write every turn alike";

/// The text between the last action and the last observation of a conversation with `turns` later
/// turns.
fn later_turn<'t>(text: &'t str, before: &str, after: &str, turns: usize) -> Result<&'t str> {
    let Some(mut rest) = text.strip_prefix(before).and_then(|rest| rest.strip_prefix(GOAL)) else {
        return Err(invalid(text, DIFFERS));
    };
    let mut between = "";
    for (action, observation) in ACTIONS.iter().zip(OBSERVATIONS).take(turns) {
        let (_, after_action) = around(rest, action)?;
        (between, rest) = around(after_action, observation)?;
    }
    if rest == after {
        Ok(between)
    } else {
        Err(invalid(rest, DIFFERS))
    }
}

/// The part of the generation prompt that belongs to the answer.
fn opening(template: &ChatTemplate, start: &[Message], first: &str, after: &str) -> String {
    let without = render(template, start, false).unwrap_or_default();
    let prompt = match first.strip_prefix(&*without) {
        Some(prompt) if !without.is_empty() => prompt,
        _ => after,
    };
    let tag = TAGS.iter().filter_map(|tag| prompt.find(tag)).min();
    tag.map_or_else(String::new, |at| prompt[at..].to_owned())
}

/// Finds out where the template keeps white space.
fn keeps_space(template: &ChatTemplate, mut messages: Vec<Message>) -> KeepsSpace {
    let mark = OBSERVATIONS[0];
    let (leading, trailing) = (format!(" \n{mark}"), format!("{mark}\n "));
    // After instructions the goal is inside its message.
    let inside =
        messages.first().is_some_and(|first| first.content != GOAL && first.role == "user");
    if let Some(last) = messages.last_mut() {
        last.content = format!(" \n{mark}\n ");
    }
    match render(template, &messages, true) {
        Ok(text) => KeepsSpace {
            goal: inside || text.contains(&leading),
            leading: text.contains(&leading),
            trailing: text.contains(&trailing),
        },
        Err(_) => KeepsSpace::ALL,
    }
}

fn render(template: &ChatTemplate, messages: &[Message], prompt: bool) -> Result<String> {
    template.render(&Chat::new(messages)?.with_generation_prompt(prompt))
}

pub(crate) fn invalid(text: &str, reason: &str) -> Error {
    Error::file("chat_template", "messages", format!("{reason}: {text:?}"))
}

/// The texts before and after a placeholder, which must occur once.
fn around<'t>(text: &'t str, mark: &str) -> Result<(&'t str, &'t str)> {
    match text.split_once(mark) {
        Some((before, after)) if !after.contains(mark) => Ok((before, after)),
        Some(_) => Err(invalid(text, "the template repeats a message")),
        None => Err(invalid(text, "the template omits or changes a message")),
    }
}
