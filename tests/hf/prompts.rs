//! Prompts in many forms of chat templates: each spells what the template writes, holds the
//! instructions once, and is continued by demonstrations and samples as the template would.

use epo::env::{DemonstratedTurn, Demonstration, Start, Step, Task};
use epo::policy::{Chat, ChatTemplate, Message, Source, Tokenizer};
use epo::rollout::{ActionFormat, Prompter};
use std::path::PathBuf;

/// The beginning of the task's instructions.
const TASK: &str = "You act in a world of text.";

const SPECIAL: [&str; 6] = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"];

fn tokenizer(further: &[&str]) -> Tokenizer {
    let texts = ["go to the desk", "You act in a world of text", "<think>\n</think><action>look"];
    Tokenizer::train(texts, 400, &[&SPECIAL[..], further].concat()).unwrap()
}

fn prompter(template: &str, format: ActionFormat) -> epo::Result<Prompter> {
    let template = ChatTemplate::new(template, &[("eos_token", "</s>"), ("bos_token", "<s>")])?;
    Prompter::chat(tokenizer(&[]).ending_at(&[1])?, &template, format, 64)
}

/// The text of ids, special tokens included.
fn text(prompter: &Prompter, ids: &[u32]) -> String {
    let bytes = prompter.tokenizer().token_bytes();
    String::from_utf8(ids.iter().flat_map(|&id| bytes[id as usize].clone()).collect()).unwrap()
}

fn start() -> Start {
    Start { goal: " find it".into(), observation: "a desk \n".into() }
}

/// The prompts of two turns after each other, with a sampled action that was cut off.
fn conversation(prompter: &Prompter) -> String {
    let action = prompter.tokenizer().encode("look").unwrap();
    let mut ids = prompter.start(&start()).unwrap();
    for observation in ["\na mug", "a <|end|> cup "] {
        ids.extend(&action);
        ids.extend(prompter.after_action(&action, observation).unwrap());
    }
    text(prompter, &ids)
}

/// The same conversation as `template` renders it.
fn rendered(template: &str, system: bool) -> String {
    let instructions = format!(
        "{TASK} You are given a goal and what you observe; each of your answers is one action, \
         and you are told what it has changed. Answer with the action alone."
    );
    let first = " find it\n\na desk \n";
    let mut messages = if system {
        vec![Message::system(&*instructions), Message::user(first)]
    } else {
        vec![Message::user(format!("{instructions}\n\n{first}"))]
    };
    for observation in ["\na mug", "a <|end|> cup "] {
        messages.extend([Message::assistant("look"), Message::user(observation)]);
    }
    let chat = Chat::new(&messages).unwrap().with_generation_prompt(true);
    let tokens = [("eos_token", "</s>"), ("bos_token", "<s>")];
    ChatTemplate::new(template, &tokens).unwrap().render(&chat).unwrap()
}

/// One message after another, with `system` as what is done with a system message.
fn template(system: &str) -> String {
    template_with(system, "m.content", "<|end|>\n")
}

fn template_with(system: &str, content: &str, end: &str) -> String {
    format!(
        "{{{{ bos_token }}}}{{% for m in messages %}}{{% if m.role == 'system' %}}{system}\
         {{% else %}}{{{{ '<|' + m.role + '|>\\n' + {content} + '{end}' }}}}{{% endif %}}\
         {{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|assistant|>\\n' }}}}{{% endif %}}"
    )
}

#[test]
fn the_instructions_are_in_the_prompt_once_whatever_a_template_does_with_them() {
    let keeps = "{{ '<|system|>\\n' + m.content + '<|end|>\\n' }}";
    let other = "{{ '<|system|>\\nBe nice. ' + m.content + '<|end|>\\n' }}";
    for (system, has_system) in [
        (keeps, true),
        (other, true),
        // Left out without a word, refused, repeated, or changed.
        ("", false),
        ("{{ raise_exception('no system message') }}", false),
        ("{{ m.content + m.content }}", false),
        ("{{ m.content | upper }}", false),
        ("{{ m.content[:20] }}", false),
        ("{{ m.content | replace('.', '!') }}", false),
    ] {
        let template = template(system);
        let text = conversation(&prompter(&template, ActionFormat::Plain).unwrap());
        assert_eq!(text.matches(TASK).count(), 1, "{template}");
        assert_eq!(text, rendered(&template, has_system), "{template}");
    }
    // In the last user message alone, as if it were told anew in every turn.
    let moving = "{% for m in messages %}{% if m.role != 'system' %}{{ '<|' + m.role + '|>' }}\
        {% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}\
        {{ m.content }}<|end|>{% endif %}{% endfor %}<|assistant|>";
    // After the conversation, in every turn.
    let trailing = "{% for m in messages %}{% if m.role != 'system' %}\
        {{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}\
        {% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|assistant|>";
    // A default of the template's own, next to what the caller says.
    let default = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}\
        {% endif %}<|system|>Be nice.<|end|>{% for m in messages %}\
        {{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}<|assistant|>";
    for template in [moving, trailing, default] {
        let text = conversation(&prompter(template, ActionFormat::Plain).unwrap());
        assert_eq!(text.matches(TASK).count(), 1, "{template}");
        assert_eq!(text, rendered(template, false), "{template}");
    }
}

