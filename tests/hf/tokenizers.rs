//! Tokenizers whose files disagree with each other: ids are identical to those of `AutoTokenizer`
//! (`scripts/tokenizer_fixtures.py`).

use super::json;
use epo::policy::{Source, Tokenizer};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Expected {
    eos_id: Option<u32>,
    size: usize,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    plain_ids: Option<Vec<u32>>,
}

/// The folders of `EPO_TOKENIZER_FIXTURES`, or the small set in the repository.
fn folders() -> Vec<PathBuf> {
    let committed = || super::committed().join("tokenizers");
    let root = std::env::var_os("EPO_TOKENIZER_FIXTURES").map_or_else(committed, PathBuf::from);
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.collect();
    folders.sort();
    folders
}

#[test]
fn tokenizers_read_all_their_files_as_transformers_does() {
    let mut compared = 0;
    for folder in folders() {
        let at = folder.display();
        let expected: Expected = json(&folder.join("expected.json"));
        let tokenizer = Tokenizer::open(&Source::from(&folder)).unwrap();
        assert_eq!(tokenizer.vocab_size(), expected.size, "{at}");
        let end: Vec<u32> = expected.eos_id.into_iter().collect();
        assert_eq!(tokenizer.end_ids(), end, "{at}");
        for Text { text, ids, plain_ids } in &expected.texts {
            assert_eq!(tokenizer.encode_with_special(text).unwrap(), *ids, "{at}: {text:?}");
            compared += 1;
            let Some(plain_ids) = plain_ids else { continue };
            let plain = tokenizer.encode(text).unwrap();
            // A token that only its name makes special is split too, unlike in transformers.
            if !folder.ends_with("flag") {
                assert_eq!(plain, *plain_ids, "{at}: {text:?}");
            }
            assert!(plain.iter().all(|id| !end.contains(id)), "{at}: {text:?}");
        }
    }
    assert!(compared > 50, "{compared}");
}
