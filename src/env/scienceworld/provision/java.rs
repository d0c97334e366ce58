//! The check that a program really is a Java runtime.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The first release with every method that is called (`ClassLoader.getPlatformClassLoader`).
const OLDEST: u32 = 9;
const LIMIT: Duration = Duration::from_secs(30);

/// Variables that change what a Java program does: further flags, and another class path.
const JAVA_OPTIONS: [&str; 6] = [
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "OPENJ9_JAVA_OPTIONS",
    "IBM_JAVA_OPTIONS",
    "CLASSPATH",
];

/// A command that runs `java` in the same locale on every machine and without the user's variables
/// for Java: a collector or a flag in them can stop the process or change its texts.
pub(crate) fn without_java_options(java: &Path) -> Command {
    let mut command = Command::new(java);
    for name in JAVA_OPTIONS {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// Names the variables of [`without_java_options`] that are set.
pub(crate) fn ignored_variables() -> Vec<&'static str> {
    JAVA_OPTIONS.into_iter().filter(|name| std::env::var_os(name).is_some()).collect()
}

/// Returns true if Java starts from this path. It cannot load its own libraries from a folder
/// whose name contains the separator of paths or is not UTF-8.
pub(crate) fn starts_in(path: &Path) -> bool {
    let separator = if cfg!(windows) { ';' } else { ':' };
    path.to_str().is_some_and(|text| !text.contains(separator))
}

/// Runs `java -version`: a file of that name may be a stub that only offers to install Java.
///
/// # Errors
/// The reason why `java` is of no use.
pub(crate) fn check(java: &Path) -> Result<(), String> {
    let real = java.canonicalize().unwrap_or_else(|_| java.to_owned());
    if !starts_in(&real) {
        return Err("Java does not start from a path with `:` or bytes that are not UTF-8".into());
    }
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
    let mut command = without_java_options(java);
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
    fn a_path_from_which_java_does_not_start_is_named_and_variables_for_java_are_removed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str| {
            let bin = folder.path().join(name);
            std::fs::create_dir_all(&bin).unwrap();
            let java = bin.join("java");
            std::fs::write(&java, "#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n").unwrap();
            std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
            java
        };
        assert_eq!(check(&script("é 🦀")), Ok(()));
        let error = check(&script("a:b")).unwrap_err();
        assert!(error.contains("`:`"), "{error}");
        let command = without_java_options(Path::new("java"));
        let removed = command.get_envs().filter(|(_, value)| value.is_none());
        let removed: Vec<_> = removed.map(|(name, _)| name.to_owned()).collect();
        assert!(JAVA_OPTIONS.iter().all(|name| removed.iter().any(|other| other == name)));
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
