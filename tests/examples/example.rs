//! A training example's binary as a user meets it: its summary, its folder, resuming, kills, and
//! its refusals.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use epo::run::{first_difference, Checkpoint};

/// A training example by its name.
pub(crate) struct Example(pub(crate) &'static str);

impl Example {
    /// The binary that cargo puts beside the tests: target/PROFILE/examples.
    fn command(&self) -> Command {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let path = profile.join("examples").join(self.0);
        assert!(
            path.is_file(),
            "{} is not built: cargo build --example {}",
            path.display(),
            self.0
        );
        let mut command = Command::new(path);
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE").stdin(Stdio::null());
        command.env_remove("ALFWORLD_DATA");
        command
    }

    /// Runs the example to its end and returns its summary.
    fn summary(&self, args: &[String]) -> serde_json::Map<String, serde_json::Value> {
        let output = self.command().args(args).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{args:?}: {}\n{err}", output.status);
        let last = out.lines().last().unwrap_or_default();
        let json =
            last.strip_prefix("summary ").unwrap_or_else(|| panic!("the last line is {last:?}"));
        serde_json::from_str(json).unwrap()
    }

    /// The same seed gives the same bits, whole, in parts, and killed again and again.
    pub(crate) fn a_smoke_run_repeats_resumes_and_survives_kills(&self) {
        let folder = tempfile::tempdir().unwrap();
        let duration = self.a_smoke_run_repeats_and_resumes(folder.path());
        let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
        self.interrupt_until_done(&killed, duration);
        assert_same(&whole, &killed, "killed and resumed");
    }

    /// The same seed gives the same bits, whole and in parts; returns how long the whole took.
    pub(crate) fn a_smoke_run_repeats_and_resumes(&self, folder: &Path) -> Duration {
        let [whole, parts] = ["whole", "parts"].map(|name| folder.join(name));
        let clock = Instant::now();
        let numbers = self.summary(&smoke(&whole, 2));
        let duration = clock.elapsed();
        check_summary(&numbers, &whole);
        check_folder(&whole);
        plays_again(&whole);

        assert_eq!(self.summary(&smoke(&parts, 1))["steps"], 1);
        assert!(
            first_difference(&whole, &parts).unwrap().is_some(),
            "one step and two steps are the same"
        );
        assert_eq!(self.summary(&resume(&parts, 2))["steps"], 2);
        assert_same(&whole, &parts, "1 step and 1 resumed");
        duration
    }

    /// What `--print-config` prints is what `--config` reads, under every preset; it starts no run.
    pub(crate) fn what_is_printed_is_read_back(&self) {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("printed.toml"), folder.path().join("runs"));
        let print = |args: &[&str]| {
            let args = [&["--print-config"], args].concat();
            let output = self.command().args(&args).current_dir(folder.path()).output().unwrap();
            let (out, err) = texts(&output);
            assert!(output.status.success() && !out.contains("summary"), "{args:?}: {err}");
            out
        };
        let mut texts = Vec::new();
        for preset in ["small", "paper", "official"] {
            let text = print(&["--preset", preset, "--seed", "7"]);
            assert!(text.contains("seed = 7\n"), "{text}");
            std::fs::write(&file, &text).unwrap();
            assert_eq!(print(&["--config", file.to_str().unwrap()]), text);
            texts.push(text);
        }
        assert!(texts[0] != texts[1] && texts[1] != texts[2]);
        assert!(print(&["--smoke"]).contains("steps = 2\n"));
        let none = print(&["--entropy", "none"]);
        assert!(none.contains("kind = \"none\"") && !none.contains("\nalpha"), "{none}");
        assert!(print(&["--entropy", "adaptive"]).contains("target = 0.2"));
        assert!(!out.exists(), "printing settings made a folder");
    }

    /// Kills one run while it clones, evaluates, and learns; then Ctrl-C, answered by saving; then
    /// lets it end.
    fn interrupt_until_done(&self, dir: &Path, duration: Duration) {
        let mut args = smoke(dir, 2);
        for (signal, phase) in
            [("KILL", "clone"), ("KILL", "eval"), ("KILL", "rl"), ("INT", "eval")]
        {
            let mut command = self.command();
            let mut child =
                command.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait_for_phase(dir, phase, duration * 10);
            if signal == "INT" {
                // A resumed run has its lines before it listens to signals.
                std::thread::sleep(duration / 5);
            }
            let started = children(child.id());
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.success(), signal == "INT", "{signal} in phase {phase}: {status}");
            assert_gone(&started);
            args = resume(dir, 2);
        }
        assert_eq!(self.summary(&args)["steps"], 2);
    }

    /// The standard error of a call that must fail.
    pub(crate) fn refusal(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().unwrap();
        let (out, err) = texts(&output);
        let code = output.status.code();
        assert!(code == Some(2) && out.is_empty(), "{args:?} ended with {code:?}: {out}{err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
        assert!(err.lines().count() <= 8, "{args:?}: more than one message: {err}");
        err
    }

    /// `--help` names the options of every training example.
    pub(crate) fn help_names_every_option(&self) {
        let output = self.command().arg("--help").output().unwrap();
        let (out, _) = texts(&output);
        assert!(output.status.success());
        let all =
            ["--seed", "--steps", "--out", "--resume", "--config", "--preset", "--print-config"];
        let others =
            ["--entropy", "--actions", "--model", "--lora", "--dtype", "--device", "--smoke"];
        for option in all.iter().chain(&others) {
            assert!(out.contains(option), "{option} is missing: {out}");
        }
    }

    /// Arguments that no training example takes.
    pub(crate) fn bad_arguments_are_refused_by_name(&self) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        assert!(self.refusal(&["--frobnicate"]).contains("--frobnicate"));
        assert!(self.refusal(&["--entropy", "maybe"]).contains("epo-official"));
        assert!(self.refusal(&["--actions", "any"]).contains("free"));
        assert!(self.refusal(&["--preset", "large"]).contains("official"));
        assert!(self.refusal(&["--preset", "paper", "--smoke"]).contains("--smoke"));
        assert!(self.refusal(&["--lora", "4"]).contains("setting `model.lora."));
        assert!(self.refusal(&["--resume", dir, "--seed", "1"]).contains("--resume takes only"));
        assert!(self.refusal(&["--print-config", "--out", dir]).contains("--out"));
        let error = self.refusal(&["--resume", dir]);
        assert!(error.contains(dir) && error.contains("there is no run in this folder"), "{error}");
        let out = format!("{dir}/new");
        assert!(self
            .refusal(&["--out", &out, "--model", &format!("{dir}/absent")])
            .contains("absent"));
        assert!(self.refusal(&["--out", &out, "--model", dir]).contains("has no config.json"));
        if cfg!(not(feature = "cuda")) {
            assert!(self
                .refusal(&["--out", &out, "--device", "cuda"])
                .contains("`model.device` = cuda"));
        }
        assert!(!folder.path().join("new").exists(), "a refused run leaves no folder");
        let error = self.refusal(&["--config", &format!("{dir}/absent.toml")]);
        assert!(error.contains("absent.toml"), "{error}");
    }

    /// Each configuration is refused with its reason, before a folder is made.
    pub(crate) fn bad_settings_are_refused(&self, settings: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("bad.toml"), folder.path().join("run"));
        for (text, named) in settings {
            std::fs::write(&file, text).unwrap();
            let error =
                self.refusal(&["--config", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
            assert!(error.contains(named), "{text:?}: {error}");
            assert!(!out.exists(), "{text:?} left a folder");
        }
    }
}

