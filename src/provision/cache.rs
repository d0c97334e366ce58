//! The folder of the cache, a private one for machines without a home folder, and the commands
//! that fill it by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Returns the folder `epo/<name>` of this user's cache, or of the private folder if there is no
/// home folder.
pub(crate) fn epo_folder(name: impl AsRef<Path>) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    cache_folder(variable).unwrap_or_else(private_folder).join("epo").join(name)
}

/// The reason of a failed download, with the commands that put the wheels of `requirements` into
/// `folder`; each is the end of one command.
pub(crate) fn by_hand(reason: &str, folder: &Path, requirements: &[String]) -> String {
    let mut text = format!(
        "{reason}\n\
         XDG_CACHE_HOME names another folder for the cache\n\
         to install by hand, on a machine with network access:"
    );
    for wheels in requirements {
        text += "\n  python3 -m pip download --no-deps --only-binary=:all: ";
        text += &format!("-d \"{}\" {wheels}", folder.display());
    }
    text
}

/// Returns the folder of all caches of this user: `XDG_CACHE_HOME`, or `.cache` in the home folder.
/// Relative paths are ignored, as the XDG specification demands.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let known = || std::env::home_dir().filter(|home| home.is_absolute());
    let home = || absolute("HOME").or_else(|| absolute("USERPROFILE")).or_else(known);
    absolute("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
}

/// Returns the path of a folder of this user in the temporary folder.
pub(crate) fn private_folder() -> PathBuf {
    std::env::temp_dir().join(format!("epo-cache-{}", user()))
}

#[cfg(unix)]
fn user() -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or_else(|_| "user".into(), |own| own.uid().to_string())
}

#[cfg(not(unix))]
fn user() -> String {
    "user".into()
}

/// Creates a folder that only this user can enter, or checks that it is one: in the temporary
/// folder anybody could have made it first.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a folder that others can change.
pub(crate) fn make_private(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(|e| Error::io(folder, e)),
    }
    if is_private(folder).map_err(|e| Error::io(folder, e))? {
        return Ok(());
    }
    let reason = "is not a folder of this user alone, and there is no home folder: set HOME or \
                  XDG_CACHE_HOME to an absolute path";
    Err(Error::file(folder, "permissions", reason))
}

/// Returns true if `path` is a folder, no link, that this user owns and nobody else can enter.
#[cfg(unix)]
fn is_private(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() || found.mode() & 0o077 != 0 {
        return Ok(false);
    }
    // A new file belongs to this user.
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let created = std::fs::File::create(&probe).and_then(|file| file.metadata());
    let _ = std::fs::remove_file(&probe);
    Ok(created.is_ok_and(|own| own.uid() == found.uid()))
}

#[cfg(not(unix))]
fn is_private(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_and_empty_folders_are_ignored() {
        let folder = |pairs: &[(&str, &str)]| {
            let found = |name: &str| pairs.iter().find(|(known, _)| *known == name);
            cache_folder(|name| found(name).map(|(_, value)| value.into()))
        };
        let root = if cfg!(windows) { "C:\\" } else { "/" };
        let [cache, home] = ["c", "h"].map(|name| format!("{root}{name}"));
        let in_home = Some(Path::new(&home).join(".cache"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", &cache), ("HOME", &home)]), Some(cache.into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "c"), ("HOME", &home)]), in_home);
        assert_eq!(folder(&[("HOME", "h"), ("USERPROFILE", &home)]), in_home);
        let unknown = folder(&[("XDG_CACHE_HOME", ""), ("HOME", "")]);
        assert!(unknown.is_none_or(|folder| folder.is_absolute()));
    }

    #[cfg(unix)]
    #[test]
    fn a_private_folder_is_neither_open_to_others_nor_a_link() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("private");
        make_private(&folder).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        make_private(&folder).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        for refused in [&folder, &link] {
            let error = make_private(refused).unwrap_err().to_string();
            assert!(error.contains("XDG_CACHE_HOME"), "{error}");
        }
    }
}
