//! Chat templates: constructs of Jinja on values of every type, compared with Python.
//!
//! `scripts/templates_python.py` writes the cases. The committed file is a sample of them.

use super::{committed, copy, json};
use epo::policy::{Chat, ChatTemplate, Message, Pretrained, Source};
use proptest::prelude::{any, prop, prop_assert_eq, proptest, Just, ProptestConfig, Strategy};
use proptest::prop_oneof;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Corpus {
    /// Seconds since 1970.
    now: u64,
    chats: BTreeMap<String, Input>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Input {
    messages: String,
    tools: Option<String>,
    add_generation_prompt: bool,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    template: String,
    /// A name in `chats`.
    #[serde(default)]
    chat: Option<String>,
    #[serde(default)]
    now: Option<u64>,
    /// True for what may be an error, though Python renders it.
    #[serde(default)]
    refused: bool,
    /// Python's text; absent if Python fails.
    #[serde(default)]
    text: Option<String>,
}

fn rendered(corpus: &Corpus, case: &Case) -> epo::Result<String> {
    let tokens = [("bos_token", "<|begin_of_text|>"), ("eos_token", "<|eot_id|>")];
    let mut template = ChatTemplate::new(&case.template, &tokens)?;
    template.set_time(case.now.unwrap_or(corpus.now));
    let input = &corpus.chats[case.chat.as_deref().unwrap_or("plain")];
    let mut chat =
        Chat::from_json(&input.messages)?.with_generation_prompt(input.add_generation_prompt);
    if let Some(tools) = &input.tools {
        chat = chat.with_tools_json(tools)?;
    }
    template.render(&chat)
}

/// Descriptions of the cases that differ, and their number by kind.
fn differences(corpus: &Corpus) -> (Vec<String>, BTreeMap<String, [usize; 2]>) {
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for case in &corpus.cases {
        let got = rendered(corpus, case);
        let count = counts.entry(case.kind.clone()).or_default();
        count[1] += 1;
        let expected = case.text.as_ref();
        if got.as_ref().ok() != expected && !(case.refused && got.is_err()) {
            count[0] += 1;
            let template = &case.template;
            wrong.push(format!("{template:?}\n  Python {expected:?}\n  ours   {got:?}"));
        }
    }
    (wrong, counts)
}

#[test]
fn a_sample_of_the_corpus_renders_as_in_python() {
    let corpus: Corpus = json(&committed().join("templates.json"));
    assert!(corpus.cases.len() > 1000);
    let (wrong, _) = differences(&corpus);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Prints every case of a corpus that differs from Python; `EPO_TEMPLATES` names the file.
#[test]
#[ignore = "needs a corpus written by scripts/templates_python.py"]
fn corpus_differences() {
    let path = std::env::var_os("EPO_TEMPLATES").expect("EPO_TEMPLATES must name the corpus");
    let corpus: Corpus = json(Path::new(&path));
    let (wrong, counts) = differences(&corpus);
    println!("{}", wrong.join("\n"));
    for (kind, [differing, all]) in counts.iter().filter(|(_, count)| count[0] > 0) {
        println!("{kind}: {differing} of {all} differ");
    }
    println!("{} of {} cases differ", wrong.len(), corpus.cases.len());
}

fn chat() -> Chat {
    Chat::new(&[Message::user("look\r\naround"), Message::assistant("{{ x }}")]).unwrap()
}

/// Pieces of templates, valid and not.
fn source() -> impl Strategy<Value = String> {
    const PIECES: [&str; 66] = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "{{-",
        "-}}",
        "{%-",
        "-%}",
        "{%+",
        "+%}",
        " ",
        "\n",
        "\r\n",
        "for",
        "in",
        "if",
        "else",
        "elif",
        "endif",
        "endfor",
        "set",
        "macro",
        "endmacro",
        "call",
        "endcall",
        "raw",
        "endraw",
        "generation",
        "endgeneration",
        "with",
        "endwith",
        "filter",
        "messages",
        "[0]",
        ".role",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "=",
        "==",
        "|",
        "upper",
        "is",
        "not",
        "defined",
        "+",
        "-",
        "**",
        "%",
        "~",
        "'a'",
        "\"b\"",
        "\\",
        "1",
        "2.5",
        "none",
        "x",
        "é🦀",
        "namespace(a=1)",
    ];
    let piece = prop_oneof![
        9 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Expressions that are valid in Jinja.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{:?}", number.abs().min(1e30))),
        "[ -&(-~é🦀]{0,6}".prop_map(|text| format!("'{}'", text.replace('\\', "\\\\"))),
        prop::sample::select(&["none", "true", "x", "messages", "range(3)", "[]", "{}"][..])
            .prop_map(str::to_owned),
    ];
    const SIGNS: [&str; 12] = ["+", "-", "*", "/", "//", "%", "~", "==", "<", "in", "and", "or"];
    const FILTERS: [&str; 6] = ["upper", "list", "tojson", "string", "length", "first"];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(&SIGNS[..]), inner.clone())
                .prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            (inner.clone(), prop::sample::select(&FILTERS[..]))
                .prop_map(|(a, filter)| format!("({a} | {filter})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("'%s{{}}'.format({a}) ~ {b}")),
        ]
    })
}