/// Arguments of a smoke run in `dir`.
fn smoke(dir: &Path, steps: u32) -> Vec<String> {
    let [dir, steps] = [dir.display().to_string(), steps.to_string()];
    ["--smoke", "--dump", "--seed", "5", "--steps", &steps, "--out", &dir]
        .map(String::from)
        .to_vec()
}

/// Arguments that continue the run in `dir`.
fn resume(dir: &Path, steps: u32) -> Vec<String> {
    let [dir, steps] = [dir.display().to_string(), steps.to_string()];
    ["--resume", &dir, "--steps", &steps].map(String::from).to_vec()
}

fn texts(output: &Output) -> (String, String) {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (out, err)
}

/// Requires the same metrics (times left out) and the same learned bits.
fn assert_same(a: &Path, b: &Path, what: &str) {
    assert_eq!(first_difference(a, b).unwrap(), None, "{what}");
    let [a, b] = [a, b].map(|dir| Checkpoint::latest(dir).unwrap().checkpoint.unwrap());
    assert_eq!(a.step(), b.step(), "{what}");
    let critic = ["critic.safetensors", "critic_optimizer.safetensors"];
    let critic = critic.into_iter().filter(|name| a.file(name).is_ok());
    for name in ["model.safetensors", "optimizer.safetensors", "entropy.json", "state.json"]
        .into_iter()
        .chain(critic)
    {
        let [a, b] =
            [&a, &b].map(|checkpoint| std::fs::read(checkpoint.file(name).unwrap()).unwrap());
        assert!(a == b, "{what}: {name} differs");
    }
}

