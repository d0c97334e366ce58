//! Files of the Hugging Face Hub, through its local cache.

use crate::{Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::Progress;
use hf_hub::{Cache, Repo, RepoType};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

/// A repository on the Hugging Face Hub.
///
/// Files are cached in the layout that Python's client uses. A cached file is used without
/// contacting the Hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit. A branch is resolved once per cache; name a commit to make runs
    /// reproducible.
    pub revision: String,
    /// Address of the Hub.
    pub endpoint: String,
    /// Cache folder.
    pub cache_dir: PathBuf,
    /// Access token for private and gated repositories.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// Longest time without progress before a download is aborted.
    pub patience: Duration,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("repo", &self.repo)
            .field("revision", &self.revision)
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("offline", &self.offline)
            .field("patience", &self.patience)
            .finish()
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    let text = variable(name)?.into_string().ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The folders of Python's client.
struct Places {
    /// Downloaded files; `None` if neither a variable nor a home folder says where.
    cache: Option<PathBuf>,
    /// The file with the stored token.
    token: Option<PathBuf>,
}

impl Places {
    /// The places that the environment's variables name, with the user's home folder as default.
    fn new(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let home = home.filter(|home| !home.as_os_str().is_empty());
        let named = |name: &str| {
            let path = PathBuf::from(variable(name)?);
            let path = match (path.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => path,
            };
            Some(std::path::absolute(&path).unwrap_or(path))
        };
        let user = || Some(home.as_ref()?.join(".cache"));
        let folder = named("HF_HOME")
            .or_else(|| Some(named("XDG_CACHE_HOME").or_else(user)?.join("huggingface")));
        let inner = |name: &str| Some(folder.as_ref()?.join(name));
        let cache = named("HF_HUB_CACHE").or_else(|| named("HUGGINGFACE_HUB_CACHE"));
        Self {
            cache: cache.or_else(|| inner("hub")),
            token: named("HF_TOKEN_PATH").or_else(|| inner("token")),
        }
    }

    fn stored_token(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.token.as_ref()?).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

impl Hub {
    /// The main branch of a repository, with the settings of the environment that Python's client
    /// reads as well: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the stored token,
    /// and `HF_HUB_OFFLINE`. Downloads are aborted after 30 seconds without progress.
    ///
    /// Without these variables and without a home folder, [`Hub::cache_dir`] is empty, which is
    /// reported when a file is needed.
    pub fn new(repo: impl Into<String>) -> Self {
        let places = Places::new(variable, std::env::home_dir());
        let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
        let offline = offline.map(|value| value.to_lowercase());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            repo: repo.into(),
            revision: "main".to_owned(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN").or_else(|| places.stored_token()),
            cache_dir: places.cache.unwrap_or_default(),
            offline: offline
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.as_str())),
            patience: Duration::from_secs(30),
        }
    }

    /// Returns true if `name` has the form `owner/name`.
    pub(crate) fn is_repository_name(name: &str) -> bool {
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
        };
        name.split('/').count() == 2 && name.split('/').all(part)
    }

    /// Returns the local copy of a file, downloading it if needed; `None` if the repository
    /// (offline: the cache) has no such file.
    pub(crate) fn get(&self, file: &str) -> Result<Option<PathBuf>> {
        if !Self::is_repository_name(&self.repo) {
            return Err(self.error(file, "a repository name has the form owner/name"));
        }
        if self.cache_dir.as_os_str().is_empty() {
            let reason = "there is no folder for downloads: set HF_HOME or HF_HUB_CACHE to one \
                (this user has no home folder)";
            return Err(self.error(file, reason));
        }
        let cached = self.cached(file);
        if cached.is_some() || self.offline {
            return Ok(cached);
        }
        self.download(file)
    }

    /// The path of a file in the cache. The file of a branch holds its commit, which other tools
    /// write with a line end.
    fn cached(&self, file: &str) -> Option<PathBuf> {
        let folder = self.cache_dir.join(self.repository().folder_name());
        let branch = std::fs::read_to_string(folder.join("refs").join(&self.revision));
        let branch = branch.unwrap_or_default();
        let commit = match branch.trim() {
            "" => &self.revision,
            commit => commit,
        };
        let path = folder.join("snapshots").join(commit).join(file);
        path.is_file().then_some(path)
    }

    /// The error for a required file that does not exist.
    pub(crate) fn missing(&self, file: &str) -> Error {
        let reason = if self.offline {
            format!("offline, and not in the cache {}", self.cache_dir.display())
        } else {
            "there is no such file or repository".to_owned()
        };
        self.error(file, reason)
    }

    fn repository(&self) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, self.revision.clone())
    }

    fn error(&self, file: &str, reason: impl Into<String>) -> Error {
        Error::Hub {
            repo: format!("{} at {}", self.repo, self.revision),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            reason: reason.into(),
        }
    }

    /// Downloads on a separate thread and abandons it after [`Hub::patience`] without progress:
    /// hf-hub's client has no timeout.
    fn download(&self, file: &str) -> Result<Option<PathBuf>> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache_dir.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .build()
            .map_err(|e| self.error(file, e.to_string()))?;
        let (arrived, result) = start(api.repo(self.repository()), file);
        let mut seen = 0;
        loop {
            match result.recv_timeout(self.patience) {
                Ok(Ok(path)) => return Ok(Some(path)),
                Ok(Err(e)) if status(&e) == Some(404) => return Ok(None),
                Ok(Err(e)) => return Err(self.error(file, explained(&e))),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.error(file, "the server does not answer as the Hub does"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let now = arrived.load(Ordering::Relaxed);
                    if now == seen {
                        let waited = format!("nothing arrived for {:?}", self.patience);
                        return Err(self.error(file, format!("{waited}, after {now} bytes")));
                    }
                    seen = now;
                }
            }
        }
    }
}

