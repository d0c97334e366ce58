//! Files of the Hugging Face Hub, through its local cache.

use crate::{Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::Progress;
use hf_hub::{Cache, Repo, RepoType};
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

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Hub {
    /// The main branch of a repository, with the settings of the environment that Python's client
    /// reads as well: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the stored token,
    /// and `HF_HUB_OFFLINE`. Downloads are aborted after 30 seconds without progress.
    pub fn new(repo: impl Into<String>) -> Self {
        let cache =
            variable("HF_HUB_CACHE").map_or_else(Cache::from_env, |dir| Cache::new(dir.into()));
        let offline = variable("HF_HUB_OFFLINE").map(|value| value.to_lowercase());
        Self {
            repo: repo.into(),
            revision: "main".to_owned(),
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: variable("HF_TOKEN").or_else(|| Cache::from_env().token()),
            cache_dir: cache.path().clone(),
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
        let cached = Cache::new(self.cache_dir.clone()).repo(self.repository()).get(file);
        if cached.is_some() || self.offline {
            return Ok(cached);
        }
        self.download(file)
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
