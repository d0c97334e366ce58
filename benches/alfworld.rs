//! Speed and memory of the ALFWorld engine: loads, resets, steps, clones.
//!
//! `ALFWORLD_DATA` names the games; without it generated household games are used.
//! `EPO_BENCH_GAMES` (200) games are taken evenly from the training split. Each line is the median
//! of five passes over them.
//!
//! With `EPO_BENCH_OFFICIAL=GAMES` the official Python engine (alfworld 0.4.2, textworld 1.7.0)
//! plays that many games as well. It is installed into a virtual environment in the target folder,
//! which takes minutes. Both engines play the same commands in alternating rounds, and the bench
//! fails if an observation, an admissible list or a win differs. `EPO_BENCH_ROUNDS` (3) rounds are
//! measured after a warm-up round.

mod official;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use epo::env::alfworld::{game_files, GameFile, Library, Play, Split};
use epo::env::household::{Generator, GeneratorConfig};
use official::Official;
use sha2::{Digest, Sha256};

/// The number of actions played in each game.
const STEPS: usize = 200;

fn main() -> anyhow::Result<()> {
    alone()?; // Drops its games before memory is compared.
    match std::env::var("EPO_BENCH_OFFICIAL") {
        Ok(games) => against_official(games.parse()?),
        Err(_) => Ok(()),
    }
}

fn alone() -> anyhow::Result<()> {
    let count = std::env::var("EPO_BENCH_GAMES").map_or(Ok(200), |count| count.parse())?;
    let texts = texts(count)?;
    let library = Library::new();
    let load = |(name, text): &(String, String)| library.parse(name, text);
    let before = resident_megabytes();
    let games = texts.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let kilobytes = (resident_megabytes() - before) * 1e3 / games.len() as f64;
    measure("load, domain and grammar known", games.len(), || {
        black_box(texts.iter().map(load).filter(Result::is_ok).count());
    });
    let operators: usize = games.iter().map(|game| game.operator_count()).sum();
    println!("{} operators, {kilobytes:.0} kB per loaded game", operators / games.len());

    let plays = || games.iter().map(|game| Play::new(game.clone())).collect::<Vec<_>>();
    measure("reset of a loaded game", games.len(), || drop(plays()));
    measure("step with observation and admissible list", games.len() * STEPS, || {
        for play in &mut plays() {
            play_at_random(play);
        }
    });
    let mut running = plays();
    for play in &mut running {
        play_at_random(play);
    }
    measure("clone of a game in play", running.len(), || drop(running.clone()));
    Ok(())
}

/// Returns the names and texts of the games to play.
fn texts(count: usize) -> anyhow::Result<Vec<(String, String)>> {
    let Some(folder) = std::env::var_os("ALFWORLD_DATA") else {
        println!("ALFWORLD_DATA is not set: {count} household games");
        let generator = Generator::new(GeneratorConfig::default())?;
        let made = (0..count as u64).map(|index| generator.game(Split::Train, index));
        return Ok(made.map(|game| (game.name, game.text)).collect());
    };
    let files = spread(folder.as_ref(), count)?;
    println!("{} of ALFWorld's training games", files.len());
    let read = |file: &GameFile| Ok((file.name.clone(), std::fs::read_to_string(&file.path)?));
    files.iter().map(read).collect()
}

/// Selects `count` training games, spread evenly.
fn spread(folder: &Path, count: usize) -> anyhow::Result<Vec<GameFile>> {
    let files = game_files(folder, Split::Train, &[])?;
    let every = (files.len() / count.max(1)).max(1);
    Ok(files.into_iter().step_by(every).take(count).collect())
}

/// Plays random admissible actions, reading the whole list at every step.
fn play_at_random(play: &mut Play) {
    let mut random = 1u64;
    for _ in 0..STEPS {
        let action = random_action(play, &mut random);
        let _ = black_box(play.step(&action));
    }
}

fn random_action(play: &Play, random: &mut u64) -> String {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let commands: Vec<&str> = play.admissible().collect();
    commands[(*random >> 33) as usize % commands.len()].to_owned()
}

/// Times `work` five times and prints the median per item, of `count` items.
fn measure(what: &str, count: usize, mut work: impl FnMut()) {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() / count as f64
    };
    let seconds = official::median((0..5).map(time).collect());
    println!("{what}: {:.2} µs, {:.0} a second", seconds * 1e6, 1.0 / seconds);
}

/// The largest number of actions in each game of the comparison.
const COMPARED_STEPS: usize = 30;

/// A game and the actions to play in it.
#[derive(serde::Serialize)]
struct Episode {
    file: PathBuf,
    actions: Vec<String>,
}

/// Wall and CPU seconds of one part of a round.
#[derive(Clone, Copy, Default, serde::Deserialize)]
struct Part {
    seconds: f64,
    cpu: f64,
}

impl Part {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.seconds += start.elapsed().as_secs_f64();
        result
    }
}

/// The results of a round, in which all games are loaded, reset, played and kept.
///
/// `memory` is in MB, with the first game and with all games loaded.
#[derive(serde::Deserialize)]
struct Round {
    load: Part,
    reset: Part,
    step: Part,
    digest: String,
    memory: [f64; 2],
}