fn check_summary(numbers: &serde_json::Map<String, serde_json::Value>, dir: &Path) {
    assert_eq!((&numbers["steps"], &numbers["out"]), (&2.into(), &dir.to_str().unwrap().into()));
    let shares = ["success_before", "success_after"].map(|key| (key, 0.0..=1.0));
    let scores = ["score_before", "score_after"].map(|key| (key, 0.0..=100.0));
    let rates = [
        "seconds",
        "tokens_per_second",
        "sampled_tokens_per_second",
        "read_tokens_per_second",
        "trained_tokens_per_second",
        "env_steps_per_second",
    ];
    let rates = rates.map(|key| (key, 1e-3..=1e9));
    for (key, range) in shares.into_iter().chain(scores).chain(rates) {
        let value = numbers[key].as_f64().unwrap_or(f64::NAN);
        assert!(range.contains(&value), "{key} = {}", numbers[key]);
    }
}

/// `replay --check` finds no difference in any recorded episode.
fn plays_again(dir: &Path) {
    let output = Example("replay").command().arg(dir).arg("--check").output().unwrap();
    let (out, err) = texts(&output);
    assert!(
        output.status.success() && out.contains(" played again, 0 of them differ"),
        "{out}{err}"
    );
}

fn check_folder(dir: &Path) {
    for name in
        ["config.toml", "metrics.jsonl", "report.html", "tensorboard/rl", "checkpoints/step-000002"]
    {
        assert!(dir.join(name).exists(), "{name} is missing");
    }
    let events: Vec<PathBuf> =
        std::fs::read_dir(dir.join("tensorboard/rl")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(events.iter().any(|path| path.to_string_lossy().contains("tfevents")), "{events:?}");
    let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    for phase in ["clone", "eval", "rl"] {
        assert!(metrics.contains(&format!("\"phase\":\"{phase}\"")), "no line of phase {phase}");
    }
    assert!(std::fs::read_to_string(dir.join("report.html")).unwrap().contains("</html>"));
}

/// Waits until the metrics have a line of the phase.
fn wait_for_phase(dir: &Path, phase: &str, limit: Duration) {
    let (clock, line) = (Instant::now(), format!("\"phase\":\"{phase}\""));
    let metrics = || std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    while !metrics().contains(&line) {
        assert!(clock.elapsed() < limit, "no line of phase {phase} in {}", dir.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes whose parent is `parent`; none where there is no /proc.
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| state(pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// State letter and parent of a process.
fn state(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// A simulator must not outlive the trainer that started it.
fn assert_gone(pids: &[u32]) {
    let limit = Instant::now() + Duration::from_secs(20);
    let alive = |pid: &u32| state(*pid).is_some_and(|(letter, _)| letter != "Z");
    while pids.iter().any(alive) {
        assert!(Instant::now() < limit, "of {pids:?} some outlived their parent");
        std::thread::sleep(Duration::from_millis(50));
    }
}
