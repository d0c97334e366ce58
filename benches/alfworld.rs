//! Speed and memory of the ALFWorld engine: loads, resets, steps, clones, plans.
//!
//! `ALFWORLD_DATA` names the games; without it the households made here are played. `EPO_BENCH_GAMES` (200) games are
//! taken from the training split, evenly; each line is the median of five passes over them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use epo::env::alfworld::{game_files, shortest_plan, Game, Library, Play, Split};
use epo::env::household::{Generator, GeneratorConfig};

/// How many actions are played in each game.
const STEPS: usize = 200;

fn main() -> anyhow::Result<()> {
    let count = std::env::var("EPO_BENCH_GAMES").map_or(Ok(200), |count| count.parse())?;
    let texts = texts(count)?;
    let library = Library::new();
    let load = |(name, text): &(String, String)| library.parse(name, text, None);
    let games = texts.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    median("load, domain and grammar known", games.len(), || {
        black_box(texts.iter().map(load).filter(Result::is_ok).count());
    });
    let mean = |sum: usize| sum / games.len();
    let operators = mean(games.iter().map(|game| game.operator_count()).sum());
    println!(
        "{operators} operators, {} kB a loaded game",
        mean(games.iter().map(|g| g.bytes()).sum()) / 1000
    );

    let plays = || games.iter().map(|game| Play::new(game.clone())).collect::<Vec<_>>();
    median("reset of a loaded game", games.len(), || drop(plays()));
    median("step with observation and admissible list", games.len() * STEPS, || {
        plays().iter_mut().for_each(play_at_random);
    });
    let mut running = plays();
    running.iter_mut().for_each(play_at_random);
    println!("{} bytes a running game", mean(running.iter().map(Play::bytes).sum()));
    median("clone of a running game", running.len(), || drop(running.clone()));
    let planned = |game: &Arc<Game>| shortest_plan(game, game.initial_state(), 1_000_000).is_ok();
    median("shortest plan", games.len(), || {
        black_box(games.iter().filter(|game| planned(game)).count());
    });
    Ok(())
}

/// Names and texts of the games to play.
fn texts(count: usize) -> anyhow::Result<Vec<(String, String)>> {
    let Some(folder) = std::env::var_os("ALFWORLD_DATA") else {
        println!("ALFWORLD_DATA is not set: {count} household games");
        let generator = Generator::new(GeneratorConfig::default())?;
        let made = (0..count as u64).map(|index| generator.game(Split::Train, index));
        return Ok(made.map(|game| (game.name, game.text)).collect());
    };
    let files = game_files(folder.as_ref(), Split::Train, &[])?;
    let every = (files.len() / count.max(1)).max(1);
    let files: Vec<_> = files.into_iter().step_by(every).take(count).collect();
    println!("{} of ALFWorld's training games", files.len());
    let read =
        |file: &epo::env::alfworld::GameFile| Ok((file.name.clone(), std::fs::read_to_string(&file.path)?));
    files.iter().map(read).collect()
}

/// Plays random admissible actions, reading the whole list at every step.
fn play_at_random(play: &mut Play) {
    let mut random = 1u64;
    for _ in 0..STEPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let commands: Vec<&str> = play.admissible().collect();
        let action = commands[(random >> 33) as usize % commands.len()].to_owned();
        let _ = black_box(play.step(&action));
    }
}

/// Times `work` five times and prints the median, per one of `count` things.
fn median(what: &str, count: usize, mut work: impl FnMut()) {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() / count as f64
    };
    let mut seconds: Vec<f64> = (0..5).map(time).collect();
    seconds.sort_by(f64::total_cmp);
    println!("{what}: {:.2} µs, {:.0} a second", seconds[2] * 1e6, 1.0 / seconds[2]);
}
