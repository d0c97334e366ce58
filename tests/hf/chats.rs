//! Tokenizers and chat templates: texts and ids are identical to those of transformers.

use super::{committed, copy, json, root, Index};
use epo::policy::{Chat, ChatTemplate, Message, Pretrained, Source, Tokenizer};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Expected {
    chats: Vec<Case>,
    texts: Vec<Text>,
    #[serde(default)]
    snippets: Vec<Snippet>,
}

#[derive(Deserialize)]
struct Case {
    messages: String,
    tools: Option<String>,
    add_generation_prompt: bool,
    text: String,
    ids: Vec<u32>,
    plain_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Snippet {
    messages: String,
    template: String,
    text: String,
}

fn styles() -> Vec<PathBuf> {
    let (root, _) = root();
    json::<Index>(&root.join("index.json"))
        .styles
        .iter()
        .map(|style| root.join("chat").join(style))
        .collect()
}

fn chat(case: &Case) -> Chat {
    let chat =
        Chat::from_json(&case.messages).unwrap().with_generation_prompt(case.add_generation_prompt);
    match &case.tools {
        Some(tools) => chat.with_tools_json(tools).unwrap(),
        None => chat,
    }
}

#[test]
fn conversations_become_the_texts_and_ids_of_transformers() {
    for folder in styles() {
        let expected: Expected = json(&folder.join("expected.json"));
        let tokenizer = Tokenizer::load(folder.join("tokenizer.json")).unwrap();
        let template = ChatTemplate::open(&Source::from(&folder)).unwrap();
        for (i, case) in expected.chats.iter().enumerate() {
            let at = format!("{} {i}", folder.display());
            let chat = chat(case);
            let text = template.render(&chat).unwrap();
            assert_eq!(text, case.text, "{at}");
            assert_eq!(tokenizer.encode_with_special(&text).unwrap(), case.ids, "{at}");
            assert_eq!(template.encode(&chat, &tokenizer).unwrap(), case.plain_ids, "{at}");
        }
        assert!(
            expected.chats.iter().any(|case| case.ids != case.plain_ids),
            "no conversation contains a special token"
        );
        for Text { text, ids } in &expected.texts {
            assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{}: {text:?}", folder.display());
            assert_eq!(tokenizer.decode(ids).unwrap(), *text);
        }
    }
}

#[test]
fn corner_cases_of_jinja_render_as_in_python() {
    let snippets: Vec<Snippet> = styles()
        .iter()
        .flat_map(|folder| json::<Expected>(&folder.join("expected.json")).snippets)
        .collect();
    assert!(snippets.len() > 15);
    let tokens = [("bos_token", "<|begin_of_text|>"), ("eos_token", "<|eot_id|>")];
    let mut wrong = Vec::new();
    for Snippet { messages, template, text } in &snippets {
        let chat = Chat::from_json(messages).unwrap();
        let got = ChatTemplate::new(template, &tokens).and_then(|t| t.render(&chat));
        if got.as_ref().ok() != Some(text) {
            wrong.push(format!("{template}\n  expected {text:?}\n  got      {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn refusal(template: &str) -> String {
    let chat = Chat::from_json(r#"[{"role":"user","content":"hi"}]"#).unwrap();
    ChatTemplate::new(template, &[]).and_then(|t| t.render(&chat)).unwrap_err().to_string()
}

#[test]
fn templates_that_cannot_be_rendered_say_why() {
    for (template, parts) in [
        ("{{ summon(messages) }}", ["unknown function", "summon"]),
        ("{{ messages | enchant }}", ["unknown filter", "enchant"]),
        ("{{ messages[0].content.conjure() }}", ["unknown method", "conjure"]),
        ("{% if messages is haunted %}{% endif %}", ["unknown test", "haunted"]),
        ("{{ raise_exception('no system message') }}", ["raise_exception", "no system message"]),
        ("{{ messages[0].content.x.y }}", ["undefined", "chat_template"]),
        ("{% for m in messages %}", ["chat_template", "syntax"]),
        ("a\n{% include 'x' %}", ["line 2", "`include`"]),
        ("{% import 'x' as y %}", ["line 1", "`import`"]),
        ("a\r\nb\r\n{% extends 'x' %}", ["line 3", "`extends`"]),
        ("{{ 1\n + 'a\\N{BULLET}' }}", ["line 2", "\\N{BULLET}"]),
        ("\n{{ messages | enchant }}", ["line 2", "enchant"]),
        ("{{ '%d' % 'x' }}", ["%d", "str"]),
        ("{{ messages[0].pop() }}", ["pop", "change"]),
        ("{{ messages | tojson(indnt=2) }}", ["indnt", "chat_template"]),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            ["fuel", "chat_template"],
        ),
    ] {
        let error = refusal(template);
        assert!(parts.iter().all(|part| error.contains(part)), "{template}: {error}");
    }
    for (messages, part) in
        [("[]", "at least one"), ("[1]", "an object"), ("[", "messages"), ("7", "messages")]
    {
        let error = Chat::from_json(messages).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn special_tokens_are_also_read_from_special_tokens_map() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}{{ eos_token }}")
        .unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    let token_map = r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "no"}"#;
    std::fs::write(dir.path().join("special_tokens_map.json"), token_map).unwrap();
    let template = ChatTemplate::open(&Source::from(dir.path())).unwrap();
    let chat = Chat::new(&[Message::user("hi")]).unwrap();
    assert_eq!(template.render(&chat).unwrap(), "<s></s>");
}

#[test]
fn a_clock_can_be_set() {
    let mut template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    template.set_time(1_709_211_909);
    let chat = Chat::from_json(r#"[{"role":"user","content":"hi"}]"#).unwrap();
    assert_eq!(template.render(&chat).unwrap(), "29 Feb 2024");
}

#[test]
fn a_tokenizer_larger_than_the_models_vocabulary_is_refused() {
    let dir = copy("qwen2_tied");
    let tokenizer = committed().join("chat/chatml/tokenizer.json");
    std::fs::copy(tokenizer, dir.path().join("tokenizer.json")).unwrap();
    let mut config: serde_json::Value = json(&dir.path().join("config.json"));
    config["vocab_size"] = 260.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let pretrained = Pretrained::open(dir.path()).unwrap();
    let error = pretrained.tokenizer().unwrap_err().to_string();
    assert!(error.contains("vocab_size") && error.contains("260"), "{error}");
    let error = pretrained.chat_template().unwrap_err().to_string();
    assert!(error.contains("has no chat template"), "{error}");
}
