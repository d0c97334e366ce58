//! Bad input, dead and hung processes: an error for each cause, and no episode lost.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::simulator;
use epo::env::scienceworld::{
    CallPattern, Endpoint, Installation, Jvm, JvmConfig, ScienceWorld, ScienceWorldConfig,
    ScienceWorldPool, Simulator, SimulatorError,
};
use epo::env::{Environment, Step, Task};
use epo::Error;

const LIMIT: Duration = Duration::from_secs(120);

fn task(name: &str, variation: u32) -> Task {
    Task { name: name.into(), variation }
}

fn simulator_error<T: std::fmt::Debug>(result: epo::Result<T>) -> SimulatorError {
    match result.unwrap_err() {
        Error::World(error) => *error.downcast().unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn bad_tasks_variations_and_simplifications_have_different_errors() {
    let Some(installation) = simulator::installation() else { return };
    let mut pool = ScienceWorldPool::new(&installation, &ScienceWorldConfig::default(), 1).unwrap();
    let env = &mut pool.environments()[0];
    let error = simulator_error(env.reset(&task("boyl", 0)));
    assert!(matches!(error, SimulatorError::UnknownTask { .. }), "{error}");
    let error = simulator_error(env.reset(&task("boil", 30)));
    assert!(matches!(error, SimulatorError::VariationOutOfRange { count: 30, .. }), "{error}");
    let error = simulator_error(env.gold_path(&task("boil", u32::MAX)));
    assert!(matches!(error, SimulatorError::VariationOutOfRange { .. }), "{error}");
    let error = simulator_error(env.step("look around"));
    assert!(matches!(error, SimulatorError::NoEpisode { .. }), "{error}");
    let config =
        ScienceWorldConfig { simplification: "easy,eazy".into(), ..ScienceWorldConfig::default() };
    let error = simulator_error(ScienceWorldPool::new(&installation, &config, 1));
    assert!(matches!(error, SimulatorError::UnknownSimplification { .. }), "{error}");
    assert!(error.to_string().contains("eazy"), "{error}");
    assert!(env.reset(&task("boil", 29)).is_ok(), "the environment stays usable after errors");
    assert_eq!(env.restarts(), 0);
}

#[test]
fn errors_of_settings_name_the_field() {
    let installation =
        Installation { java: "x".into(), simulator_jar: "x".into(), gateway_jar: "x".into() };
    let refused = |config: ScienceWorldConfig, count, name: &str| {
        let error = ScienceWorldPool::new(&installation, &config, count).unwrap_err();
        assert!(matches!(&error, Error::Setting { field, .. } if field == name), "{error}");
    };
    let default = ScienceWorldConfig::default;
    refused(default(), 0, "environments");
    let config = ScienceWorldConfig { environments_per_jvm: 0, ..default() };
    refused(config, 1, "environment.simulator.environments_per_jvm");
    let config = ScienceWorldConfig { call_limit_s: f64::NAN, ..default() };
    refused(config, 1, "environment.simulator.call_limit_s");
    let config = ScienceWorldConfig { memory_mib: usize::MAX, ..default() };
    refused(config, 1, "environment.simulator.memory_mib");
    let jvm = JvmConfig { heap_young_mib: 1536, ..JvmConfig::default() };
    let config = ScienceWorldConfig { jvm, ..default() };
    refused(config, 1, "environment.simulator.jvm.heap_young_mib");
    let unknown = serde_json::from_str::<ScienceWorldConfig>(r#"{"step_limitt": 3}"#).unwrap_err();
    assert!(unknown.to_string().contains("step_limitt"));
    let official = ScienceWorldConfig { call_pattern: CallPattern::Official, ..default() };
    let text = serde_json::to_string(&official).unwrap();
    assert!(text.contains(r#""call_pattern":"official""#), "{text}");
}

#[test]
fn a_closed_port_and_a_silent_one_have_different_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let endpoint = Endpoint { address, token: "t".into() };
    let limit = Duration::from_millis(300);
    let error = Simulator::connect(&endpoint, Path::new("x.jar"), limit).unwrap_err();
    assert!(matches!(error, SimulatorError::Timeout { .. }), "{error}");
    drop(listener);
    let error = Simulator::connect(&endpoint, Path::new("x.jar"), limit).unwrap_err();
    assert!(matches!(error, SimulatorError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
}

#[cfg(unix)]
#[test]
fn a_java_that_is_silent_ends_early_or_is_missing_has_different_errors() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let fake = |name: &str, text: &str| {
        let java = folder.path().join(name);
        std::fs::write(&java, text).unwrap();
        std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
        Installation { java, simulator_jar: "x".into(), gateway_jar: "x".into() }
    };
    let config = JvmConfig { start_limit_s: 1, ..JvmConfig::default() };
    let started = Instant::now();
    let silent = fake("silent", "#!/bin/sh\necho warming up\nexec sleep 60\n");
    let error = Jvm::start(&silent, &config, 1).unwrap_err();
    assert!(matches!(&error, SimulatorError::Silent { seconds: 1, .. }), "{error}");
    assert!(error.to_string().contains("warming up"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    let dead = fake("dead", "#!/bin/sh\necho no memory >&2\nexit 3\n");
    let error = Jvm::start(&dead, &config, 1).unwrap_err();
    assert!(matches!(&error, SimulatorError::Start { .. }), "{error}");
    assert!(error.to_string().contains("no memory"), "{error}");
    let nowhere = Installation { java: "/nonexistent/java".into(), ..fake("x", "") };
    let error = Jvm::start(&nowhere, &config, 1).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/java"), "{error}");
}

#[test]
fn the_gateway_listens_on_loopback_and_requires_its_token() {
    let Some(installation) = simulator::installation() else { return };
    let jvm = Jvm::start(&installation, &JvmConfig::default(), 1).unwrap();
    let jar = &installation.simulator_jar;
    assert!(jvm.endpoint().address.ip().is_loopback());
    let forged = Endpoint { token: "guess".into(), ..jvm.endpoint().clone() };
    let error = Simulator::connect(&forged, jar, LIMIT).unwrap_err();
    assert!(matches!(error, SimulatorError::Refused { .. }), "{error}");
    let shown = format!("{jvm:?}{error}");
    assert!(!shown.contains(&jvm.endpoint().token), "the token is never shown");
    let property = call_unauthenticated(jvm.endpoint().address);
    assert_eq!(property, None, "the gateway makes no call without the token");
    #[cfg(target_os = "linux")]
    assert!(listening_addresses(jvm.endpoint().address.port())
        .iter()
        .all(|a| a.contains("0100007F")));
    let error = Simulator::connect(jvm.endpoint(), &installation.gateway_jar, LIMIT).unwrap_err();
    assert!(matches!(&error, SimulatorError::Exception { .. }), "{error}");
    assert!(error.to_string().contains("ClassNotFound"), "{error}");
    Simulator::connect(jvm.endpoint(), jar, LIMIT).unwrap();
}

#[test]
fn connections_that_close_meanwhile_do_not_disturb_a_new_one() {
    let Some(installation) = simulator::installation() else { return };
    let jvm = Jvm::start(&installation, &JvmConfig::default(), 1).unwrap();
    let address = jvm.endpoint().address;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(std::net::TcpStream::connect(address));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..12 {
            let connected = Simulator::connect(jvm.endpoint(), &installation.simulator_jar, LIMIT);
            if connected.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            connected.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Requests a system property without presenting a token; returns it if the gateway does.
fn call_unauthenticated(address: SocketAddr) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"c\nz:java.lang.System\ngetProperty\nsjava.version\ne\n").unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    assert!(!reply.is_empty(), "the refusal is a reply");
    reply.strip_prefix("!ys").map(str::to_owned)
}

/// Returns the local addresses, in hexadecimal, of the sockets that listen on `port`.
#[cfg(target_os = "linux")]
fn listening_addresses(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let wanted = format!(":{port:04X}");
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(3) == Some(&"0A") && fields[1].ends_with(&wanted)).then(|| fields[1].to_owned())
    };
    let found: Vec<String> =
        tables.iter().flat_map(|table| table.lines()).filter_map(listening).collect();
    assert!(!found.is_empty());
    found
}

type Episode = (Vec<Step>, Vec<Vec<String>>);

/// Plays a fixed episode, with requests for the admissible actions in between.
fn play(env: &mut ScienceWorld, variation: u32, progress: &AtomicUsize) -> Episode {
    let actions = [
        "open door to kitchen",
        "teleport to kitchen",
        "look at sink",
        "activate sink",
        "open cupboard",
        "pick up thermometer",
        "wait1",
        "teleport to outside",
        "look around",
        "inventory",
        "wait1",
        "teleport to kitchen",
    ];
    let mut steps = Vec::new();
    let mut lists = Vec::new();
    env.reset(&task("boil", variation)).unwrap();
    for (index, action) in actions.iter().enumerate() {
        steps.push(env.step(action).unwrap());
        progress.fetch_add(1, Ordering::Relaxed);
        if index % 3 == 1 {
            lists.push(env.admissible().unwrap());
        }
    }
    (steps, lists)
}

/// Plays one episode per environment in parallel; sends the signal `disturb` to the process at
/// mid-episode.
fn rollout(pool: &mut ScienceWorldPool, disturb: Option<&str>) -> Vec<Episode> {
    let progress = AtomicUsize::new(0);
    let process = pool.process_ids()[0].to_string();
    std::thread::scope(|scope| {
        let progress = &progress;
        let players: Vec<_> = pool
            .environments()
            .iter_mut()
            .enumerate()
            .map(|(index, env)| scope.spawn(move || play(env, index as u32, progress)))
            .collect();
        if let Some(signal) = disturb {
            while progress.load(Ordering::Relaxed) < 9 {
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
        }
        players.into_iter().map(|player| player.join().unwrap()).collect()
    })
}

#[cfg(unix)]
#[test]
fn a_killed_and_a_hung_process_lose_no_episode() {
    let Some(installation) = simulator::installation() else { return };
    for call_pattern in [CallPattern::Lean, CallPattern::Official] {
        let config = ScienceWorldConfig {
            call_pattern,
            call_limit_s: 20.0,
            ..ScienceWorldConfig::default()
        };
        let undisturbed =
            rollout(&mut ScienceWorldPool::new(&installation, &config, 3).unwrap(), None);
        assert!(undisturbed.iter().all(|(steps, lists)| steps.len() == 12 && lists.len() == 4));
        let signals: &[&str] =
            if call_pattern == CallPattern::Lean { &["-KILL", "-STOP"] } else { &["-KILL"] };
        for signal in signals {
            let mut pool = ScienceWorldPool::new(&installation, &config, 3).unwrap();
            let disturbed = rollout(&mut pool, Some(signal));
            assert_eq!(disturbed, undisturbed, "{call_pattern:?} {signal}");
            assert_eq!(pool.restarts(), 1, "{call_pattern:?} {signal}: one process, replaced once");
        }
    }
}

#[cfg(unix)]
#[test]
fn cached_responses_need_no_process_and_a_different_continuation_is_exact() {
    let Some(installation) = simulator::installation() else { return };
    let pool = |memory_mib| {
        let config = ScienceWorldConfig { memory_mib, ..ScienceWorldConfig::default() };
        ScienceWorldPool::new(&installation, &config, 1).unwrap()
    };
    let again =
        |pool: &mut ScienceWorldPool| play(&mut pool.environments()[0], 0, &AtomicUsize::new(0));
    let differently = |pool: &mut ScienceWorldPool| {
        let env = &mut pool.environments()[0];
        let later = env.step("open fridge").unwrap();
        env.reset(&task("boil", 0)).unwrap();
        let actions =
            ["open door to kitchen", "teleport to kitchen", "activate stove", "look around"];
        let mut steps = actions.map(|action| env.step(action).unwrap()).to_vec();
        steps.push(later);
        (steps, env.admissible().unwrap(), env.look().unwrap())
    };
    let mut cached = pool(1);
    let mut uncached = pool(0);
    let played = again(&mut uncached);
    assert_eq!(again(&mut cached), played);
    for pool in [&mut cached, &mut uncached] {
        let process = pool.process_ids()[0].to_string();
        assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
        assert_eq!(again(pool), played);
    }
    assert_eq!((cached.restarts(), uncached.restarts()), (0, 1));
    assert_eq!(differently(&mut cached), differently(&mut uncached));
    assert_eq!((cached.restarts(), uncached.restarts()), (1, 1));
}

#[cfg(unix)]
#[test]
fn a_process_that_cannot_be_replaced_is_an_error() {
    let Some(installation) = simulator::installation() else { return };
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("gateway.jar");
    std::fs::copy(&installation.gateway_jar, &jar).unwrap();
    let installation = Installation { gateway_jar: jar.clone(), ..installation };
    let mut pool = ScienceWorldPool::new(&installation, &ScienceWorldConfig::default(), 1).unwrap();
    let process = pool.process_ids()[0].to_string();
    let env = &mut pool.environments()[0];
    env.reset(&task("boil", 0)).unwrap();
    std::fs::remove_file(&jar).unwrap();
    assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
    let error = simulator_error(env.step("look around"));
    assert!(matches!(&error, SimulatorError::Start { .. }), "{error}");
    assert!(error.to_string().contains("GatewayServer"), "{error}");
}
