//! Determinism, round trips, and text that tries to inject special tokens.

use crate::policy::source::Source;
use crate::policy::tests::*;
use crate::policy::tokenizer::Tokenizer;
use serde_json::json;

const SPECIAL: [&str; 3] = ["<|pad|>", "<|turn|>", "STOP"];

fn corpus() -> Vec<String> {
    let nouns = ["beaker", "thermometer", "kitchen", "door", "stove", "seed", "STOP"];
    let verbs = ["open", "take", "look at", "go to", "focus on", "pour"];
    (0..300)
        .map(|i| {
            format!(
                "{} the {} in room {}. {}\n",
                verbs[i % 6],
                nouns[i % 7],
                i % 11,
                "STOP <|turn|> é"
            )
        })
        .collect()
}

fn train(texts: Vec<String>) -> Tokenizer {
    Tokenizer::train(texts, 400, &SPECIAL).unwrap()
}

fn json(tokenizer: &Tokenizer) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn training_is_deterministic_in_order_threads_and_processes() {
    let first = json(&train(corpus()));
    let mut reversed = corpus();
    reversed.reverse();
    assert_eq!(first, json(&train(reversed)));
    // The same training in another process, with other hash seeds and one thread.
    let path =
        std::env::temp_dir().join(format!("epo-tokenizer-{}.json", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("EPO_TOKENIZER_CHILD").is_some() {
        std::fs::write(path, first).unwrap();
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "policy::tests::tokenizer::training_is_deterministic_in_order_threads_and_processes",
        ])
        .env("EPO_TOKENIZER_CHILD", "1")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert!(child.status.success());
    assert_eq!(first, std::fs::read_to_string(path).unwrap());
}

#[test]
fn text_comes_back_and_merges_shorten_it() {
    let tokenizer = train(corpus());
    for text in [
        "open the thermometer in room 7.",
        "",
        "  two  spaces\n\ttab",
        "é 漢字 🦀 \u{0} end",
        "STOP <|turn|>",
    ] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert!(tokenizer.encode("focus on the thermometer").unwrap().len() <= 8);
    assert!(tokenizer.vocab_size() <= 400 && tokenizer.vocab_size() > 300);
}

#[test]
fn text_cannot_inject_special_tokens() {
    let tokenizer = train(vec!["no specials here, but Stop and STO".to_owned(); 9]);
    let special: Vec<u32> = SPECIAL.iter().map(|s| tokenizer.special_id(s).unwrap()).collect();
    assert_eq!(special, [0, 1, 2]);
    for text in ["<|pad|>", "x <|turn|>y", "<|turn|><|turn|>", " STOP", "STOP"] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().all(|id| !special.contains(id)), "{text}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(tokenizer.decode(&[1, 2]).unwrap(), "");
    assert!(tokenizer.special_id("open").is_err());
}

#[test]
fn loading_keeps_the_behaviour_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let tokenizer = train(corpus());
    tokenizer.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    let text = "take the <|turn|> stove STOP";
    assert_eq!(loaded.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    assert_eq!(json(&loaded), json(&tokenizer));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(Tokenizer::load(&path).unwrap_err().to_string().contains("tokenizer.json"));
    assert!(Tokenizer::load(dir.path().join("none.json"))
        .unwrap_err()
        .to_string()
        .contains("none.json"));
}

#[test]
fn a_tokenizer_that_does_not_fit_is_an_error() {
    let tokenizer = train(corpus());
    tokenizer.check_fits(&DecoderConfig::tiny(tokenizer.vocab_size())).unwrap();
    let small = DecoderConfig::tiny(tokenizer.vocab_size() - 1);
    assert!(tokenizer.check_fits(&small).unwrap_err().to_string().contains("vocab_size"));
    assert!(Tokenizer::train(corpus(), 258, &SPECIAL).unwrap_err().to_string().contains("259"));
    assert!(Tokenizer::train(corpus(), 300, &["a", "a"]).is_err());
    let word = Tokenizer::train(vec!["stop stop"; 9], 300, &["stop"]).unwrap_err().to_string();
    assert!(word.contains("stop") && word.contains("special"), "{word}");
    assert!(tokenizer.decode(&[399_999]).is_err());
}

/// A tokenizer whose files are `files`, over the `tokenizer.json` of [`train`] changed by `change`.
fn opened(
    change: impl Fn(&mut serde_json::Value),
    files: &[(&str, serde_json::Value)],
) -> crate::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&json(&train(corpus()))).unwrap();
    change(&mut tokenizer);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    Tokenizer::open(&Source::from(dir.path()))
}

/// As if `tokenizer_config.json` were `config`.
fn configured(config: serde_json::Value) -> crate::Result<Tokenizer> {
    opened(|_| (), &[("tokenizer_config.json", config)])
}