type Downloaded = Result<PathBuf, ApiError>;

/// Starts a download; returns its byte counter and the channel of its result.
fn start(repo: ApiRepo, file: &str) -> (Arc<AtomicU64>, mpsc::Receiver<Downloaded>) {
    let arrived = Arc::new(AtomicU64::new(0));
    let (sender, result) = mpsc::channel();
    let file = file.to_owned();
    let counter = Counter(arrived.clone());
    std::thread::spawn(move || {
        // The receiver is gone if the download was abandoned.
        let _ = sender.send(repo.download_with_progress(&file, counter));
    });
    (arrived, result)
}

/// Byte counter of a download.
struct Counter(Arc<AtomicU64>);

impl Progress for Counter {
    fn init(&mut self, _: usize, _: &str) {}

    fn update(&mut self, size: usize) {
        self.0.fetch_add(size as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {}
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(e) => match **e {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

fn explained(error: &ApiError) -> String {
    match status(error) {
        Some(401 | 403) => {
            format!("{error}: the repository is private, gated or misspelt; a token may help")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_cache_and_the_token() {
        let places = |variables: &[(&str, &str)], home: Option<&str>| {
            let find = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value)).filter(|value| !value.is_empty())
            };
            let Places { cache, token } = Places::new(find, home.map(PathBuf::from));
            let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
            (text(cache), text(token))
        };
        let both = |a: &str, b: &str| (Some(a.to_owned()), Some(b.to_owned()));
        let default = both("/u/.cache/huggingface/hub", "/u/.cache/huggingface/token");
        assert_eq!(places(&[], Some("/u")), default);
        assert_eq!(places(&[("HF_HOME", "")], Some("/u")), default);
        assert_eq!(places(&[], None), (None, None));
        assert_eq!(places(&[], Some("")), (None, None));
        assert_eq!(places(&[("HF_HUB_CACHE", "/c")], None), (Some("/c".to_owned()), None));
        assert_eq!(places(&[("HF_HOME", "/h")], None), both("/h/hub", "/h/token"));
        assert_eq!(
            places(&[("XDG_CACHE_HOME", "/x")], Some("/u")),
            both("/x/huggingface/hub", "/x/huggingface/token")
        );
        assert_eq!(places(&[("HF_HOME", "~/h")], Some("/u")), both("/u/h/hub", "/u/h/token"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let name = OsString::from_vec(b"/h\xff".to_vec());
            let cache = Places::new(|key| (key == "HF_HOME").then(|| name.clone()), None).cache;
            assert_eq!(cache, Some(PathBuf::from(&name).join("hub")));
        }
        let here = std::env::current_dir().unwrap();
        let relative = here.join("h").display().to_string();
        assert_eq!(
            places(&[("HF_HOME", "h")], None),
            both(&format!("{relative}/hub"), &format!("{relative}/token"))
        );
    }
}
