//! The user's Python package index, read over HTTPS in its JSON form (PEP 691).
//!
//! The JSON page of a project lists the SHA-256 of every file. That hash identifies a pinned file,
//! so no file name has to be built or parsed. Every wait has a time limit.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

use crate::provision::scratch::{copy, CopyError};

const DEFAULT_INDEX: &str = "https://pypi.org/simple";
const JSON: &str = "application/vnd.pypi.simple.v1+json";
/// The largest project page that is read, in bytes.
const PAGE_LIMIT: u64 = 64 << 20;

/// A package index and its time limits.
#[derive(Debug, Clone)]
pub(crate) struct PackageIndex {
    /// The base address; the page of a project is `<url>/<project>/`.
    pub(crate) url: String,
    /// The longest wait for a connection, a response or the next bytes.
    pub(crate) silence: Duration,
    /// The longest time for one request.
    pub(crate) limit: Duration,
}

impl Default for PackageIndex {
    /// The index in `PIP_INDEX_URL`, or else the public one.
    fn default() -> Self {
        let configured = std::env::var("PIP_INDEX_URL").ok().filter(|url| !url.trim().is_empty());
        Self {
            url: configured.unwrap_or_else(|| DEFAULT_INDEX.into()),
            silence: Duration::from_secs(20),
            limit: Duration::from_secs(600),
        }
    }
}

#[derive(serde::Deserialize)]
struct Page {
    files: Vec<Listed>,
}

#[derive(serde::Deserialize)]
struct Listed {
    url: String,
    hashes: HashMap<String, String>,
}

impl PackageIndex {
    /// Downloads the file of `project` that is listed with `sha256` to `target`, without verifying
    /// it; `progress` gets the bytes so far and the total.
    ///
    /// # Errors
    /// The address and the reason.
    pub(crate) fn download(
        &self,
        project: &str,
        sha256: &str,
        target: &Path,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), String> {
        let agent = self.agent();
        let url = self.find(&agent, project, sha256)?;
        let response = agent.get(url.as_str()).call().map_err(|error| failed(&url, error))?;
        save(response.into_body(), target, progress).map_err(|error| match error {
            CopyError::Read(error) => failed(&url, error),
            CopyError::Write(error) => format!("{}: {error}", target.display()),
        })
    }

    fn find(&self, agent: &ureq::Agent, project: &str, sha256: &str) -> Result<Url, String> {
        let page = Url::parse(&format!("{}/{project}/", self.url.trim().trim_end_matches('/')))
            .map_err(|error| format!("PIP_INDEX_URL: {error}"))?;
        let request = agent.get(page.as_str()).header("Accept", JSON);
        let mut response = request.call().map_err(|error| failed(&page, error))?;
        let body = response.body_mut().with_config().limit(PAGE_LIMIT).read_to_string();
        let body = body.map_err(|error| failed(&page, error))?;
        find_file(&page, &body, sha256).map_err(|reason| failed(&page, reason))
    }

    fn agent(&self) -> ureq::Agent {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(self.limit))
            .timeout_connect(Some(self.silence))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence));
        config.build().into()
    }
}

/// Returns the address of the file with `sha256` on the project page `body` at `page`.
fn find_file(page: &Url, body: &str, sha256: &str) -> Result<Url, String> {
    let listed: Page = serde_json::from_str(body)
        .map_err(|error| format!("the index does not list its files in JSON, PEP 691 ({error})"))?;
    let is_pinned = |file: &&Listed| file.hashes.get("sha256").is_some_and(|hash| hash == sha256);
    let file = listed.files.iter().find(is_pinned);
    let file = file.ok_or_else(|| format!("no file with SHA-256 {sha256}"))?;
    page.join(&file.url).map_err(|error| format!("{}: {error}", file.url))
}

/// Writes a response body to a file; calls `progress` about once a second.
fn save(body: ureq::Body, path: &Path, progress: &dyn Fn(u64, u64)) -> Result<(), CopyError> {
    let total = body.content_length().unwrap_or(0);
    let mut last = Instant::now();
    copy(body.into_reader(), path, |done| {
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            progress(done, total);
        }
    })
}

fn failed(url: &Url, reason: impl Display) -> String {
    format!("{}: {reason}", without_credentials(url))
}

/// Removes the user name and password that a private index may need.
fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for addresses without a host, which have no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_hash_and_its_address_may_be_relative() {
        let page = Url::parse("http://h:1/root/simple/p/").unwrap();
        let body = r#"{"files": [
            {"url": "../../files/x-0.whl", "hashes": {"sha256": "00"}},
            {"url": "https://f/a/x-1.whl", "hashes": {"md5": "11", "sha256": "01"}},
            {"url": "/y.whl", "hashes": {"md5": "02"}}
        ]}"#;
        let found = |hash| find_file(&page, body, hash).map(String::from);
        assert_eq!(found("00").unwrap(), "http://h:1/root/files/x-0.whl");
        assert_eq!(found("01").unwrap(), "https://f/a/x-1.whl");
        assert!(found("02").unwrap_err().contains("no file with SHA-256 02"));
    }

    #[test]
    fn an_index_without_json_is_an_error_that_says_so() {
        let page = Url::parse("http://h/simple/p/").unwrap();
        for body in ["", "{", "<!DOCTYPE html><a href='x-1.whl'>x</a>"] {
            assert!(find_file(&page, body, "00").unwrap_err().contains("PEP 691"));
        }
    }

    #[test]
    fn errors_do_not_show_credentials() {
        let shown = |url| failed(&Url::parse(url).unwrap(), "no");
        assert_eq!(shown("https://u:p@h/simple/x/"), "https://h/simple/x/: no");
        assert_eq!(shown("https://h/a@b"), "https://h/a@b: no");
    }
}