#[test]
fn templates_that_strip_or_demand_turns_are_followed() {
    let alternating = format!(
        "{{% for m in messages %}}{{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}}\
         {{{{ raise_exception('roles must alternate') }}}}{{% endif %}}{{% endfor %}}{}",
        template("")
    );
    for template in [
        alternating,
        template_with("", "m.content | trim", "<|end|>\\n"),
        template_with("{{ m.content | trim }}", "m.content.strip()", "<|end|>"),
        template_with("", "m.content.lstrip()", "<|end|>"),
        template_with("", "m.content.rstrip()", "<|end|>\\n"),
        // An end after white space, and one that is an ordinary word's neighbour.
        template_with("", "m.content", " </s>"),
        template_with("", "m.content", "</s>"),
        // Reasoning of earlier turns is left out; there is none here.
        template_with("", "m.content.split('</think>')[-1].lstrip()", "<|end|>\\n"),
    ] {
        let text = conversation(&prompter(&template, ActionFormat::Plain).unwrap());
        let system = template.contains("{{ m.content | trim }}");
        assert_eq!(text, rendered(&template, system), "{template}");
    }
}

#[test]
fn templates_that_cannot_grow_turn_by_turn_say_so() {
    let prompt = |first: &str| {
        format!(
            "{{% for m in messages %}}{{{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}}}\
             {{% endfor %}}{{% if messages | length > 3 %}}<|assistant|>\
             {{% else %}}{first}{{% endif %}}"
        )
    };
    let numbered = "{% for m in messages %}{{ '<|' + m.role + '|>' + loop.index0 | string + ' ' \
        + m.content + '<|end|>' }}{% endfor %}<|assistant|>";
    let last_alone = "{{ '<|user|>' + messages[-1].content + '<|end|><|assistant|>' }}";
    for template in [prompt("<|assistant|>\\n<think>\\n"), numbered.into(), last_alone.into()] {
        let error = prompter(&template, ActionFormat::Tagged).unwrap_err().to_string();
        assert!(error.contains("chat_template"), "{error}");
        assert!(error.contains("later turn") || error.contains("omits"), "{error}");
    }
    let no_end = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}";
    let error = prompter(no_end, ActionFormat::Plain).unwrap_err().to_string();
    assert!(error.contains("special token"), "{error}");
    let twice = template_with("", "m.content + m.content", "<|end|>");
    let error = prompter(&twice, ActionFormat::Plain).unwrap_err().to_string();
    assert!(error.contains("exactly once"), "{error}");
}

#[test]
fn every_end_token_ends_an_action_and_the_prompt_goes_on_as_the_template_writes_it() {
    let template = template("{{ m.content }}");
    let prompter = prompter(&template, ActionFormat::Plain).unwrap();
    let [end, eos] = ["<|end|>", "</s>"].map(|t| prompter.tokenizer().special_id(t).unwrap());
    assert_eq!((prompter.end_id(), prompter.end_ids()), (end, &[end, eos][..]));
    let look = prompter.tokenizer().encode("look").unwrap();
    let sampled = |last: &[u32]| [&look[..], last].concat();
    for (ids, next) in [
        (sampled(&[end]), "\n<|user|>\na mug<|end|>\n<|assistant|>\n"),
        (sampled(&[eos]), "<|end|>\n<|user|>\na mug<|end|>\n<|assistant|>\n"),
        (sampled(&[]), "<|end|>\n<|user|>\na mug<|end|>\n<|assistant|>\n"),
    ] {
        assert_eq!(prompter.action(&ids).unwrap().text, "look");
        assert_eq!(text(&prompter, &prompter.after_action(&ids, "a mug").unwrap()), next);
    }
    let run_on = [&sampled(&[eos])[..], &look, &[end]].concat();
    assert_eq!(prompter.action(&run_on).unwrap().text, "look");
    // Demonstrations and choices end as the template ends a message.
    let written = demonstrated(&prompter);
    assert!(written.contains("look<|end|>\n<|user|>") && !written.contains("</s>"), "{written}");
}

