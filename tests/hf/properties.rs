//! Mutated files next to a tokenizer load or are refused by file and field, and prompts of any
//! texts spell what the template writes. `PROPTEST_CASES` raises the number of cases.

use std::path::Path;
use std::sync::LazyLock;

use epo::env::Start;
use epo::policy::{Chat, ChatTemplate, GenerationConfig, Message, Source, Tokenizer};
use epo::rollout::{ActionFormat, Prompter};
use proptest::prelude::*;
use serde_json::{json, Value};

const SPECIAL: [&str; 4] = ["<s>", "<|im_start|>", "<|im_end|>", "</s>"];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let texts = ["go to the desk and look", "<think>\n</think><action>look</action>"];
    Tokenizer::train(texts, 290, &SPECIAL).unwrap()
});

/// Any JSON, with the words of the files that are tested among its strings.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "<s>",
        "</s>",
        "<think>",
        "!",
        "a",
        "content",
        "special",
        "lstrip",
        "normalized",
        "__type",
        "AddedToken",
        "eos_token",
        "image_token",
        "-1",
        "7",
        "294",
        "99999999999",
        "é",
    ];
    let word = prop_oneof![
        proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        "\\PC{0,6}".prop_map(|text| text),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..400).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((word.clone(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// One change of a JSON value: at its `node`-th node, in an order of the values' own.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Add(String, Value),
    Remove,
}

fn change() -> impl Strategy<Value = (usize, Change)> {
    let key = prop_oneof![
        proptest::sample::select(&["content", "eos_token", "pad_token", "x_token", "5", "294"][..])
            .prop_map(str::to_owned),
        "\\PC{0,4}".prop_map(|key| key),
    ];
    let change = prop_oneof![
        3 => any_json().prop_map(Change::Replace),
        2 => (key, any_json()).prop_map(|(key, value)| Change::Add(key, value)),
        1 => Just(Change::Remove),
    ];
    (0usize..64, change)
}

/// Applies `change` to the `node`-th value below `value`; returns true once that is done.
fn apply(value: &mut Value, node: &mut usize, change: &Change) -> bool {
    if *node == 0 {
        match (change, value) {
            (Change::Replace(with), value) => *value = with.clone(),
            (Change::Add(key, with), Value::Object(map)) => {
                map.insert(key.clone(), with.clone());
            }
            (Change::Add(_, with), Value::Array(list)) => list.push(with.clone()),
            (Change::Add(_, with), value) => *value = with.clone(),
            (Change::Remove, value) => *value = Value::Null,
        }
        return true;
    }
    *node -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| apply(value, node, change)),
        Value::Object(map) => map.values_mut().any(|value| apply(value, node, change)),
        _ => false,
    }
}

fn changed(mut value: Value, changes: &[(usize, Change)]) -> Value {
    for (node, change) in changes {
        apply(&mut value, &mut node.clone(), change);
    }
    value
}

/// A file's text, cut or with a byte replaced in some cases.
fn text_of(value: &Value, damage: Option<(f64, char)>) -> String {
    let mut text = value.to_string();
    if let Some((at, with)) = damage {
        let mut at = (text.len() as f64 * at) as usize;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push(with);
    }
    text
}

fn damage() -> impl Strategy<Value = Option<(f64, char)>> {
    proptest::option::weighted(0.1, (0.0..1.0, any::<char>()))
}

fn config() -> Value {
    let token = |content: &str, special: bool| {
        json!({"content": content, "lstrip": false,
        "normalized": false, "rstrip": false, "single_word": false, "special": special})
    };
    json!({
        "added_tokens_decoder": {"1": token("<|im_start|>", true), "290": token("<think>", false),
            "291": token("</think>", false)},
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "</s>", "lstrip": true},
        "image_token": "<s>",
        "extra_special_tokens": ["</s>", {"content": "<tool>"}],
        "additional_special_tokens": ["<s>"],
        "add_bos_token": false,
        "model_max_length": 1e30
    })
}

fn token_map() -> Value {
    json!({"eos_token": {"content": "</s>", "normalized": true}, "bos_token": "<s>",
        "extra_special_tokens": {"image_token": "<img>"}, "additional_special_tokens": ["<a>"]})
}

