//! The searching expert on real ALFWorld games and on household games.
//!
//! `ALFWORLD_DATA` names the data folder; the default is the shared one. Without either, the
//! test on real games prints that it is skipped, and passes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use epo::env::alfworld::{game_files, Expert, Game, Library, Play, Split, TaskType};
use epo::env::household::{Generator, GeneratorConfig};
use epo::settings::Count;
use epo::train::config::{Algorithm, Preset};
use epo::worlds::{AlfWorldTasks, Benchmark, GameSource};

/// The data folder, if there is one.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ALFWORLD_DATA").filter(|value| !value.is_empty()) {
        return Some(folder.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["shared", "../shared"].map(|place| root.join(place).join("alfworld"));
    places.into_iter().find(|path| path.join("json_2.1.1").is_dir())
}

/// The games of all splits in the data folder.
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

/// Plays a game with the expert until it is won, in at most 60 steps.
fn win(game: &Arc<Game>) -> Play {
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
    play
}

#[test]
fn the_expert_wins_real_games_within_60_steps() {
    for game in games() {
        win(&game);
    }
}

/// The facts that hold in a state, one list of arguments per fact, by predicate.
fn facts(play: &Play) -> BTreeMap<String, HashSet<Vec<String>>> {
    let game = play.game();
    let current = play.state().facts().filter_map(|number| game.fact(number));
    let mut facts: BTreeMap<String, HashSet<Vec<String>>> = BTreeMap::new();
    for fact in game.constant_facts().chain(current) {
        let arguments = fact.arguments.iter().map(|name| (*name).to_owned()).collect();
        facts.entry(fact.predicate.to_owned()).or_default().insert(arguments);
    }
    facts
}

/// Decides from the facts alone, without the game's goal, if `thing` is where the task wants it.
fn is_solved(play: &Play, task: TaskType, thing: &str, target: &str) -> bool {
    let facts = facts(play);
    let holds = |predicate: &str, arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|name| (*name).to_owned()).collect();
        facts.get(predicate).is_some_and(|known| known.contains(&arguments))
    };
    let pairs = |predicate: &str| {
        let known = facts.get(predicate).into_iter().flatten();
        known.map(|pair| (pair[0].as_str(), pair[1].as_str()))
    };
    if task == TaskType::LookAtObjInLight {
        let is_held = pairs("holding").any(|(_, item)| holds("sort", &[item, thing]));
        let is_lit = pairs("inside").any(|(lamp, place)| {
            let is_near = pairs("at").any(|(_, spot)| holds("beside", &[place, spot]));
            is_near && holds("sort", &[lamp, target]) && holds("lit", &[lamp])
        });
        return is_held && is_lit;
    }
    let state = match task {
        TaskType::PickCleanThenPlaceInRecep => Some("clean"),
        TaskType::PickHeatThenPlaceInRecep => Some("hot"),
        TaskType::PickCoolThenPlaceInRecep => Some("cold"),
        _ => None,
    };
    let mut brought: BTreeMap<&str, usize> = BTreeMap::new();
    for (item, place) in pairs("inside") {
        let is_right = holds("sort", &[item, thing]) && holds("make", &[place, target]);
        if is_right && state.is_none_or(|state| holds(state, &[item])) {
            *brought.entry(place).or_default() += 1;
        }
    }
    let needed = if task == TaskType::PickTwoObjAndPlace { 2 } else { 1 };
    brought.values().any(|&count| count >= needed)
}

#[test]
fn the_expert_wins_household_games_exactly_when_their_task_is_done() {
    let generator = Generator::new(GeneratorConfig::default()).unwrap();
    let library = Library::new();
    for index in 0..60 {
        let made = generator.game(Split::ValidSeen, index);
        let game = library.parse(&made.name, &made.text).unwrap();
        // The name is SPLIT/TASK-THING-None-TARGET-ROOM/NUMBER/game.tw-pddl.
        let parts: Vec<&str> = made.name.split('-').collect();
        let [thing, target] = [parts[1], parts[3]];
        let start = Play::new(game.clone());
        assert!(!is_solved(&start, made.task_type, thing, target), "{}", made.name);
        let end = win(&game);
        assert!(is_solved(&end, made.task_type, thing, target), "{}", made.name);
    }
}

#[test]
fn only_solved_games_are_shown_and_none_is_an_error_with_the_limit_to_set() {
    let mut config = AlfWorldTasks::preset(Preset::Small, Algorithm::Grpo);
    config.environment.games = GameSource::default();
    config.environment.train_games = Count::literal(4);
    config.environment.test_games = Count::literal(1);
    config.demonstrations = Count::literal(2);
    let games = config.environment.games().unwrap();
    let setup = AlfWorldTasks::begin(&config, &games).unwrap();
    assert_eq!(setup.demonstrations.len(), 12, "the preset's limit solves all of these games");

    config.rollout.max_turns = Count::literal(1);
    let error = AlfWorldTasks::begin(&config, &games).unwrap_err().to_string();
    assert!(error.contains("`rollout.max_turns` = 1: "), "{error}");
    assert!(error.contains("solved 0 of 12"), "{error}");
    let limit = error.rsplit("set it to ").next().unwrap().parse().unwrap();
    let with_limit = |limit| {
        let mut config = config.clone();
        config.rollout.max_turns = Count::literal(limit);
        AlfWorldTasks::begin(&config, &games).unwrap().demonstrations.len()
    };
    assert_eq!(with_limit(limit), 12, "the offered limit solves all of them");
    assert!(with_limit(limit - 1) < 12);
}