fn against_official(games: usize) -> anyhow::Result<()> {
    let folder = std::env::var_os("ALFWORLD_DATA");
    let folder = folder.ok_or_else(|| anyhow::anyhow!("EPO_BENCH_OFFICIAL needs ALFWORLD_DATA"))?;
    let library = Library::new();
    let mut random = 1;
    let episode = |file: GameFile| -> anyhow::Result<Episode> {
        let mut play = Play::new(library.load(&file.path)?);
        let mut actions = Vec::new();
        while actions.len() < COMPARED_STEPS && !play.is_won() {
            actions.push(random_action(&play, &mut random));
            play.step(&actions[actions.len() - 1])?;
        }
        Ok(Episode { file: file.path, actions })
    };
    let episodes: Vec<Episode> =
        spread(folder.as_ref(), games)?.into_iter().map(episode).collect::<anyhow::Result<_>>()?;
    let mut official = start_official(&episodes)?;
    let mut theirs = Vec::new();
    let mut ours = Vec::new();
    let rounds: usize = std::env::var("EPO_BENCH_ROUNDS").map_or(Ok(3), |rounds| rounds.parse())?;
    anyhow::ensure!(rounds > 0, "EPO_BENCH_ROUNDS = 0: must be at least 1");
    for _ in 0..=rounds {
        let their_round: Round = official.round()?;
        let our_round = our_round(&library, &episodes)?;
        anyhow::ensure!(their_round.digest == our_round.digest, "the two engines differ");
        theirs.push(their_round);
        ours.push(our_round);
    }
    print_table(&episodes, &theirs, &ours);
    Ok(())
}

fn start_official(episodes: &[Episode]) -> anyhow::Result<Official> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alfworld-bench");
    std::fs::create_dir_all(&folder)?;
    let script = folder.join("script.json");
    std::fs::write(&script, serde_json::to_string(episodes)?)?;
    let python = official::python(
        &folder,
        &[&["textworld[pddl]==1.7.0"], &["--no-deps", "alfworld==0.4.2"]],
    )?;
    Official::start(Command::new(python).arg(official::script("alfworld_engine.py")).arg(script))
}

fn our_round(library: &Library, episodes: &[Episode]) -> anyhow::Result<Round> {
    let [mut load, mut reset, mut step] = [Part::default(); 3];
    let mut hasher = Sha256::new();
    let mut kept = Vec::new();
    let mut sizes = Vec::new();
    for episode in episodes {
        let game = load.time(|| library.load(&episode.file))?;
        let mut play = reset.time(|| Play::new(game.clone()));
        see(&mut hasher, game.first_observation(), &play);
        for action in &episode.actions {
            let outcome = step.time(|| {
                let outcome = play.step(action);
                black_box(play.admissible().count());
                outcome
            })?;
            see(&mut hasher, &outcome.observation, &play);
        }
        kept.push(play);
        sizes.push(resident_megabytes());
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Round { load, reset, step, digest, memory: [sizes[0], sizes[sizes.len() - 1]] })
}

fn see(hasher: &mut Sha256, observation: &str, play: &Play) {
    let mut commands: Vec<&str> = play.admissible().collect();
    commands.sort_unstable();
    let won = if play.is_won() { "True" } else { "False" };
    hasher.update(format!("{observation}\0{}\0{won}\0", commands.join("\n")));
}

/// Returns the resident memory of this process in MB; 0 if there is no /proc.
fn resident_megabytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

/// Prints times without the warm-up round, and the memory of the warm-up round.
fn print_table(episodes: &[Episode], theirs: &[Round], ours: &[Round]) {
    let memory = [theirs, ours].map(|rounds| rounds[0].memory);
    let [theirs, ours] = [&theirs[1..], &ours[1..]];
    let steps = episodes.iter().map(|episode| episode.actions.len()).sum::<usize>();
    println!("\n{} games, {steps} steps, {} rounds, all results equal", episodes.len(), ours.len());
    println!("| per call | official, ms | its CPU, ms | epo, µs | ratio |\n|---|---|---|---|---|");
    type Pick = fn(&Round) -> Part;
    let parts: [(&str, usize, Pick); 3] = [
        ("load", episodes.len(), |round| round.load),
        ("reset", episodes.len(), |round| round.reset),
        ("step", steps, |round| round.step),
    ];
    for (name, count, part) in parts {
        let of = |rounds: &[Round], value: fn(Part) -> f64| {
            official::median(rounds.iter().map(|round| value(part(round)) / count as f64).collect())
        };
        let wall = of(theirs, |part| part.seconds);
        let cpu = of(theirs, |part| part.cpu);
        let own = of(ours, |part| part.seconds);
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.0} |",
            wall * 1e3,
            cpu * 1e3,
            own * 1e6,
            wall / own
        );
    }
    let n = episodes.len();
    let [theirs, ours] = memory;
    println!("memory with 1 game: {:.0} MB official, {:.0} MB epo", theirs[0], ours[0]);
    println!("memory with {n} games: {:.0} MB official, {:.0} MB epo", theirs[1], ours[1]);
}
