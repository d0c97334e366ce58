//! Determinism, round trips, and text that tries to inject special tokens.

use crate::policy::tests::*;
use crate::policy::tokenizer::Tokenizer;

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