/// Every file but `tokenizer.json`, with its content.
fn files() -> [(&'static str, Value); 3] {
    [
        ("tokenizer_config.json", config()),
        ("special_tokens_map.json", token_map()),
        ("added_tokens.json", json!({"<think>": 290, "</s>": 3})),
    ]
}

fn folder_of_tokenizer() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    TOKENIZER.save(dir.path().join("tokenizer.json")).unwrap();
    dir
}

fn try_tokenizer(dir: &Path) {
    match Tokenizer::open(&Source::from(dir)) {
        Ok(tokenizer) => {
            for text in ["go to the <|im_end|> desk", "<s>é</s>"] {
                let Ok(ids) = tokenizer.encode(text) else { continue };
                assert!(ids.iter().all(|&id| tokenizer.has(id)));
                assert!(!ids.is_empty());
            }
            assert!(tokenizer.end_ids().len() < 2);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(files().iter().any(|(file, _)| error.contains(file)), "{error}");
        }
    }
}

const TEMPLATES: [&str; 4] = [
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
     {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "<s>{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}] {{ m.content | trim }}\
     </s>{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
     {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "{% for m in messages %}{{ m.role + ': ' + m.content }}</s>{% endfor %}\
     {% if add_generation_prompt %}assistant: <think>\n\n</think>\n\n{% endif %}",
];

/// The prompters of all templates and formats.
static PROMPTERS: LazyLock<Vec<(ChatTemplate, Prompter)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for text in TEMPLATES {
        let template = ChatTemplate::new(text, &[]).unwrap();
        for format in [
            ActionFormat::Plain,
            ActionFormat::Tagged,
            ActionFormat::OfficialAlfworld,
            ActionFormat::OfficialScienceworld,
        ] {
            let tokenizer = TOKENIZER.clone().ending_at(&[3]).unwrap();
            let prompter = Prompter::chat(tokenizer, &template, format, 10_000).unwrap();
            all.push((template.clone(), prompter));
        }
    }
    all
});

static BYTES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| TOKENIZER.token_bytes());

fn spelled(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| BYTES[id as usize].clone()).collect();
    String::from_utf8(bytes).unwrap()
}