/// `PROPTEST_CASES` raises the number of cases.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(300), failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_source_is_rendered_or_refused(source in source()) {
        if let Ok(template) = ChatTemplate::new(&source, &[]) {
            let _ = template.render(&chat());
        }
    }

    #[test]
    fn any_expression_is_rendered_or_refused(expression in expression()) {
        let template = ChatTemplate::new(&format!("{{{{ {expression} }}}}"), &[]).unwrap();
        let _ = template.render(&chat());
    }

    #[test]
    fn text_without_tags_stays_as_it_is(text in "[^{\r]{0,40}") {
        let template = ChatTemplate::new(&text, &[]).unwrap();
        let expected = text.strip_suffix('\n').unwrap_or(&text);
        prop_assert_eq!(template.render(&chat()).unwrap(), expected);
    }

    #[test]
    fn text_survives_tojson(text in any::<String>()) {
        let template = ChatTemplate::new("{{ messages[0].content | tojson }}", &[]).unwrap();
        let chat = Chat::new(&[Message::user(&text)]).unwrap();
        let json = template.render(&chat).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_repr_is_a_literal_of_the_same_text(text in any::<String>()) {
        let chat = Chat::new(&[Message::user(&text)]).unwrap();
        let repr = ChatTemplate::new("{{ [messages[0].content] }}", &[]).unwrap();
        let literal = repr.render(&chat).unwrap();
        let back = ChatTemplate::new(&format!("{{{{ {literal}[0] }}}}"), &[]).unwrap();
        prop_assert_eq!(back.render(&chat).unwrap(), text);
    }

    #[test]
    fn any_date_format_is_rendered(
        format in "([%a-zA-Z0-9_^#+ é-]|%[a-zA-Z]){0,12}",
        seconds in prop_oneof![Just(u64::MAX), any::<u64>(), 0..5_000_000_000_u64],
    ) {
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        let mut template = ChatTemplate::new(&source, &[]).unwrap();
        template.set_time(seconds);
        prop_assert_eq!(template.render(&chat()).is_ok(), true);
    }
}

#[test]
fn endless_work_is_refused_or_skipped() {
    let render = |source: &str| ChatTemplate::new(source, &[])?.render(&chat());
    assert_eq!(render("{{ [] * 9000000000000 }}{{ '' * 9000000000000 }}").unwrap(), "[]");
    for source in ["{{ [1] * 9000000000000 }}", "{{ 'a' * 9000000000000 }}", "{{ range(9000000) }}"]
    {
        assert!(render(source).is_err(), "{source}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(render(&deep).unwrap_err().to_string().contains("too deeply"));
    let long = format!("{{{{ 1{} }}}}", " + 1".repeat(10_000));
    assert_eq!(render(&long).unwrap(), "10001");
}

#[test]
fn templates_for_tools_are_read_from_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let extra = dir.path().join("additional_chat_templates");
    std::fs::create_dir(&extra).unwrap();
    std::fs::write(extra.join("tool_use.jinja"), "tools").unwrap();
    let source = Source::from(dir.path());
    assert!(ChatTemplate::open(&source).unwrap_err().to_string().contains("no chat template"));
    std::fs::write(dir.path().join("chat_template.jinja"), "plain").unwrap();
    let template = ChatTemplate::open(&source).unwrap();
    assert_eq!(template.render(&chat()).unwrap(), "plain");
    assert_eq!(template.render(&chat().with_tools_json("[]").unwrap()).unwrap(), "tools");
    std::fs::write(extra.join("rag.jinja"), "a\n{% include 'b' %}").unwrap();
    let error = ChatTemplate::open(&source).unwrap_err().to_string();
    assert!(error.contains("rag.jinja") && error.contains("line 2"), "{error}");
}

#[test]
fn templates_for_tools_are_saved_with_the_model() {
    let dir = copy("qwen2_tied");
    let extra = dir.path().join("additional_chat_templates");
    std::fs::create_dir(&extra).unwrap();
    std::fs::write(extra.join("tool_use.jinja"), "tools\r\n").unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "plain").unwrap();
    let pretrained = Pretrained::open(dir.path()).unwrap();
    let dtype = pretrained.stored_dtype().unwrap();
    let parameters = pretrained.parameters(dtype, &candle_core::Device::Cpu).unwrap();
    let out = dir.path().join("out");
    pretrained.save(&out, &parameters, Pretrained::SHARD_BYTES).unwrap();
    let saved = out.join("additional_chat_templates/tool_use.jinja");
    assert_eq!(std::fs::read_to_string(saved).unwrap(), "tools\r\n");
    let template = Pretrained::open(&out).unwrap().chat_template().unwrap();
    assert_eq!(template.render(&chat().with_tools_json("[]").unwrap()).unwrap(), "tools");
}
