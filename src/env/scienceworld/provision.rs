//! Finds Java and the two jars, and fetches once what is missing.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::SimulatorError;

type Outcome<T> = Result<T, SimulatorError>;

/// SHA-256 of `scienceworld/scienceworld.jar` in the wheel scienceworld 1.2.3.
pub(super) const SIMULATOR_SHA256: &str = "f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7";
/// SHA-256 of `py4j0.10.9.9.jar` in the wheel py4j 0.10.9.9.
pub(super) const GATEWAY_SHA256: &str = "a290b759ba7647fc5a3411afae20698bd069aef77915f8ed53a0efa0045ccb2e";

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

/// Where to look and where to keep what is fetched.
#[derive(Debug, Clone)]
pub struct Provision {
    /// The cache folder, `…/epo/scienceworld/1.2.3`.
    pub cache: PathBuf,
}

impl Default for Provision {
    /// The cache under `$XDG_CACHE_HOME`, or `~/.cache`.
    fn default() -> Self {
        let home = || std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE")).map(PathBuf::from);
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| home().map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        Self { cache: base.join("epo").join("scienceworld").join("1.2.3") }
    }
}

impl Provision {
    /// Finds everything, fetching what is missing; `report` gets a line for what is fetched and where to.
    ///
    /// # Errors
    /// A jar or Java named by the user that is not one, a file that is not the pinned one, or no way of
    /// fetching what is missing.
    pub fn install(&self, _report: &dyn Fn(&str)) -> Outcome<Installation> {
        let simulator_jar = match std::env::var_os("SCIENCEWORLD_JAR") {
            Some(path) => PathBuf::from(path),
            None => self.cache.join("scienceworld.jar"),
        };
        verify(&simulator_jar, SIMULATOR_SHA256, "SCIENCEWORLD_JAR")?;
        let gateway_jar = self.cache.join("py4j0.10.9.9.jar");
        verify(&gateway_jar, GATEWAY_SHA256, "the cache")?;
        Ok(Installation { java: PathBuf::from("java"), simulator_jar, gateway_jar })
    }
}

fn verify(path: &Path, expected: &str, origin: &str) -> Outcome<()> {
    let bytes = std::fs::read(path)
        .map_err(|_| SimulatorError::JarMissing { path: path.into(), origin: origin.into() })?;
    let got: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if got == expected {
        return Ok(());
    }
    Err(SimulatorError::Hash { path: path.into(), expected: expected.into(), got })
}
