//! Mutated game files: loading returns an error or a playable game, and never panics.

use std::path::{Path, PathBuf};

use epo::env::alfworld::{Library, Play};
use proptest::prelude::*;

/// The fixture, and a real game if the shared folder is present.
fn games() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join(
        "tests/fixtures/alfworld/json_2.1.1/train/pick_two_obj_and_place-Plum-None-Shelf-1/trial_0",
    );
    let shared = ["shared", "../shared"]
        .map(|place| root.join(place).join("alfworld/old_format/json_2.1.1/train"));
    let real = shared.into_iter().find_map(|folder| first_game(&folder));
    let files = [Some(own.join("game.tw-pddl")), real].into_iter().flatten();
    files.map(|file| std::fs::read_to_string(file).expect("readable")).collect()
}

fn first_game(folder: &Path) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().find_map(|path| if path.is_dir() { first_game(path) } else { Some(path.clone()) })
}

/// Replaces `len` bytes of a text by `with`, at the fraction `at` of its length.
#[derive(Debug, Clone)]
struct Change {
    at: f64,
    len: usize,
    with: String,
}

/// Tokens that are inserted into texts.
const WORDS: &[&str] = &[
    "",
    "(",
    ")",
    "()",
    "{",
    "}",
    "[",
    "]",
    "#",
    "\"",
    "\"\"\"",
    "::",
    ";",
    "|",
    "&",
    "!",
    ":",
    ",",
    "?",
    "?c",
    "-",
    "- object",
    "(and",
    "(or",
    "(not",
    "(exists (?z - object)",
    "(when",
    "(=",
    "= ",
    "\n",
    "\t",
    "\u{85}",
    "é",
    "//",
    "#list_empty#",
    "{o}",
    "{o.name}",
    "[{o | noticed(o:object)}]",
    "not_",
    "object",
    "\u{0}",
    "\\",
    "template",
    "grammar :: \"\"\"{}\"\"\";",
    "action a { }",
    "$",
    "?c - cook",
    "0",
    "true",
    "null",
];

fn change() -> impl Strategy<Value = Change> {
    let with =
        prop_oneof![4 => proptest::sample::select(WORDS).prop_map(str::to_owned), 1 => ".{0,4}"];
    let len = prop_oneof![3 => 0..3_usize, 2 => 3..40_usize, 1 => 40..2000_usize];
    (0.0..1.0, len, with).prop_map(|(at, len, with)| Change { at, len, with })
}

impl Change {
    fn apply(&self, text: &str) -> String {
        let edge = |at: usize| {
            (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
        };
        let start = edge((self.at * text.len() as f64) as usize);
        let end = edge(start + self.len).max(start);
        format!("{}{}{}", &text[..start], self.with, &text[end..])
    }
}

/// Plays a few steps if the text is a game.
fn try_out(library: &Library, text: &str) {
    let Ok(game) = library.parse("fuzzed", text) else { return };
    let mut play = Play::new(game);
    for i in 0..12 {
        let count = play.admissible().len();
        if count == 0 {
            return;
        }
        let action = play.admissible().nth((i * 7 + 3) % count).unwrap_or_default().to_owned();
        if play.step(&action).is_err() {
            return;
        }
        let sorted: Vec<&str> = play.admissible().collect();
        assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]), "unsorted: {sorted:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn alfworld_mutated_fields_never_panic(
        field in proptest::sample::select(&["pddl_domain", "grammar", "pddl_problem"][..]),
        changes in proptest::collection::vec(change(), 1..4),
    ) {
        let library = Library::new();
        for game in games() {
            let mut fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&game).expect("JSON");
            let text = fields[field].as_str().expect("a text").to_owned();
            let text = changes.iter().fold(text, |text, change| change.apply(&text));
            fields.insert(field.to_owned(), text.into());
            try_out(&library, &game);
            try_out(&library, &serde_json::to_string(&fields).expect("JSON"));
        }
    }

    #[test]
    fn alfworld_mutated_files_never_panic(changes in proptest::collection::vec(change(), 1..6)) {
        let library = Library::new();
        for game in games() {
            try_out(&library, &changes.iter().fold(game, |text, change| change.apply(&text)));
        }
    }
}
