//! The private working folder of a simulator process, and copies of jars that Java can open.
//!
//! The simulator writes a file to the folder in which it runs. Java opens files by names that it
//! decodes with the locale and encodes again, so some names do not survive: bytes that are not
//! UTF-8, on some releases emoji, and in a class path the separator. The folder therefore has a
//! plain name, and jars elsewhere are copied into it.
//!
//! A killed trainer leaves its folder behind. Each folder names the process that owns it, and the
//! next start removes the folders of processes that are gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The start of the folders' names.
const PREFIX: &str = "epo-scienceworld-";
/// The file that names the owner of a folder.
const OWNER: &str = "owner";

/// A private working folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Creates a folder below the system's temporary folder, and removes those of processes that
    /// are gone.
    ///
    /// # Errors
    /// The folder that cannot be written, with the variable that chooses it and the reason.
    pub(crate) fn new() -> Result<Self, String> {
        let root = root()?;
        let folder = Self::within(&root).map_err(|error| {
            format!("no working folder in {} (TMPDIR): {error}", root.display())
        })?;
        remove_abandoned(&root, &folder.0);
        Ok(folder)
    }

    fn within(root: &Path) -> std::io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let nanos =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let path = root.join(format!("{PREFIX}{}-{number}-{nanos:x}", std::process::id()));
        create_private(&path)?;
        let folder = Self(path);
        // Writing and syncing also finds a disk without space before the simulator does.
        let mut owner = std::fs::File::create(folder.0.join(OWNER))?;
        owner.write_all(this_process().unwrap_or_default().as_bytes())?;
        owner.sync_all()?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns a path under which Java can open `jar`: its own, or that of a copy called `name`.
    ///
    /// # Errors
    /// The file that cannot be copied, and the reason.
    pub(crate) fn readable(&self, jar: &Path, name: &str) -> Result<PathBuf, String> {
        if opens(jar) {
            return Ok(jar.to_owned());
        }
        let copy = self.0.join(name);
        match std::fs::copy(jar, &copy) {
            Ok(_) => Ok(copy),
            Err(error) => {
                Err(format!("cannot copy {} to {}: {error}", jar.display(), copy.display()))
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Creates a folder that only this user can enter.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns the temporary folder, or a usual one if Java cannot run in a folder of that name.
fn root() -> Result<PathBuf, String> {
    let chosen = std::env::temp_dir();
    let usual = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    let chosen = if chosen.as_os_str().is_empty() { usual[0].clone() } else { chosen };
    let chosen = std::path::absolute(&chosen).unwrap_or(chosen);
    if opens(&chosen) || cfg!(windows) {
        return Ok(chosen);
    }
    usual.into_iter().find(|folder| is_writable(folder)).ok_or_else(|| {
        format!(
            "TMPDIR = {}: Java does not run in a folder of this name, and neither /tmp, /var/tmp \
             nor /dev/shm can be written; use only ASCII characters except `:`",
            chosen.display()
        )
    })
}

fn is_writable(folder: &Path) -> bool {
    Folder::within(folder).is_ok()
}

/// Returns true if Java opens this path whatever the locale. Java follows links itself, so the path
/// that they lead to counts too.
fn opens(path: &Path) -> bool {
    is_plain(path) && path.canonicalize().map_or(true, |real| is_plain(&real) || cfg!(windows))
}

/// Returns true for ASCII without control characters and without the separator of class paths.
fn is_plain(path: &Path) -> bool {
    let separator = if cfg!(windows) { ';' } else { ':' };
    let plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != separator;
    path.to_str().is_some_and(|text| text.chars().all(plain))
}

/// Removes the folders in `root` whose owner, a process of this user, is gone. `own` is a folder
/// of this process.
fn remove_abandoned(root: &Path, own: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if named && has_same_user(&path, own) && is_abandoned(&path) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Returns true if `path` is a folder, no link, of the user to whom `own` belongs.
#[cfg(unix)]
fn has_same_user(path: &Path, own: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let [found, mine] = [path, own].map(std::fs::symlink_metadata);
    let (Ok(found), Ok(mine)) = (found, mine) else { return false };
    found.is_dir() && found.uid() == mine.uid()
}

#[cfg(not(unix))]
fn has_same_user(path: &Path, _own: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Returns true if the process that owns a folder ran on this machine and has ended.
fn is_abandoned(folder: &Path) -> bool {
    let owner = std::fs::read_to_string(folder.join(OWNER)).unwrap_or_default();
    let [Some(pid), Some(started), Some(place)] = fields(&owner) else { return false };
    let here = this_process().unwrap_or_default();
    place == fields(&here)[2].unwrap_or_default() && start_of(pid).as_deref() != Some(started)
}

/// Describes this process: its number, its start, and the boot and namespace that number it. `None`
/// on systems without `/proc`, where nothing is removed.
fn this_process() -> Option<String> {
    let pid = std::process::id().to_string();
    let started = start_of(&pid)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{pid} {started} {}/{}", boot.trim(), namespace.display()))
}

fn fields(owner: &str) -> [Option<&str>; 3] {
    let mut words = owner.split_whitespace();
    [words.next(), words.next(), words.next()]
}

/// Returns the time at which a live process started, in the kernel's ticks.
fn start_of(pid: &str) -> Option<String> {
    pid.parse::<u32>().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the state and 18 numbers follow.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?;
    (!["Z", "X"].contains(&state)).then(|| started.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_survive_every_locale() {
        for plain in ["/tmp/a b", "/tmp/#%!+;,*'", "x.jar"] {
            assert_eq!(is_plain(Path::new(plain)), !(cfg!(windows) && plain.contains(';')));
        }
        for odd in ["/tmp/caché", "/tmp/🦀", "/tmp/a\nb"] {
            assert!(!is_plain(Path::new(odd)), "{odd}");
        }
        assert_eq!(is_plain(Path::new("/tmp/a:b")), cfg!(windows));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert!(!is_plain(Path::new(std::ffi::OsStr::from_bytes(b"/tmp/x\xe9"))));
        }
    }

    #[test]
    fn a_jar_with_another_name_is_copied() {
        let elsewhere = tempfile::tempdir().unwrap();
        let folder = Folder::within(elsewhere.path()).unwrap();
        let plain = elsewhere.path().join("a.jar");
        let odd = elsewhere.path().join("a:é🦀.jar");
        std::fs::write(&odd, b"jar").unwrap();
        assert_eq!(folder.readable(&plain, "b.jar").unwrap(), plain);
        let copy = folder.readable(&odd, "b.jar").unwrap();
        assert_eq!(
            (copy.parent(), std::fs::read(&copy).unwrap()),
            (Some(folder.path()), b"jar".into())
        );
        #[cfg(unix)]
        {
            let link = elsewhere.path().join("link.jar");
            std::os::unix::fs::symlink(&odd, &link).unwrap();
            assert_eq!(folder.readable(&link, "b.jar").unwrap(), copy, "Java follows links");
        }
        let error = folder.readable(&elsewhere.path().join("é"), "c.jar").unwrap_err();
        assert!(error.contains("é"), "{error}");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_folders_of_processes_that_are_gone_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let own = Folder::within(root.path()).unwrap();
        let here = this_process().unwrap();
        let [Some(pid), Some(started), Some(place)] = fields(&here) else { panic!("{here}") };
        let other = |name: &str, owner: Option<String>| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("file"), "").unwrap();
            if let Some(owner) = owner {
                std::fs::write(path.join(OWNER), owner).unwrap();
            }
            path
        };
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let ended_pid = ended.id();
        ended.wait().unwrap();
        let kept = [
            other("epo-scienceworld-live", Some(here.clone())),
            other("epo-scienceworld-elsewhere", Some(format!("{ended_pid} 1 other-boot/pid:[1]"))),
            other("epo-scienceworld-unknown", None),
            other("epo-scienceworld-garbage", Some("../.. x y".into())),
            other("someone-else", Some(format!("{ended_pid} 1 {place}"))),
        ];
        let gone = [
            other("epo-scienceworld-ended", Some(format!("{ended_pid} 1 {place}"))),
            other("epo-scienceworld-reused", Some(format!("{pid} {started}0 {place}"))),
        ];
        let link = root.path().join("epo-scienceworld-link");
        std::os::unix::fs::symlink(&kept[4], &link).unwrap();
        remove_abandoned(root.path(), own.path());
        assert!(kept.iter().all(|path| path.join("file").exists()));
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(link.exists() && own.path().exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(Folder::within(&root.path().join("missing")).is_err());
    }
}
