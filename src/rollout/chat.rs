//! Prompts in the chat template of a model checkpoint.
//!
//! Training has to see the very ids that were sampled, so a conversation is never rendered and
//! tokenised again as it grows. Instead the template is rendered twice around placeholders, and the
//! text that it puts between messages becomes the prompt's fixed ids.

use crate::policy::chat::conversation::{Chat, Message};
use crate::policy::chat::ChatTemplate;
use crate::policy::tokenizer::Tokenizer;
use crate::rollout::action::ActionFormat;
use crate::rollout::prompt::Frame;
use crate::rollout::prompt::Prompter;
use crate::{Error, Result};

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

/// Placeholders of the texts that vary.
const MARKS: [&str; 3] = ["@goal and observation@", "@an action@", "@the next observation@"];

impl Prompter {
    /// Creates a prompter that follows a model checkpoint's chat template.
    ///
    /// The instructions become the system message, or precede the goal if the template has no
    /// system role. Goal and observations are user messages; actions are assistant messages. Each
    /// text is tokenised alone, apart from the template's text around it, so its first and last
    /// tokens may differ from those of the conversation tokenised as a whole.
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
        let [opening, action, observation] = MARKS;
        let instructions = instructions(format);
        let with_system = vec![Message::system(&*instructions), Message::user(opening)];
        let without_system = vec![Message::user(format!("{instructions}\n\n{opening}"))];
        let has_system = render(template, &with_system).is_ok();
        let messages = if has_system { with_system } else { without_system };
        let first = render(template, &messages)?;
        let (before, after) = around(&first, opening)?;
        let more = [messages.clone(), vec![Message::assistant(action), Message::user(observation)]]
            .concat();
        let second = render(template, &more)?;
        let (_, rest) = around(&second, action)?;
        let (between, last) = around(rest, observation)?;
        if last != after {
            return Err(invalid(
                last,
                "the template renders a later turn differently from the first",
            ));
        }
        let special = tokenizer.special_tokens();
        let Some(end) = special.iter().find(|token| between.starts_with(token.as_str())) else {
            let reason = "the template does not end an assistant message with a special token";
            return Err(invalid(between, reason));
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

fn invalid(text: &str, reason: &str) -> Error {
    Error::file("chat_template", "messages", format!("{reason}: {text:?}"))
}

/// The texts before and after a placeholder.
fn around<'t>(text: &'t str, mark: &str) -> Result<(&'t str, &'t str)> {
    text.split_once(mark).ok_or_else(|| invalid(text, "the template omits a message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Start;

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
