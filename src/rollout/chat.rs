//! Prompts in the chat template of a model checkpoint.
//!
//! Training has to see the very ids that were sampled, so a conversation is never rendered and
//! tokenised again as it grows. Instead the template is rendered around placeholders, and the text
//! that it puts between messages becomes the prompt's fixed ids. What a template does to earlier
//! turns, such as leaving out their reasoning, is not repeated: those ids were sampled.

use crate::policy::chat::ChatTemplate;
use crate::policy::places::Place;
use crate::policy::tokenizer::Tokenizer;
use crate::rollout::action::ActionFormat;
use crate::rollout::layout::{invalid, KeepsSpace, Layout};
use crate::rollout::prompt::{Frame, Leads, Places, Prompter};
use crate::Result;

/// The task's instructions, before the first goal.
const TASK: &str = "You act in a world of text. You are given a goal and what you observe; \
    each of your answers is one action, and you are told what it has changed.";

/// The task's instructions and those of the action format.
fn instructions(format: ActionFormat) -> String {
    let form = match format {
        ActionFormat::Plain => "Answer with the action alone.",
        _ => {
            "Think first, between <think> and </think>, and then write the action between \
             <action> and </action>."
        }
    };
    format!("{TASK} {form}")
}

impl Prompter {
    /// Creates a prompter that follows a model checkpoint's chat template.
    ///
    /// The instructions become the system message, or precede the goal if the template has no place
    /// for a system message. Goal and observations are user messages; actions are assistant
    /// messages. Each text is tokenised alone, apart from the template's text around it, so its
    /// first and last tokens may differ from those of the conversation tokenised as a whole.
    ///
    /// A template that prints the date should be given one ([`ChatTemplate::set_time`]): prompts
    /// would otherwise change from day to day.
    ///
    /// # Errors
    /// The template rejects such a conversation, changes its texts, or does not end an assistant
    /// message with a special token; or `max_observation_tokens` is 0.
    pub fn chat(
        tokenizer: Tokenizer,
        template: &ChatTemplate,
        format: ActionFormat,
        max_observation_tokens: usize,
    ) -> Result<Self> {
        let layout = Layout::of(template, &instructions(format))?;
        let Some((closing, end)) = ending(&tokenizer, &layout.between) else {
            let reason = "the template does not end an assistant message with a special token";
            return Err(invalid(&layout.between, reason));
        };
        let tokenizer = tokenizer.ending_at(&[end])?;
        let closing = tokenizer.encode_template(closing, Place::Inside)?;
        let frame = frame(&tokenizer, &layout, closing, end)?;
        Self::framed(tokenizer, frame, format, max_observation_tokens)
    }
}

/// The layout as token ids; `closing` ends with `end` and is the beginning of `between`.
fn frame(tokenizer: &Tokenizer, layout: &Layout, closing: Vec<u32>, end: u32) -> Result<Frame> {
    let Layout { before, after, between, opening, lead, keeps_space } = layout;
    // A space before a text is part of the text's first token.
    let [goal, observation] = [before, between].map(|text| text.trim_end_matches(' '));
    // With the end token, which may take the white space after it.
    let later = tokenizer.encode_template(observation, Place::Inside)?;
    let Some(later) = later.strip_prefix(&closing[..]) else {
        return Err(invalid(between, "the tokenizer does not find the end token in this text"));
    };
    Ok(Frame {
        goal: tokenizer.encode_template(goal, Place::Start)?,
        first: tokenizer.encode_at("\n\n", Place::Inside)?,
        later: later.to_vec(),
        action: tokenizer.encode_template(after, Place::Inside)?,
        closing,
        end,
        closes: true,
        opening: opening.clone(),
        leads: Leads {
            goal: before[goal.len()..].to_owned(),
            observation: between[observation.len()..].to_owned(),
            answer: lead.clone(),
        },
        keeps_space: KeepsSpace {
            goal: keeps_space.goal && !tokenizer.takes_space_after(before),
            leading: keeps_space.leading && !tokenizer.takes_space_after(between),
            trailing: keeps_space.trailing && !tokenizer.takes_space_before(after),
        },
        places: Places {
            goal: tokenizer.place_after(goal),
            observation: tokenizer.place_after(observation),
            answer: tokenizer.place_after(after),
        },
    })
}

