//! Full steps per second: this crate's client compared with the official Python wrapper on the same
//! actions, alternating in one run, and the client alone with 1, 2, 4 and 8 environments.
//!
//! `cargo bench --bench scienceworld` needs `python3` with pip for the wrapper, which is installed
//! into a virtual environment in the target folder. `EPO_BENCH_WARMUP` (10) rounds of warm-up come
//! before `EPO_BENCH_ROUNDS` (5) measured rounds on each side. Medians are printed.

mod official;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use epo::env::scienceworld::{
    CallPattern, DemonstrationConfig, Installation, Jvm, JvmConfig, OfficialClient, Provision,
    ScienceWorldConfig, ScienceWorldPool, Simulator,
};
use epo::env::{Environment, Task};
use official::{median, Official};
use sha2::{Digest, Sha256};

const SIMPLIFICATION: &str = "easy";
const TASKS: [&str; 4] = ["boil", "find-plant", "power-component", "melt"];
const REQUIREMENTS: &str = "\
scienceworld==1.2.3 --hash=sha256:e9737b9d099bfaad90ef053ad6ac1d795e2063ed320efdfc0e9d9c8b5bebf419
py4j==0.10.9.9 --hash=sha256:c7c26e4158defb37b0bb124933163641a2ff6e3a3913f7811b0ddbe07ed61533
";

#[derive(serde::Serialize)]
struct Script {
    task: String,
    variation: u32,
    simplification: &'static str,
    actions: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Round {
    seconds: f64,
    steps: usize,
    client_cpu: f64,
    java_cpu: f64,
    digest: String,
}

/// Returns the user and system seconds of a process so far; 0 without /proc.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn record(installation: &Installation) -> anyhow::Result<Vec<Script>> {
    let mut pool = ScienceWorldPool::new(installation, &ScienceWorldConfig::default(), 1)?;
    let tasks = TASKS.map(|name| Task { name: name.into(), variation: 0 });
    let demonstrations =
        pool.demonstrations(&tasks, &DemonstrationConfig::GOLD, 0, &mut |_| ())?.solved;
    Ok(demonstrations
        .into_iter()
        .map(|demonstration| Script {
            task: demonstration.task.name,
            variation: demonstration.task.variation,
            simplification: SIMPLIFICATION,
            actions: demonstration.turns.into_iter().map(|turn| turn.action).collect(),
        })
        .collect())
}

