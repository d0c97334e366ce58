//! The turns and moves that gold paths need: the table in `docs/SCIENCEWORLD.md`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::simulator;
use epo::env::scienceworld::{task_names, variations, Jvm, JvmConfig, Simulator, Split};
use epo::env::Task;

/// Turns, moves and score at the end of a gold path.
type End = (usize, u32, i32);

fn play(simulator: &mut Simulator, task: &Task) -> End {
    simulator.load(task, "easy", true).unwrap();
    let path = simulator.gold_path().unwrap();
    simulator.load(task, "easy", false).unwrap();
    simulator.step("look around").unwrap();
    for (i, action) in path.iter().enumerate() {
        simulator.step(action).unwrap();
        if simulator.completed().unwrap() || i + 1 == path.len() {
            return (i + 1, simulator.moves().unwrap(), simulator.score().unwrap());
        }
    }
    (0, 0, 0)
}

/// `EPO_VARIATIONS` training variations of each family, or 6, spread evenly.
fn tasks() -> Vec<Task> {
    let most = std::env::var("EPO_VARIATIONS").ok().and_then(|most| most.parse().ok()).unwrap_or(6);
    let family = |name: &str| {
        let all = variations(name, Split::Train).unwrap().end;
        let kept = all.min(most);
        let name = name.to_owned();
        (0..kept).map(move |i| Task { name: name.clone(), variation: i * all / kept })
    };
    task_names().flat_map(family).collect()
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn turns_and_moves_of_gold_paths() {
    let Some(installation) = simulator::installation() else { return };
    let workers = simulator::parallelism();
    let jvm = Jvm::start(&installation, &JvmConfig::default(), workers).unwrap();
    let left = Mutex::new(tasks().into_iter());
    let ends: Mutex<BTreeMap<String, Vec<End>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let limit = Duration::from_secs(300);
                let jar = jvm.simulator_jar();
                let mut simulator = Simulator::connect(jvm.endpoint(), jar, limit).unwrap();
                let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(task) = next() {
                    let end = play(&mut simulator, &task);
                    ends.lock().unwrap().entry(task.name).or_default().push(end);
                }
            });
        }
    });
    println!("| family | variations | solved | most turns | most moves | solved in 100 moves |");
    for (family, ends) in ends.into_inner().unwrap() {
        let solved: Vec<&End> = ends.iter().filter(|(_, _, score)| *score == 100).collect();
        let turns = solved.iter().map(|(turns, _, _)| turns).max().unwrap();
        let moves = solved.iter().map(|(_, moves, _)| moves).max().unwrap();
        let short = solved.iter().filter(|(_, moves, _)| *moves <= 100).count();
        let all = ends.len();
        println!("| {family} | {all} | {} | {turns} | {moves} | {short} |", solved.len());
    }
}
