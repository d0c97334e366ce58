//! Fetches a pinned wheel: through pip where there is one, else over HTTPS. Every wait is limited.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::env::scienceworld::provision::index;
use crate::env::scienceworld::provision::wheels::{check_sha256, Scratch, Wheel};

/// Gets a line for every step of a fetch.
pub(crate) type Report<'a> = &'a dyn Fn(&str);

const MIB: f64 = 1_048_576.0;

/// How wheels are fetched.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    /// The Python programs that may have pip, in order; none: HTTPS only.
    pub(crate) pythons: Vec<PathBuf>,
    /// Another index than the configured one.
    pub(crate) index: Option<String>,
    /// Longest wait for a connection, an answer or the next bytes.
    pub(crate) silence: Duration,
    /// Longest time for one wheel, each way.
    pub(crate) limit: Duration,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self {
            pythons: vec!["python3".into(), "python".into()],
            index: None,
            silence: Duration::from_secs(20),
            limit: Duration::from_secs(600),
        }
    }
}

impl Fetcher {
    /// Fetches `wheel` to `target`, verified; on failure, why each way failed.
    pub(crate) fn fetch(
        &self,
        wheel: &Wheel,
        target: &Path,
        report: Report<'_>,
    ) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        match self.find_pip() {
            Some(python) => match self.by_pip(&python, wheel, target, report) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("pip: {reason}")),
            },
            None => reasons.push("pip: no python with pip".into()),
        }
        report(&format!("fetching {} over HTTPS ({})", wheel.file, reasons[0]));
        self.by_https(wheel, target, report).map_err(|reason| {
            reasons.push(format!("https: {reason}"));
            reasons
        })
    }

    fn find_pip(&self) -> Option<PathBuf> {
        let has_pip = |python: &&PathBuf| {
            let mut command = Command::new(python);
            command.args(["-m", "pip", "--version"]);
            run_limited(command, self.silence, &mut || {})
                .is_ok_and(|output| output.status.success())
        };
        self.pythons.iter().find(has_pip).cloned()
    }

    fn by_pip(
        &self,
        python: &Path,
        wheel: &Wheel,
        target: &Path,
        report: Report<'_>,
    ) -> Result<(), String> {
        let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
        std::fs::create_dir_all(scratch.path()).map_err(|e| e.to_string())?;
        let pins = scratch.path().join("requirements.txt");
        let line = format!("{}=={} --hash=sha256:{}\n", wheel.project, wheel.version, wheel.sha256);
        std::fs::write(&pins, line).map_err(|e| e.to_string())?;
        let mut command = Command::new(python);
        command.args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]);
        command.args([
            "--disable-pip-version-check",
            "--no-input",
            "--progress-bar",
            "off",
            "--retries",
            "2",
        ]);
        command.arg("--timeout").arg(self.silence.as_secs().max(1).to_string());
        command.arg("-d").arg(scratch.path()).arg("-r").arg(&pins);
        if let Some(index) = &self.index {
            command.arg("--index-url").arg(index);
        }
        let started = Instant::now();
        let mut last = started;
        let mut tick = || {
            if last.elapsed() >= Duration::from_secs(5) {
                last = Instant::now();
                report(&format!(
                    "pip is fetching {}: {} s",
                    wheel.file,
                    started.elapsed().as_secs()
                ));
            }
        };
        let output = run_limited(command, self.limit, &mut tick)?;
        if !output.status.success() {
            return Err(last_lines(&String::from_utf8_lossy(&output.stderr), 2));
        }
        let fetched = scratch.path().join(wheel.file);
        check_sha256(&fetched, wheel.sha256).map_err(|e| e.to_string())?;
        std::fs::rename(&fetched, target).map_err(|e| e.to_string())
    }

    fn by_https(&self, wheel: &Wheel, target: &Path, report: Report<'_>) -> Result<(), String> {
        let root = self
            .index
            .clone()
            .unwrap_or_else(|| index::configured(|name| std::env::var(name).ok()));
        let page_url = index::project_page(&root, wheel.project);
        let agent = self.agent();
        let accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
        let explain = |error: ureq::Error| format!("{}: {error}", without_credentials(&page_url));
        let mut page = agent.get(&page_url).header("Accept", accept).call().map_err(explain)?;
        let text =
            page.body_mut().with_config().limit(64 << 20).read_to_string().map_err(explain)?;
        let url = index::find_file(&page_url, &text, wheel.file).ok_or_else(|| {
            format!("{}: no {} there", without_credentials(&page_url), wheel.file)
        })?;
        let explain = |error: String| format!("{}: {error}", without_credentials(&url));
        let body = agent.get(&url).call().map_err(|e| explain(e.to_string()))?;
        let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
        let reader = body.into_body().into_with_config().limit(wheel.size + 1).reader();
        let count =
            save(reader, scratch.path(), wheel, report).map_err(|e| explain(e.to_string()))?;
        if count != wheel.size {
            return Err(explain(format!("{count} bytes, expected {}", wheel.size)));
        }
        check_sha256(scratch.path(), wheel.sha256).map_err(|e| explain(e.to_string()))?;
        std::fs::rename(scratch.path(), target).map_err(|e| e.to_string())
    }

    fn agent(&self) -> ureq::Agent {
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(self.limit))
            .timeout_connect(Some(self.silence))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence));
        config.build().into()
    }
}

/// Copies a body to a file, telling how far it is about once a second; returns the bytes copied.
fn save(
    mut body: impl Read,
    path: &Path,
    wheel: &Wheel,
    report: Report<'_>,
) -> std::io::Result<u64> {
    let mut file = std::fs::File::create(path)?;
    let (mut buffer, mut total, mut last) = (vec![0; 1 << 16], 0u64, Instant::now());
    loop {
        let count = body.read(&mut buffer)?;
        if count == 0 {
            file.sync_all()?;
            return Ok(total);
        }
        file.write_all(&buffer[..count])?;
        total += count as u64;
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            let (now, all) = (total as f64 / MIB, wheel.size as f64 / MIB);
            report(&format!("{}: {now:.1} of {all:.1} MiB", wheel.file));
        }
    }
}

/// Runs a program to its end or to the limit, then kills it; `tick` is called while waiting.
pub(crate) fn run_limited(
    mut command: Command,
    limit: Duration,
    tick: &mut dyn FnMut(),
) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let gather = |thread: Collector| thread.join().unwrap_or_default();
                return Ok(Output { status, stdout: gather(stdout), stderr: gather(stderr) });
            }
            Ok(None) if Instant::now() < deadline => {
                tick();
                std::thread::sleep(Duration::from_millis(20));
            }
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let reason = other
                    .err()
                    .map_or_else(|| format!("no end within {limit:?}"), |e| e.to_string());
                return Err(format!("{program}: {reason}"));
            }
        }
    }
}

type Collector = std::thread::JoinHandle<Vec<u8>>;

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collector {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}

/// `url` without the user name and password that an index may want.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find('/').unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