/// The text of a demonstration of two turns.
fn demonstrated(prompter: &Prompter) -> String {
    let turn = |action: &str| DemonstratedTurn {
        action: action.into(),
        step: Step {
            observation: "a mug".into(),
            reward: 0.0,
            score: 0.0,
            done: false,
            success: false,
            valid: true,
        },
        imitated: true,
    };
    let demonstration = Demonstration {
        task: Task { name: "t".into(), variation: 0 },
        start: start(),
        turns: vec![turn("look"), turn("go")],
    };
    let row = prompter.demonstration(&demonstration, 0).unwrap();
    text(prompter, &row.row.ids)
}

#[test]
fn reasoning_that_the_template_opens_is_opened_once() {
    let opening = |opening: &str| template("").replace("<|assistant|>\\n' }}", opening);
    for (opened, written) in [
        ("<|assistant|>\\n<think>\\n' }}", "<think>\n</think><action>look</action><|end|>"),
        ("<|assistant|>\\n<think>' }}", "<think>\n</think><action>look</action><|end|>"),
        (
            "<|assistant|>\\n<think>\\n\\n</think>\\n\\n' }}",
            "<think>\n\n</think>\n\n<action>look</action><|end|>",
        ),
        ("<|assistant|>\\n' }}", "<think>\n</think><action>look</action><|end|>"),
    ] {
        let template = opening(opened);
        for format in [
            ActionFormat::Tagged,
            ActionFormat::OfficialAlfworld,
            ActionFormat::OfficialScienceworld,
        ] {
            let prompter = prompter(&template, format).unwrap();
            let text = demonstrated(&prompter);
            assert!(text.contains(&format!("<|assistant|>\n{written}")), "{opened}: {text}");
            // One is in the instructions.
            assert_eq!(text.matches("<think>").count(), 3, "{text}");
            // A choice is what a demonstration writes.
            let choices = prompter.choices(&["look".into()]).unwrap();
            let mut node = epo::policy::TokenTrie::ROOT;
            let mut ids = Vec::new();
            while let Some(id) = choices.allowed(node).next() {
                ids.push(id);
                node = choices.next(node, id).unwrap();
            }
            assert!(prompter.action(&ids).unwrap().well_formed, "{opened}");
            assert_eq!(prompter.action(&ids).unwrap().text, "look");
        }
        // A thinking model's answer is judged with what the prompt has begun.
        let said = prompter(&template, ActionFormat::OfficialAlfworld).unwrap();
        let ids = said.tokenizer().encode("I look.\n</think><action>look</action>").unwrap();
        assert_eq!(said.action(&ids).unwrap().well_formed, opened.contains("<think>"), "{opened}");
        // A plain action comes after the reasoning.
        let plain = prompter(&template, ActionFormat::Plain).unwrap();
        let text = demonstrated(&plain);
        let open = opened.contains("<think>") && !opened.contains("</think>");
        assert_eq!(text.contains("<think>\n</think>\n\nlook<|end|>"), open, "{text}");
    }
}

#[test]
fn tags_that_are_special_tokens_are_written_and_read_as_such() {
    let tokenizer = tokenizer(&["<think>", "</think>"]);
    let [think, thought] = ["<think>", "</think>"].map(|t| tokenizer.special_id(t).unwrap());
    let template = ChatTemplate::new(&template(""), &[("bos_token", "<s>")]).unwrap();
    let prompter =
        Prompter::chat(tokenizer, &template, ActionFormat::OfficialAlfworld, 64).unwrap();
    let encode = |text: &str| prompter.tokenizer().encode(text).unwrap();
    let ids = [&[think][..], &encode("Hm."), &[thought], &encode("<action>look</action>")].concat();
    let action = prompter.action(&ids).unwrap();
    assert_eq!((&*action.text, action.well_formed), ("look", true));
    assert!(!prompter.action(&ids[1..]).unwrap().well_formed);
    let choice = prompter.choices(&["look".into()]).unwrap();
    assert_eq!(choice.allowed(epo::policy::TokenTrie::ROOT).collect::<Vec<_>>(), [think]);
}