/// Texts of an environment that try to look like the template's.
fn any_text() -> impl Strategy<Value = String> {
    let words = ["<|im_end|>", "</s>", "<think>", "</think>", "<action>", "go ", "\n", " ", "desk"];
    let part = prop_oneof![
        proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        "\\PC{0,5}".prop_map(|text| text),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_tokenizer_files_are_read_or_refused_by_name(
        changes in proptest::array::uniform3(proptest::collection::vec(change(), 0..3)),
        present in proptest::array::uniform3(proptest::bool::weighted(0.7)),
        damage in damage(),
    ) {
        thread_local! {
            static DIR: tempfile::TempDir = folder_of_tokenizer();
        }
        DIR.with(|dir| {
            for (((name, value), changes), present) in files().iter().zip(&changes).zip(present) {
                let path = dir.path().join(name);
                if present {
                    let text = text_of(&changed(value.clone(), changes), damage);
                    std::fs::write(path, text).unwrap();
                } else if path.exists() {
                    std::fs::remove_file(path).unwrap();
                }
            }
            try_tokenizer(dir.path());
        });
    }

    #[test]
    fn mutated_generation_settings_are_read_or_refused_by_name(
        changes in proptest::collection::vec(change(), 1..4),
        damage in damage(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation_config.json");
        let value = json!({"eos_token_id": [2, 0], "bos_token_id": 1, "pad_token_id": 0,
            "temperature": 0.7, "top_k": 20, "top_p": 0.8, "do_sample": true, "min_p": null,
            "max_new_tokens": 64, "repetition_penalty": 1.0});
        let value = changed(value, &changes);
        std::fs::write(&path, text_of(&value, damage)).unwrap();
        match GenerationConfig::from_file(&path) {
            Ok(read) => {
                let listed = read.eos_token_ids.len();
                prop_assert!(listed <= value["eos_token_id"].as_array().map_or(1, Vec::len));
            }
            Err(error) => {
                let error = error.to_string();
                prop_assert!(error.contains("generation_config.json"), "{}", error);
                let named = error.contains("eos_token_id") || error.contains("json`");
                prop_assert!(named, "{}", error);
            }
        }
    }

    #[test]
    fn prompts_of_any_texts_spell_what_the_template_writes(
        case in 0usize..16,
        goal in any_text().prop_map(|text| format!("{text}a goal")),
        observations in proptest::array::uniform3(any_text()),
        said in any_text(),
        last in proptest::option::of(proptest::sample::select(&[2u32, 3][..])),
    ) {
        let (template, prompter) = &PROMPTERS[case];
        let [first, second, third] = &observations;
        let start = Start { goal: goal.clone(), observation: first.clone() };
        let ids = prompter.start(&start).unwrap();
        let mut text = spelled(&ids);
        let ends = prompter.end_ids();
        let mut sampled = prompter.tokenizer().encode(&said).unwrap();
        sampled.extend(last);
        let mut messages = vec![format!("{goal}\n\n{first}")];
        for observation in [second, third] {
            let next = prompter.after_action(&sampled, observation).unwrap();
            text += &spelled(&sampled[..sampled.len() - usize::from(last.is_some())]);
            let whole = last.is_some_and(|last| last == ends[0]);
            let joined = if whole { [&[ends[0]], &next[..]].concat() } else { next.clone() };
            text += &spelled(&joined);
            // No text of the environment holds an end token.
            let count = joined.iter().filter(|id| ends.contains(id)).count();
            prop_assert_eq!(count, 2);
            messages.push(observation.clone());
        }
        prop_assert_eq!(&text, &expected(template, prompter, &messages, &said, case / 4));
        // What is said up to the first end token is read.
        let read = prompter.action(&sampled).unwrap();
        let again = prompter.action(&[&sampled[..], &[ends[0], 5, 6, 7]].concat()).unwrap();
        prop_assert_eq!(read, again);
    }

    #[test]
    fn choices_are_read_back(case in 0usize..16, action in "[a-z][a-z ]{0,20}[a-z]") {
        let (_, prompter) = &PROMPTERS[case];
        let choices = prompter.choices(std::slice::from_ref(&action)).unwrap();
        let mut node = epo::policy::TokenTrie::ROOT;
        let mut ids = Vec::new();
        while let Some(id) = choices.allowed(node).next() {
            ids.push(id);
            node = choices.next(node, id).unwrap();
        }
        let read = prompter.action(&ids).unwrap();
        prop_assert!(read.well_formed);
        prop_assert_eq!(read.text, action);
        prop_assert_eq!(ids.last(), Some(&prompter.end_id()));
    }
}

/// The conversation as the template writes it, with what was said kept as it is.
fn expected(
    template: &ChatTemplate,
    prompter: &Prompter,
    observations: &[String],
    said: &str,
    number: usize,
) -> String {
    // The instructions, out of the prompt of empty texts.
    let empty = Start { goal: String::new(), observation: "@".into() };
    let empty = spelled(&prompter.start(&empty).unwrap());
    let from = empty.find("You act").unwrap();
    let to = empty[from..].find("</action>.").map_or_else(
        || from + empty[from..].find("alone.").unwrap() + "alone.".len(),
        |at| from + at + "</action>.".len(),
    );
    let instructions = &empty[from..to];
    let mut messages = match number {
        1 => vec![Message::user(format!("{instructions}\n\n{}", observations[0]))],
        _ => vec![Message::system(instructions), Message::user(&*observations[0])],
    };
    let mark = "@said@";
    for observation in &observations[1..] {
        messages.extend([Message::assistant(mark), Message::user(&**observation)]);
    }
    let chat = Chat::new(&messages).unwrap().with_generation_prompt(true);
    let text = template.render(&chat).unwrap();
    // The answer continues what the prompt has begun.
    let opening = ["", "", "<think>\n", "<think>\n\n</think>\n\n"][number];
    text.replace(mark, &format!("{opening}{said}"))
}
