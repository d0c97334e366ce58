//! The Hub client against a local server that answers as the Hub does.

use super::committed;
use candle_core::{DType, Device};
use epo::policy::{Hub, Pretrained};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Answers one request for a file of `folder`.
fn answer(stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut range = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("range: ") {
                range = value.trim().to_owned();
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let stream = reader.get_mut();
        let content = path
            .strip_prefix("/epo/tiny/resolve/main/")
            .and_then(|file| std::fs::read(folder.join(file)).ok());
        let Some(content) = content else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let body = if range == "bytes=0-0" { &content[..1] } else { &content[..] };
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nETag: \"{}-{}\"\r\nX-Repo-Commit: 0123abc\r\n\
             Content-Range: bytes 0-{}/{}\r\nContent-Length: {}\r\n\r\n",
            path.replace('/', "-"),
            content.len(),
            body.len() - 1,
            content.len(),
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
    }
}

/// Serves a fixture and returns the server's address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder));
        }
    });
    address
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    Hub {
        endpoint: endpoint.to_owned(),
        cache_dir: cache.to_path_buf(),
        token: None,
        offline: false,
        patience: Duration::from_millis(500),
        ..Hub::new("epo/tiny")
    }
}

#[test]
fn a_sharded_checkpoint_comes_from_the_hub_once_and_then_from_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let folder = committed().join("qwen3_sharded");
    let online = hub(&serve(folder.clone()), cache.path());
    let bits = |pretrained: Pretrained| {
        let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
        let of = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        parameters.iter().map(|(name, var)| (name.to_owned(), of(var))).collect::<Vec<_>>()
    };
    let local = bits(Pretrained::open(&folder).unwrap());
    assert_eq!(bits(Pretrained::open(online.clone()).unwrap()), local);
    let offline = Hub { offline: true, endpoint: "http://127.0.0.1:9".into(), ..online.clone() };
    assert_eq!(bits(Pretrained::open(offline.clone()).unwrap()), local);
    // Other tools end the file of a branch with a line end.
    let branch = cache.path().join("models--epo--tiny/refs/main");
    for end in ["\n", "\r\n"] {
        let commit = std::fs::read_to_string(&branch).unwrap();
        std::fs::write(&branch, format!("{}{end}", commit.trim())).unwrap();
        assert_eq!(bits(Pretrained::open(offline.clone()).unwrap()), local);
    }
    let other = Hub { repo: "epo/other".into(), ..offline };
    let error = Pretrained::open(other).unwrap_err().to_string();
    assert!(
        error.contains("epo/other") && error.contains("offline") && error.contains("config.json"),
        "{error}"
    );
    let absent = Hub { repo: "epo/absent".into(), ..online };
    let error = Pretrained::open(absent).unwrap_err().to_string();
    assert!(
        error.contains("epo/absent") && error.contains("no such file or repository"),
        "{error}"
    );
}

#[test]
fn an_unreachable_hub_is_named_with_the_file_and_the_repository() {
    let cache = tempfile::tempdir().unwrap();
    // A port without a listener.
    let endpoint = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = Pretrained::open(hub(&endpoint, cache.path())).unwrap_err().to_string();
    for part in ["epo/tiny", "main", "config.json", &endpoint] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn without_a_folder_for_downloads_the_variables_are_named() {
    let error = Pretrained::open(hub("http://127.0.0.1:9", Path::new(""))).unwrap_err().to_string();
    assert!(["HF_HOME", "HF_HUB_CACHE", "epo/tiny"].iter().all(|x| error.contains(x)), "{error}");
}

#[test]
fn a_stalled_download_is_aborted() {
    let cache = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let started = Instant::now();
    let error = Pretrained::open(hub(&endpoint, cache.path())).unwrap_err().to_string();
    assert!(
        error.contains("nothing arrived for 500ms") && error.contains("config.json"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn tokens_are_never_printed_and_names_are_checked() {
    let hub = Hub { token: Some("hf_secret".into()), ..Hub::new("epo/tiny") };
    assert!(!format!("{hub:?}").contains("secret"));
    for name in ["tiny", "a/b/c", "../b", "a/", "a b/c"] {
        let error =
            Pretrained::open(Hub { repo: name.into(), ..hub.clone() }).unwrap_err().to_string();
        assert!(error.contains("owner/name"), "{error}");
    }
}