fn our_round(client: &mut OfficialClient, java: u32, script: &[Script]) -> anyhow::Result<Round> {
    let client_cpu = cpu_seconds(std::process::id());
    let java_cpu = cpu_seconds(java);
    let start = Instant::now();
    let mut hasher = Sha256::new();
    let mut steps = 0;
    for episode in script {
        let task = Task { name: episode.task.clone(), variation: episode.variation };
        client.reset(&task, SIMPLIFICATION)?;
        for action in &episode.actions {
            let frame = client.step(action)?;
            let done = if frame.done { "True" } else { "False" };
            let end = format!("{} {} {done}", frame.score, frame.moves);
            let valid = frame.valid.join("\n");
            for text in [&frame.observation, &frame.look, &frame.inventory, &valid, &end] {
                hasher.update(text.as_bytes());
            }
            steps += 1;
        }
    }
    Ok(Round {
        seconds: start.elapsed().as_secs_f64(),
        steps,
        client_cpu: cpu_seconds(std::process::id()) - client_cpu,
        java_cpu: cpu_seconds(java) - java_cpu,
        digest: hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Starts the wrapper in a Python process.
fn start_wrapper(folder: &Path, script: &Path, java: &Path) -> anyhow::Result<Official> {
    std::fs::write(folder.join("requirements.txt"), REQUIREMENTS)?;
    let pins = ["--no-deps", "--require-hashes", "-r", "requirements.txt"];
    let python = official::python(folder, &[&pins])?;
    let bin = java.parent().unwrap_or(Path::new("")).to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
    let mut command = Command::new(python);
    command.arg(official::script("scienceworld_wrapper.py")).arg(script);
    command.current_dir(folder); // the simulator writes a file to its working folder
    command.env("PATH", path);
    command.env("JAVA_TOOL_OPTIONS", "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2");
    Official::start(&mut command)
}

fn print_side(name: &str, rounds: &[Round]) -> f64 {
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let speed = of(|round| round.steps as f64 / round.seconds);
    let client = of(|round| 1e3 * round.client_cpu / round.steps as f64);
    let java = of(|round| 1e3 * round.java_cpu / round.steps as f64);
    println!("| {name} | {speed:.1} | {client:.2} | {java:.2} |");
    speed
}

fn side_by_side(
    installation: &Installation,
    folder: &Path,
    script: &[Script],
) -> anyhow::Result<()> {
    let path = folder.join("script.json");
    std::fs::write(&path, serde_json::to_string(script)?)?;
    let mut theirs = start_wrapper(folder, &path, &installation.java)?;
    let jvm = Jvm::start(installation, &JvmConfig::default(), 1)?;
    let limit = Duration::from_secs(120);
    let simulator = Simulator::connect(jvm.endpoint(), &installation.simulator_jar, limit)?;
    let mut ours = OfficialClient::new(simulator, 100);
    let mut wrapper = Vec::new();
    let mut client = Vec::new();
    let warmup = rounds("EPO_BENCH_WARMUP", 10);
    for round in 0..warmup + rounds("EPO_BENCH_ROUNDS", 5) {
        let mut our_round = || our_round(&mut ours, jvm.id(), script);
        let mut wrapper_round = || theirs.round::<Round>();
        let (a, b) = if round % 2 == 0 {
            let a = our_round()?;
            (a, wrapper_round()?)
        } else {
            let b = wrapper_round()?;
            (our_round()?, b)
        };
        anyhow::ensure!(a.digest == b.digest, "the two sides saw different episodes");
        if round >= warmup {
            client.push(a);
            wrapper.push(b);
        }
    }
    println!(
        "{} steps per round, {} rounds, one environment, all responses equal",
        client[0].steps,
        client.len()
    );
    println!("| | full steps/s | client CPU ms/step | Java CPU ms/step |\n|---|---|---|---|");
    let theirs = print_side("official Python wrapper", &wrapper);
    let ours = print_side("epo", &client);
    println!("ratio {:.2}", ours / theirs);
    Ok(())
}

fn play(env: &mut dyn Environment, script: &[Script]) -> epo::Result<usize> {
    let mut steps = 0;
    for episode in script {
        env.reset(&Task { name: episode.task.clone(), variation: episode.variation })?;
        for action in &episode.actions {
            steps += 1;
            if env.step(action)?.done {
                break;
            }
        }
    }
    Ok(steps)
}

fn parallel_round(pool: &mut ScienceWorldPool, script: &[Script]) -> epo::Result<f64> {
    let start = Instant::now();
    let results: Vec<epo::Result<usize>> = std::thread::scope(|scope| {
        let players: Vec<_> = pool
            .environments()
            .iter_mut()
            .map(|env| scope.spawn(move || play(env, script)))
            .collect();
        players.into_iter().filter_map(|player| player.join().ok()).collect()
    });
    let steps = results.into_iter().sum::<epo::Result<usize>>()?;
    Ok(steps as f64 / start.elapsed().as_secs_f64())
}

fn scaling(installation: &Installation, script: &[Script]) -> anyhow::Result<()> {
    println!("\n| environments, one process | lean steps/s | official steps/s |\n|---|---|---|");
    for count in [1, 2, 4, 8] {
        let mut speeds = Vec::new();
        for call_pattern in [CallPattern::Lean, CallPattern::Official] {
            let config =
                ScienceWorldConfig { call_pattern, memory_mib: 0, ..ScienceWorldConfig::default() };
            let mut pool = ScienceWorldPool::new(installation, &config, count)?;
            for _ in 0..rounds("EPO_BENCH_WARMUP", 10) {
                parallel_round(&mut pool, script)?;
            }
            let measured: epo::Result<Vec<f64>> = (0..rounds("EPO_BENCH_ROUNDS", 5))
                .map(|_| parallel_round(&mut pool, script))
                .collect();
            speeds.push(median(measured?));
        }
        println!("| {count} | {:.1} | {:.1} |", speeds[0], speeds[1]);
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let installation = Provision::default().install(&|line| eprintln!("{line}"))?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scienceworld-bench");
    std::fs::create_dir_all(&folder)?;
    let script = record(&installation)?;
    side_by_side(&installation, &folder, &script)?;
    scaling(&installation, &script)
}