#[test]
fn texts_are_never_cut_filled_or_varied() {
    let plain = opened(|_| (), &[]).unwrap();
    let text = "open the thermometer in room 7, then pour the seed into the beaker";
    let whole = plain.encode(text).unwrap();
    assert!(whole.len() > 6);
    let truncation = json!({"direction": "Right", "max_length": 6, "strategy": "LongestFirst",
        "stride": 0});
    let padding = json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": 8,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>"});
    for (field, value) in [
        ("truncation", truncation),
        ("truncation", json!({"max_length": 3, "strategy": "of another version"})),
        ("padding", padding),
        ("padding", json!("BatchLongest")),
    ] {
        let loaded = opened(|file| file[field] = value.clone(), &[]).unwrap();
        assert_eq!(loaded.encode(text).unwrap(), whole, "{field} = {value}");
        assert_eq!(loaded.encode_with_special("<|pad|>ope").unwrap()[0], 0);
        assert_eq!(json(&loaded), json(&plain));
    }
    let dropping = opened(|file| file["model"]["dropout"] = json!(0.9), &[]).unwrap();
    for _ in 0..5 {
        assert_eq!(dropping.encode(text).unwrap(), whole);
    }
}

#[test]
fn every_named_end_of_a_turn_is_special() {
    let id = |tokenizer: &Tokenizer, token: &str| tokenizer.special_id(token).unwrap();
    let size = train(corpus()).vocab_size() as u32;
    // In the vocabulary of neither file, in both as an ordinary token, or as an object.
    let tokenizer = configured(json!({"eos_token": "</s>", "pad_token": {"content": "[PAD]"},
        "image_token": "<img>"}));
    let tokenizer = tokenizer.unwrap();
    assert_eq!((id(&tokenizer, "</s>"), id(&tokenizer, "[PAD]")), (size, size + 1));
    assert_eq!((id(&tokenizer, "<img>"), tokenizer.end_ids()), (size + 2, &[size][..]));
    let unflagged = opened(
        |file| file["added_tokens"][1]["special"] = json!(false),
        &[("tokenizer_config.json", json!({"eos_token": "<|turn|>"}))],
    );
    let unflagged = unflagged.unwrap();
    assert_eq!((unflagged.end_ids(), id(&unflagged, "<|turn|>")), (&[1][..], 1));
    assert!(!unflagged.encode("see <|turn|> here").unwrap().contains(&1));
    assert_eq!(unflagged.encode_with_special("a<|turn|>").unwrap().last(), Some(&1));
    // Ids of generation_config.json: an added token, an ordinary one, and one without a text.
    let ending = unflagged.ending_at(&[2, 1, 9, 4000]).unwrap();
    assert_eq!(ending.end_ids(), [1, 2, 9, 4000]);
    assert_eq!(id(&ending, "STOP"), 2);
}

#[test]
fn padding_that_is_a_word_and_unknown_characters_are_no_obstacle() {
    let bytes = train(corpus()).encode("!").unwrap();
    let tokenizer = configured(json!({"pad_token": "!", "eos_token": "<|turn|>"})).unwrap();
    assert_eq!(tokenizer.encode("!").unwrap(), bytes);
    // The token of unknown characters is still special.
    let unknown = configured(json!({"unk_token": "<|pad|>", "pad_token": "<|pad|>"})).unwrap();
    assert_eq!(unknown.special_id("<|pad|>").unwrap(), 0);
    assert!(!unknown.encode("a<|pad|>").unwrap().contains(&0));
    let forged = configured(json!({"pad_token": "!", "eos_token": "!"})).unwrap();
    assert!(forged.encode("!").unwrap_err().to_string().contains("special token"));
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_field() {
    let at =
        |key: &str, content: &str| json!({"added_tokens_decoder": {key: {"content": content}}});
    for (config, parts) in [
        (at("7", "<new>"), ["added_tokens_decoder.7", "<new>", "id 7"]),
        (at("x", "<new>"), ["added_tokens_decoder.x", "token id", "<new>"]),
        (json!({"added_tokens_decoder": []}), ["added_tokens_decoder", "[]", "object"]),
        (
            json!({"added_tokens_decoder": {"1": "a"}}),
            ["added_tokens_decoder.1", "\"a\"", "object"],
        ),
        (json!({"added_tokens_decoder": {"1": {"content": 5}}}), ["decoder.1", "5", "content"]),
        (
            json!({"added_tokens_decoder": {"1": {"content": "a", "lstrip": "no"}}}),
            ["added_tokens_decoder.1.lstrip", "\"no\"", "true or false"],
        ),
        (json!({"eos_token": 5}), ["eos_token", "5", "string"]),
        (json!({"extra_special_tokens": 1}), ["extra_special_tokens", "1", "list"]),
        (json!({"extra_special_tokens": [1]}), ["extra_special_tokens[0]", "1", "string"]),
        (json!({"extra_special_tokens": {"a": 1}}), ["extra_special_tokens.a", "1", "string"]),
        (json!([1]), ["json", "object", "sequence"]),
    ] {
        let error = configured(config.clone()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{config}: {error}");
    }
    let added = opened(|_| (), &[("added_tokens.json", json!({"<new>": 3}))]).unwrap_err();
    let added = added.to_string();
    assert!(added.contains("added_tokens.json") && added.contains("<new>"), "{added}");
}
