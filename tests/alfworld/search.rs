//! Planner and searching expert on real ALFWorld games.
//!
//! `ALFWORLD_DATA` names the data folder; the default is the shared one. Without it the tests say so and pass.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use epo::env::alfworld::{game_files, shortest_plan, Expert, Game, Library, Play, Split};

/// The data folder, if there is one.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ALFWORLD_DATA").filter(|value| !value.is_empty()) {
        return Some(folder.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["shared", "../shared"].map(|place| root.join(place).join("alfworld"));
    places.into_iter().find(|path| path.join("json_2.1.1").is_dir())
}

/// The games of every split that is there.
fn games() -> Vec<Arc<Game>> {
    let Some(folder) = folder() else {
        println!("skipped: no ALFWORLD_DATA and no shared folder");
        return Vec::new();
    };
    let library = Library::new();
    let files =
        Split::ALL.into_iter().filter_map(|split| game_files(&folder, split, &[]).ok()).flatten();
    files.map(|file| library.load(&file.path).expect("a game")).collect()
}

#[test]
fn plans_win_and_are_no_longer_than_walkthroughs() {
    for game in games() {
        let plan = shortest_plan(&game, game.initial_state(), 1_000_000).unwrap();
        assert!(plan.len() <= game.walkthrough().unwrap().len(), "{}: {plan:?}", game.name());
        let mut play = Play::new(game.clone());
        for action in &plan {
            assert!(play.step(action).unwrap().valid, "{}: {action}", game.name());
        }
        assert!(play.is_won(), "{}: {plan:?}", game.name());
    }
}

#[test]
fn the_searching_expert_wins_within_60_steps() {
    for game in games() {
        let mut play = Play::new(game.clone());
        let mut observation = game.first_observation().to_owned();
        let mut expert = Expert::new(&observation).unwrap();
        while !play.is_won() {
            assert!(play.steps() < 60, "{}", game.name());
            let action = expert.next(&observation, &play.admissible().collect::<Vec<_>>());
            let outcome = play.step(&action).unwrap();
            assert!(outcome.valid, "{}: {action}", game.name());
            observation = outcome.observation;
        }
    }
}
