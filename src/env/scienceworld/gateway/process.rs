//! One Java process with a gateway.
//!
//! Its output is read all the time, since a full pipe would block it. It does not outlive the
//! trainer: dropping [`Jvm`] kills it, and it ends by itself when its standard input is closed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::folder::Folder;
use crate::env::scienceworld::gateway::link::Endpoint;
use crate::env::scienceworld::provision::install::Installation;
use crate::env::scienceworld::provision::java::without_java_options;

/// The lines of output that are kept for error messages.
const KEPT_LINES: usize = 20;

/// Settings of a simulator process.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JvmConfig {
    /// The largest heap of a process with one environment, in MiB; at least 64.
    pub heap_base_mib: u32,
    /// The heap that each further environment adds, in MiB.
    pub heap_per_environment_mib: u32,
    /// The part of the heap for short-lived objects (`-Xmn`), in MiB; below `heap_base_mib`. The
    /// simulator makes gigabytes of them per minute, and each collection stops all environments:
    /// the JVM's default, a smaller part, costs a third of the speed.
    pub heap_young_mib: u32,
    /// Further flags, after all others.
    pub extra_flags: Vec<String>,
    /// The seconds within which the gateway must open its port; at least 1.
    pub start_limit_s: u64,
}

impl Default for JvmConfig {
    fn default() -> Self {
        Self {
            heap_base_mib: 1536,
            heap_per_environment_mib: 64,
            heap_young_mib: 768,
            extra_flags: Vec::new(),
            start_limit_s: 60,
        }
    }
}

impl JvmConfig {
    /// Returns the flags of a process with `environments` environments.
    ///
    /// `hashCode=2` makes identity hashes constant: without it, the order of the simulator's sets,
    /// and with it the texts, would depend on more than the actions. A process that runs out of
    /// memory exits, so that it is replaced.
    pub fn flags(&self, environments: usize) -> Vec<String> {
        let extra = self.heap_per_environment_mib * environments.saturating_sub(1) as u32;
        let mut flags: Vec<String> = [
            "-XX:+UnlockExperimentalVMOptions",
            "-XX:hashCode=2",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-XX:ReservedCodeCacheSize=512m",
            "-Dfile.encoding=UTF-8",
            "-Djava.awt.headless=true",
            "-Duser.language=en",
        ]
        .map(String::from)
        .to_vec();
        if !self.extra_flags.iter().any(|flag| is_collector(flag)) {
            flags.push("-XX:+UseSerialGC".into());
        }
        flags.push(format!("-Xmx{}m", self.heap_base_mib + extra));
        flags.push(format!("-Xmn{}m", self.heap_young_mib));
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }
}

/// Returns true for a flag like `-XX:+UseG1GC`; Java takes only one of them.
fn is_collector(flag: &str) -> bool {
    flag.strip_prefix("-XX:+Use").is_some_and(|name| name.ends_with("GC"))
}

type Tail = Arc<Mutex<VecDeque<String>>>;

/// A running simulator process; killed when dropped.
#[derive(Debug)]
pub struct Jvm {
    child: Child,
    /// Held open: the process ends when this pipe is closed.
    _stdin: Option<ChildStdin>,
    endpoint: Endpoint,
    tail: Tail,
    simulator_jar: PathBuf,
    _folder: Folder,
}

impl Jvm {
    /// Starts a process for `environments` environments and waits for its port and token.
    ///
    /// # Errors
    /// [`SimulatorError::Start`] if the program cannot be run or ends early,
    /// [`SimulatorError::Silent`] if it opens no port in time.
    pub fn start(
        installation: &Installation,
        config: &JvmConfig,
        environments: usize,
    ) -> Result<Self, SimulatorError> {
        let failed = |reason: String| SimulatorError::Start { reason, output: String::new() };
        let folder = Folder::new().map_err(failed)?;
        let gateway = folder.readable(&installation.gateway_jar, "gateway.jar").map_err(failed)?;
        let simulator_jar =
            folder.readable(&installation.simulator_jar, "simulator.jar").map_err(failed)?;
        let flags = config.flags(environments);
        let mut child = command(&installation.java, &flags, &gateway, folder.path())
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", installation.java.display())))?;
        let tail = Tail::default();
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            drain(stdout, tail.clone(), Some(sender));
        }
        if let Some(stderr) = child.stderr.take() {
            drain(stderr, tail.clone(), None);
        }
        let stdin = child.stdin.take();
        let nowhere = Endpoint { address: (Ipv4Addr::LOCALHOST, 0).into(), token: String::new() };
        let mut jvm =
            Self { child, _stdin: stdin, endpoint: nowhere, tail, simulator_jar, _folder: folder };
        jvm.endpoint = jvm.await_endpoint(&lines, config.start_limit_s)?;
        Ok(jvm)
    }

    fn await_endpoint(
        &mut self,
        lines: &Receiver<String>,
        limit_s: u64,
    ) -> Result<Endpoint, SimulatorError> {
        let deadline = Instant::now() + Duration::from_secs(limit_s);
        let mut port: Option<u16> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(SimulatorError::Silent { seconds: limit_s, output: self.output() })
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            };
            match port {
                None => port = line.trim().parse().ok().filter(|&port| port != 0),
                Some(port) => {
                    // The token must not reach an error message.
                    self.tail.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
                    return Ok(Endpoint { address, token: line.trim().to_owned() });
                }
            }
        }
    }

    fn ended(&mut self) -> SimulatorError {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        std::thread::sleep(Duration::from_millis(50));
        SimulatorError::Start { reason: status, output: self.output() }
    }

    /// Returns the address and token of the gateway.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the simulator's jar under a name that this process can open; it exists as long as
    /// this value.
    pub fn simulator_jar(&self) -> &Path {
        &self.simulator_jar
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the last lines that the process printed.
    pub fn output(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(java: &Path, flags: &[String], gateway: &Path, folder: &Path) -> Command {
    let mut command = without_java_options(java);
    command
        .args(flags)
        .arg("-cp")
        .arg(gateway)
        .args(["py4j.GatewayServer", "--enable-auth", "--die-on-broken-pipe", "0"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A process group of its own: Ctrl-C at the terminal must not stop it while a step finishes.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    #[cfg(windows)]
    std::os::windows::process::CommandExt::creation_flags(&mut command, 0x200);
    command
}

/// Reads `pipe` to its end in a thread, keeps the last lines and sends every line to `lines` while
/// the receiver exists.
fn drain(pipe: impl Read + Send + 'static, tail: Tail, mut lines: Option<mpsc::Sender<String>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::with_capacity(1 << 16, pipe);
        let mut raw = Vec::new();
        while matches!(reader.read_until(b'\n', &mut raw), Ok(count) if count > 0) {
            let line: String = String::from_utf8_lossy(&raw).trim_end().chars().take(400).collect();
            raw.clear();
            {
                let mut kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line.clone());
            }
            lines = lines.filter(|listener| listener.send(line).is_ok());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_of_the_user_replaces_the_default() {
        let collectors = |extra: &[&str]| {
            let extra_flags = extra.iter().map(|flag| (*flag).to_owned()).collect();
            let config = JvmConfig { extra_flags, ..JvmConfig::default() };
            let flags = config.flags(1).into_iter().filter(|flag| is_collector(flag));
            flags.collect::<Vec<_>>()
        };
        assert_eq!(collectors(&["-XX:+UseStringDeduplication"]), ["-XX:+UseSerialGC"]);
        assert_eq!(collectors(&["-XX:+UseZGC"]), ["-XX:+UseZGC"]);
    }
}
