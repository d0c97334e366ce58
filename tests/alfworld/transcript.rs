//! Replays transcripts of the official engine: observations, admissible commands and wins.
//!
//! `EPO_ALFWORLD_TRANSCRIPTS` names the transcript file and `ALFWORLD_DATA` the folder of its
//! games; the defaults are the shared files. Without them the tests print that they are skipped,
//! and pass.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use epo::env::alfworld::{Game, Library, Play};

#[derive(serde::Deserialize)]
struct Episode {
    game: String,
    policy: String,
    seed: u64,
    steps: Vec<Recorded>,
}

#[derive(serde::Deserialize)]
struct Recorded {
    action: Option<String>,
    obs: String,
    admissible: Vec<String>,
    won: bool,
    score: u32,
    done: bool,
}

/// A folder of the shared data, in the checkout or next to it.
fn shared(folder: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places =
        ["shared", "../shared"].map(|place| root.join(place).join("alfworld").join(folder));
    places.into_iter().find(|path| path.exists())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Replays an episode; returns the number of observations and a line for each difference.
fn replay(game: &Arc<Game>, episode: &Episode) -> (usize, Vec<String>) {
    let mut differences = Vec::new();
    let mut play = Play::new(game.clone());
    let id = format!("{} ({} {})", episode.game, episode.policy, episode.seed);
    for (i, step) in episode.steps.iter().enumerate() {
        let (observation, won, score, done) = match &step.action {
            None => (
                game.first_observation().to_owned(),
                play.is_won(),
                u32::from(play.is_won()),
                play.is_won(),
            ),
            Some(action) => {
                let listed = play.admissible().any(|command| command == python_strip(action));
                let outcome =
                    play.step(action).unwrap_or_else(|error| panic!("{id}: step {i}: {error}"));
                assert_eq!(outcome.valid, listed, "{id}: step {i}: valid");
                (outcome.observation, outcome.won, outcome.score, outcome.done)
            }
        };
        if observation != step.obs {
            differences.push(format!(
                "{id}: step {i} {:?}:\n  got  {observation:?}\n  want {:?}",
                step.action, step.obs
            ));
        }
        if !play.admissible().eq(step.admissible.iter().map(String::as_str)) {
            let got: Vec<&str> = play.admissible().collect();
            differences.push(format!(
                "{id}: step {i} {:?}:\n  got  {got:?}\n  want {:?}",
                step.action, step.admissible
            ));
        }
        if (won, score, done) != (step.won, step.score, step.done) {
            differences.push(format!("{id}: step {i} {:?}: won, score or done", step.action));
        }
    }
    (episode.steps.len(), differences)
}

/// An independent implementation of Python's `str.strip`.
fn python_strip(text: &str) -> &str {
    let blank = |c: char| {
        matches!(c as u32, 0x9..=0xd | 0x1c..=0x20 | 0x85 | 0xa0 | 0x1680 | 0x2000..=0x200a
            | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000)
    };
    text.trim_matches(blank)
}

fn check(transcripts: &Path, data: &Path) {
    let inside = data.join("json_2.1.1");
    let data = if inside.is_dir() { inside } else { data.to_owned() };
    let text = std::fs::read_to_string(transcripts).expect("readable transcripts");
    let library = Library::new();
    let mut games: HashMap<String, Arc<Game>> = HashMap::new();
    let mut observations = 0;
    let mut differences = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let episode: Episode = serde_json::from_str(line).expect("a transcript line");
        let game = games.entry(episode.game.clone()).or_insert_with(|| {
            library.load(data.join(&episode.game)).unwrap_or_else(|error| panic!("{error}"))
        });
        let (compared, found) = replay(game, &episode);
        observations += compared;
        differences.extend(found);
    }
    println!(
        "{observations} observations of {} games, {} differences",
        games.len(),
        differences.len()
    );
    assert!(observations > 0, "{} has no episodes", transcripts.display());
    assert!(differences.is_empty(), "{}", differences[..differences.len().min(5)].join("\n"));
}

#[test]
fn alfworld_transcripts_are_reproduced() {
    let transcripts = variable("EPO_ALFWORLD_TRANSCRIPTS").or_else(|| shared("transcripts.jsonl"));
    let data = variable("ALFWORLD_DATA").or_else(|| shared("json_2.1.1"));
    match (transcripts, data) {
        (Some(transcripts), Some(data)) => check(&transcripts, &data),
        _ => println!("skipped: set EPO_ALFWORLD_TRANSCRIPTS and ALFWORLD_DATA"),
    }
}

#[test]
fn alfworld_transcripts_of_the_older_format_are_reproduced() {
    match (shared("old_format/transcripts.jsonl"), shared("old_format/json_2.1.1")) {
        (Some(transcripts), Some(data)) => check(&transcripts, &data),
        _ => println!("skipped: no shared data"),
    }
}
