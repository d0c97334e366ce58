//! Replays of transcripts of the official Python wrapper: no field of any line may differ.
//!
//! The file is `EPO_SCIENCEWORLD_TRANSCRIPTS`, or `../shared/scienceworld/transcripts.jsonl` next
//! to the checkout. The lines of an episode are contiguous; `i` = 0 is its reset.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use super::simulator;
use epo::env::scienceworld::{
    Endpoint, Frame, Installation, Jvm, JvmConfig, OfficialClient, Simulator,
};
use epo::env::Task;

const STEP_LIMIT: u32 = 100;
const CALL_LIMIT: Duration = Duration::from_secs(300);

#[derive(serde::Deserialize)]
struct Line {
    task: String,
    variation: u32,
    simplification: String,
    i: usize,
    action: Option<String>,
    obs: String,
    reward: i32,
    score: i32,
    done: bool,
    moves: u32,
    look: String,
    inv: String,
    task_desc: String,
    valid: Option<Vec<String>>,
}

fn transcripts() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("EPO_SCIENCEWORLD_TRANSCRIPTS") {
        return Some(path.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates =
        ["../shared", "../../shared"].map(|s| root.join(s).join("scienceworld/transcripts.jsonl"));
    candidates.into_iter().find(|path| path.exists()).or_else(|| {
        simulator::skip("no transcripts: set EPO_SCIENCEWORLD_TRANSCRIPTS to a transcripts.jsonl")
    })
}

fn episodes(path: &Path) -> Vec<Vec<Line>> {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut episodes: Vec<Vec<Line>> = Vec::new();
    for (number, text) in std::io::BufReader::new(file).lines().enumerate() {
        let text = text.unwrap();
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), number + 1));
        match episodes.last_mut() {
            Some(episode) if line.i != 0 => episode.push(line),
            _ => episodes.push(vec![line]),
        }
    }
    episodes
}

/// Describes the fields of `frame` that differ from `line`.
fn differences(line: &Line, frame: &Frame) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |field: &str, expected: String, got: String| {
        if expected != got {
            found.push(format!("{field}: expected {expected}, got {got}"));
        }
    };
    let text = |text: &String| format!("{text:?}");
    check("obs", text(&line.obs), text(&frame.observation));
    check("reward", line.reward.to_string(), frame.reward.to_string());
    check("score", line.score.to_string(), frame.score.to_string());
    check("done", line.done.to_string(), frame.done.to_string());
    check("moves", line.moves.to_string(), frame.moves.to_string());
    check("look", text(&line.look), text(&frame.look));
    check("inv", text(&line.inv), text(&frame.inventory));
    check("task_desc", text(&line.task_desc), text(&frame.task_description));
    if let Some(valid) = &line.valid {
        check("valid", format!("{valid:?}"), format!("{:?}", frame.valid));
    }
    found
}

fn replay(client: &mut OfficialClient, episode: &[Line]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in episode.iter().enumerate() {
        let episode = format!("{}:{}", line.task, line.variation);
        assert_eq!(line.i, index, "{episode}: the lines of an episode are numbered from 0");
        let frame = match &line.action {
            None => {
                let task = Task { name: line.task.clone(), variation: line.variation };
                client.reset(&task, &line.simplification)
            }
            Some(action) => client.step(action),
        };
        let place = format!("{episode} {:?} line {index}", line.simplification);
        let frame = frame.unwrap_or_else(|error| panic!("{place}: {error}"));
        found.extend(differences(line, &frame).into_iter().map(|d| format!("{place}: {d}")));
    }
    found
}

fn client(endpoint: &Endpoint, installation: &Installation) -> OfficialClient {
    let simulator = Simulator::connect(endpoint, &installation.simulator_jar, CALL_LIMIT).unwrap();
    OfficialClient::new(simulator, STEP_LIMIT)
}

#[test]
fn transcripts_replay_without_a_difference() {
    let Some(path) = transcripts() else { return };
    let Some(installation) = simulator::installation() else { return };
    let episodes = episodes(&path);
    assert!(!episodes.is_empty(), "{}: no episode", path.display());
    let workers = simulator::parallelism();
    let jvm = Jvm::start(&installation, &JvmConfig::default(), workers).unwrap();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut client = client(jvm.endpoint(), &installation);
                while let Some(episode) = episodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    found.lock().unwrap().extend(replay(&mut client, episode));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let lines: usize = episodes.iter().map(Vec::len).sum();
    let path = path.display();
    let count = found.len();
    eprintln!("{path}: {} episodes, {lines} lines, {count} differences", episodes.len());
    let first = found[..count.min(5)].join("\n");
    assert!(found.is_empty(), "{count} differences; the first:\n{first}");
}

#[test]
fn the_comparison_covers_every_field() {
    let line = || -> Line {
        serde_json::from_value(serde_json::json!({
            "task": "t", "variation": 0, "simplification": "", "i": 1, "action": "a", "obs": "o",
            "reward": 1, "score": 2, "done": false, "moves": 3, "look": "l", "inv": "v",
            "task_desc": "d", "valid": ["x"]
        }))
        .unwrap()
    };
    let frame = || Frame {
        observation: "o".into(),
        reward: 1,
        score: 2,
        done: false,
        moves: 3,
        look: "l".into(),
        inventory: "v".into(),
        task_description: "d".into(),
        valid: vec!["x".into()],
    };
    assert!(differences(&line(), &frame()).is_empty());
    let changes: [fn(&mut Frame); 9] = [
        |f| f.observation.push(' '),
        |f| f.reward = -f.reward,
        |f| f.score = -f.score,
        |f| f.done = true,
        |f| f.moves += 1,
        |f| f.look.push(' '),
        |f| f.inventory.push(' '),
        |f| f.task_description.push(' '),
        |f| f.valid.clear(),
    ];
    for change in changes {
        let mut changed = frame();
        change(&mut changed);
        assert_eq!(differences(&line(), &changed).len(), 1);
    }
}