#[test]
fn the_prompt_prints_the_date_that_it_is_given() {
    let dated = "<|system|>Today is {{ strftime_now('%d %b %Y, %H:%M') }}. <|end|>".to_owned()
        + &template("{{ m.content }}");
    let mut template = ChatTemplate::new(&dated, &[("bos_token", "<s>")]).unwrap();
    template.set_time(1_709_211_909);
    let prompter = Prompter::chat(tokenizer(&[]), &template, ActionFormat::Plain, 64).unwrap();
    let text = conversation(&prompter);
    assert_eq!(text.matches("Today is 29 Feb 2024, 13:05. ").count(), 1, "{text}");
}

#[test]
fn prompt_ids_are_those_of_the_whole_conversation_for_every_kind_of_tokenizer() {
    let fixtures = super::committed().join("tokenizers");
    // Tokens that take the white space around them, as Phi-3's do.
    let taking = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures.join("bpe_always/tokenizer.json"), taking.path().join("tokenizer.json"))
        .unwrap();
    let strip = |content: &str| {
        let lstrip = content == "</s>";
        serde_json::json!({"content": content, "rstrip": true, "lstrip": lstrip})
    };
    let decoder = serde_json::json!({"1": strip("<s>"), "2": strip("</s>")});
    let config = serde_json::json!({"added_tokens_decoder": decoder, "eos_token": "</s>"});
    std::fs::write(taking.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let folders = ["bpe_always", "bpe_first", "missing"].map(|name| fixtures.join(name));
    for folder in folders.iter().map(PathBuf::as_path).chain([taking.path()]) {
        let tokenizer = Tokenizer::open(&Source::from(folder)).unwrap();
        let chatml = folder.ends_with("missing");
        let start_token = if chatml { "<|im_start|>" } else { "<s>" };
        let end = if chatml { "<|im_end|>" } else { "</s>" };
        for template in [
            "{% for m in messages %}[{{ m.role }}] {{ m.content }}END{% endfor %}[assistant]",
            "{% for m in messages %}BOS{{ m.role }}\n{{ m.content }}END\n{% endfor %}\
             BOSassistant\n",
            "BOS{% for m in messages %}{{ m.content }}END BOS{% endfor %}",
            "BOS{% for m in messages %}\n{{ m.content }}END\n BOS{% endfor %}\n",
        ] {
            let text = template.replace("BOS", start_token).replace("END", end);
            let template = ChatTemplate::new(&text, &[]).unwrap();
            let prompter =
                Prompter::chat(tokenizer.clone(), &template, ActionFormat::Plain, 64).unwrap();
            let start = Start { goal: "go to the drawer".into(), observation: "a mug.".into() };
            let mut ids = prompter.start(&start).unwrap();
            let choices = prompter.choices(&["take the cup".into()]).unwrap();
            let mut node = epo::policy::TokenTrie::ROOT;
            while let Some(id) = choices.allowed(node).next() {
                ids.push(id);
                node = choices.next(node, id).unwrap();
            }
            ids.extend(prompter.after_action(&ids, "the fridge is open.").unwrap());
            let instructions = "You act in a world of text. You are given a goal and what you \
                observe; each of your answers is one action, and you are told what it has \
                changed. Answer with the action alone.";
            let messages = [
                Message::system(instructions),
                Message::user("go to the drawer\n\na mug."),
                Message::assistant("take the cup"),
                Message::user("the fridge is open."),
            ];
            let chat = Chat::new(&messages).unwrap().with_generation_prompt(true);
            let whole = template.render(&chat).unwrap();
            let want = tokenizer.encode_with_special(&whole).unwrap();
            let pieces = |ids: &[u32]| {
                let bytes = tokenizer.token_bytes();
                let piece = |&id: &u32| String::from_utf8_lossy(&bytes[id as usize]).into_owned();
                ids.iter().map(piece).collect::<Vec<_>>()
            };
            assert_eq!(pieces(&ids), pieces(&want), "{} {text:?}", folder.display());
            assert_eq!(ids, want);
        }
    }
}
