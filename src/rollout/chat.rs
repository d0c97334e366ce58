//! Prompts in a checkpoint's own chat template.

use crate::policy::chat::conversation::{Chat, Message};
use crate::policy::chat::ChatTemplate;
use crate::policy::tokenizer::Tokenizer;
use crate::rollout::action::ActionFormat;
use crate::rollout::prompt::Frame;
use crate::rollout::prompt::Prompter;
use crate::{Error, Result};

/// What the policy is told before the first goal.
const TASK: &str =
    "You act in a world of text. You are given a goal and what you observe; each of your answers is one \
                    action, and you are told what it has changed.";

/// How it is to write its actions.
fn instructions(format: ActionFormat) -> String {
    let form = match format {
        ActionFormat::Plain => "Answer with the action alone.",
        _ => {
            "Think first, between <think> and </think>, and then write the action between <action> and </action>."
        }
    };
    format!("{TASK} {form}")
}

/// What stands for the texts that are not known yet.
const MARKS: [&str; 3] = ["@goal and observation@", "@an action@", "@the next observation@"];

impl Prompter {
    /// A prompter that talks as a checkpoint was trained to: instructions (as the system's message, or before the goal where the
    /// template has no system), goal and observations as the user's messages, actions as the assistant's.
    ///
    /// Only what the template writes around a text is tokenised with it; a text itself is tokenised alone, so its first
    /// and last tokens may be others than those of the whole conversation.
    ///
    /// # Errors
    /// A template that refuses such a conversation, changes its texts, or ends an assistant's message with no special token; the
    /// limit is 0.
    pub fn chat(
        tokenizer: Tokenizer,
        template: &ChatTemplate,
        format: ActionFormat,
        max_observation_tokens: usize,
    ) -> Result<Self> {
        let [opening, action, observation] = MARKS;
        let instructions = instructions(format);
        let apart = vec![Message::system(&*instructions), Message::user(opening)];
        let together = vec![Message::user(format!("{instructions}\n\n{opening}"))];
        let messages = if render(template, &apart).is_ok() { apart } else { together };
        let first = render(template, &messages)?;
        let (before, after) = around(&first, opening)?;
        let more = [messages.clone(), vec![Message::assistant(action), Message::user(observation)]]
            .concat();
        let second = render(template, &more)?;
        let (_, rest) = around(&second, action)?;
        let (between, last) = around(rest, observation)?;
        if last != after {
            return Err(refused(
                last,
                "the template asks for a later action otherwise than for the first",
            ));
        }
        let special = tokenizer.special_tokens();
        let Some(end) = special.iter().find(|token| between.starts_with(token.as_str())) else {
            return Err(refused(between, "the template ends an answer with no special token"));
        };
        let frame = Frame {
            goal: tokenizer.encode_with_special(before)?,
            first: tokenizer.encode("\n\n")?,
            later: tokenizer.encode_with_special(&between[end.len()..])?,
            action: tokenizer.encode_with_special(after)?,
            end: tokenizer.special_id(end)?,
            closes: true,
        };
        Self::framed(tokenizer, frame, format, max_observation_tokens)
    }
}

fn render(template: &ChatTemplate, messages: &[Message]) -> Result<String> {
    template.render(&Chat::new(messages)?.with_generation_prompt(true))
}

fn refused(text: &str, reason: &str) -> Error {
    Error::setting("chat_template", format!("{text:?}"), reason)
}

/// What is before and after a mark.
fn around<'t>(text: &'t str, mark: &str) -> Result<(&'t str, &'t str)> {
    text.split_once(mark).ok_or_else(|| refused(text, "the template leaves out a message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Start;

    const CHATML: &str =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
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
    fn a_conversation_is_the_templates_own() {
        let prompter = prompter(CHATML, ActionFormat::Tagged).unwrap();
        let start = Start { goal: "find it".into(), observation: "a <|im_end|> desk".into() };
        let mut ids = prompter.start(&start).unwrap();
        let action = prompter.tokenizer().encode("<action>look</action>").unwrap();
        ids.extend(&action);
        // Cut off before its end, which is put there.
        ids.extend(prompter.answer(&action, "a mug").unwrap());
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
        // A text never ends a message.
        let ends = ids.iter().filter(|&&id| id == prompter.end_id()).count();
        assert_eq!(ends, 4);
        assert_eq!(prompter.action(&action).unwrap().text, "look");
        assert!(prompter.stop_strings().unwrap().unwrap().ends(&action));
    }

    #[test]
    fn templates_without_a_system_or_without_ends() {
        let no_system =
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}\
                         <|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
        let prompter = prompter(no_system, ActionFormat::Plain).unwrap();
        let ids = prompter.start(&Start { goal: "g".into(), observation: "o".into() }).unwrap();
        assert!(text(&prompter, &ids).contains(TASK));
        for bad in ["{% for m in messages %}{{ m.content }}\n{% endfor %}", "nothing"] {
            let error = crate::rollout::chat::tests::prompter(bad, ActionFormat::Plain)
                .unwrap_err()
                .to_string();
            assert!(error.contains("chat_template"), "{error}");
        }
    }
}