/// The text and the id with which `between`, the text after an action, ends the policy's turn: a
/// special token, perhaps after white space if it is known to end a text.
fn ending<'t>(tokenizer: &Tokenizer, between: &'t str) -> Option<(&'t str, u32)> {
    let space = between.len() - between.trim_start().len();
    let starts = |at: usize, special: bool| {
        let tokens = tokenizer.added_tokens(special);
        let token = tokens.into_iter().find(|(token, _)| between[at..].starts_with(&**token));
        token.map(|(token, id)| (&between[..at + token.len()], id))
    };
    let known = |&(_, id): &(&str, u32)| tokenizer.end_ids().contains(&id);
    starts(0, true).or_else(|| starts(space, true).filter(known)).or_else(|| starts(0, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Start;
    use crate::policy::chat::conversation::{Chat, Message};

    const CHATML: &str = "{% for m in messages %}\
        <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn tokenizer() -> Tokenizer {
        let texts = [
            "go to the desk",
            "You act in a world of text",
            "<think>\n</think><action>look</action>",
        ];
        Tokenizer::train(texts, 400, &["<|im_start|>", "<|im_end|>"]).unwrap()
    }

    fn prompter(template: &str, format: ActionFormat) -> Result<Prompter> {
        Prompter::chat(tokenizer(), &ChatTemplate::new(template, &[])?, format, 64)
    }

    /// The text of ids, special tokens included.
    fn text(prompter: &Prompter, ids: &[u32]) -> String {
        let bytes = prompter.tokenizer().token_bytes();
        String::from_utf8(ids.iter().flat_map(|&id| bytes[id as usize].clone()).collect()).unwrap()
    }

    #[test]
    fn prompt_ids_spell_the_rendered_conversation() {
        let prompter = prompter(CHATML, ActionFormat::Tagged).unwrap();
        let start = Start { goal: "find it".into(), observation: "a <|im_end|> desk".into() };
        let mut ids = prompter.start(&start).unwrap();
        let action = prompter.tokenizer().encode("<action>look</action>").unwrap();
        ids.extend(&action);
        // The action was cut off before its end token, which the next prompt adds.
        ids.extend(prompter.after_action(&action, "a mug").unwrap());
        let want = Chat::new(&[
            Message::system(instructions(ActionFormat::Tagged)),
            Message::user("find it\n\na <|im_end|> desk"),
            Message::assistant("<action>look</action>"),
            Message::user("a mug"),
        ]);
        let want = want.unwrap().with_generation_prompt(true);
        assert_eq!(
            text(&prompter, &ids),
            ChatTemplate::new(CHATML, &[]).unwrap().render(&want).unwrap()
        );
        // The end token inside an observation does not end a message.
        let ends = ids.iter().filter(|&&id| id == prompter.end_id()).count();
        assert_eq!(ends, 4);
        assert_eq!(prompter.action(&action).unwrap().text, "look");
        assert!(prompter.stop_strings().unwrap().unwrap().ends(&action));
    }

    #[test]
    fn templates_without_a_system_or_without_ends() {
        let no_system = "{% for m in messages %}\
            {% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}\
            <|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
        let prompter = prompter(no_system, ActionFormat::Plain).unwrap();
        let ids = prompter.start(&Start { goal: "g".into(), observation: "o".into() }).unwrap();
        assert!(text(&prompter, &ids).contains(TASK));
        for bad in ["{% for m in messages %}{{ m.content }}\n{% endfor %}", "nothing"] {
            let error = super::tests::prompter(bad, ActionFormat::Plain).unwrap_err().to_string();
            assert!(error.contains("chat_template"), "{error}");
        }
    }
}
