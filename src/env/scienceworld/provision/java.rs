//! The check that a program really is a Java runtime.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The first release with every method that is called (`ClassLoader.getPlatformClassLoader`).
const OLDEST: u32 = 9;
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `java -version`: a file of that name may be a stub that only offers to install Java.
///
/// # Errors
/// The reason why `java` is of no use.
pub(crate) fn check(java: &Path) -> Result<(), String> {
    let output = version_output(java, LIMIT).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    match major_version(&text) {
        Some(major) if output.status.success() && major >= OLDEST => Ok(()),
        Some(major) => Err(format!("Java {major}, need {OLDEST} or newer")),
        None => Err(format!("not Java ({})", text.lines().next().unwrap_or("no output"))),
    }
}

/// Runs `java -version` and kills it at the time limit. The version is on standard error.
fn version_output(java: &Path, limit: Duration) -> io::Result<Output> {
    let mut command = Command::new(java);
    command.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            let reason = format!("still running after {limit:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output()
}

/// Reads the major number in `… version "17.0.15" …`, or the second number of `"1.8.0"`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split("version \"").nth(1)?.split('"').next()?;
    let mut numbers = version.split(['.', '-', '_', '+']).map(|number| number.parse().ok());
    match numbers.next()?? {
        1 => numbers.next().flatten(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_releases_are_read() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15\n"), Some(17));
        assert_eq!(major_version("java version \"1.8.0_401\"\n"), Some(8));
        assert_eq!(major_version("openjdk version \"25\" 2025\n"), Some(25));
        assert_eq!(major_version("openjdk version \"24-ea\" 2025\n"), Some(24));
        assert_eq!(major_version("No Java runtime present\n"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_does_not_end_is_killed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let java = folder.path().join("java");
        std::fs::write(&java, "#!/bin/sh\nexec sleep 30\n").unwrap();
        std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
        let started = Instant::now();
        let error = version_output(&java, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
