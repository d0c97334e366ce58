//! Fetching from an index on loopback that serves a small fake wheel, well or badly.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::env::scienceworld::provision::fetch::*;
use crate::env::scienceworld::provision::wheels::{file_sha256, unpack_member, Member};

const FILE: &str = "fakewheel-1.0-py3-none-any.whl";
const JAR: &[u8] = b"not really a jar, but the bytes are what counts";

/// What the server does with the request for the wheel.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    Truncated,
    OtherBytes,
    Silent,
    Missing,
}

fn wheel_bytes() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let files: [(&str, &[u8]); 4] = [
        ("fakewheel/fake.jar", JAR),
        (
            "fakewheel-1.0.dist-info/METADATA",
            b"Metadata-Version: 2.1\nName: fakewheel\nVersion: 1.0\n",
        ),
        (
            "fakewheel-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("fakewheel-1.0.dist-info/RECORD", b""),
    ];
    for (name, bytes) in files {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn sha256(bytes: &[u8]) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, bytes).unwrap();
    leak(file_sha256(&path).unwrap())
}

fn wheel() -> Wheel {
    let bytes = wheel_bytes();
    Wheel {
        project: "fakewheel",
        version: "1.0",
        file: FILE,
        sha256: sha256(&bytes),
        size: bytes.len() as u64,
    }
}

/// Serves the index until the test process ends; returns its address and the paths asked for.
fn serve(manner: Manner) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/simple", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = log.clone();
            std::thread::spawn(move || answer(stream, manner, &log));
        }
    });
    (address, asked)
}

fn answer(mut stream: std::net::TcpStream, manner: Manner, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    log.lock().unwrap().push(path.clone());
    let mut body = if path.ends_with(".whl") {
        wheel_bytes()
    } else {
        format!(
            "<!DOCTYPE html><html><body><a href=\"../../files/{FILE}\">{FILE}</a></body></html>"
        )
        .into_bytes()
    };
    let length = body.len();
    let mut status = "200 OK";
    if path.ends_with(".whl") {
        match manner {
            Manner::Honest => {}
            Manner::Truncated => body.truncate(length / 2),
            Manner::OtherBytes => body[40] ^= 1,
            Manner::Silent => std::thread::sleep(Duration::from_secs(5)),
            Manner::Missing => status = "404 Not Found",
        }
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

fn fetcher(index: &str, pythons: Vec<PathBuf>) -> Fetcher {
    let (silence, limit) = (Duration::from_secs(1), Duration::from_secs(60));
    Fetcher { pythons, index: Some(index.into()), silence, limit }
}

/// Fetches over HTTP; the fetched bytes, or the reasons.
fn over_http(manner: Manner) -> Result<Vec<u8>, Vec<String>> {
    let (index, _) = serve(manner);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("w.whl");
    let result = fetcher(&index, vec![]).fetch(&wheel(), &target, &|_| {});
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, usize::from(result.is_ok()), "nothing unverified is left behind");
    result.map(|()| std::fs::read(&target).unwrap())
}

#[test]
fn a_wheel_is_fetched_over_http_verified_and_unpacked() {
    assert_eq!(over_http(Manner::Honest).unwrap(), wheel_bytes());
    let folder = tempfile::tempdir().unwrap();
    let (file, jar) = (folder.path().join("w.whl"), folder.path().join("fake.jar"));
    std::fs::write(&file, wheel_bytes()).unwrap();
    let member = Member { wheel: wheel(), path: "fakewheel/fake.jar", sha256: sha256(JAR) };
    unpack_member(&file, &member, &jar).unwrap();
    assert_eq!(std::fs::read(&jar).unwrap(), JAR);
    let other = Member { sha256: sha256(b"other"), ..member };
    std::fs::remove_file(&jar).unwrap();
    assert!(unpack_member(&file, &other, &jar).is_err() && !jar.exists());
    let absent = Member { path: "fakewheel/none.jar", ..member };
    assert!(unpack_member(&file, &absent, &jar).unwrap_err().to_string().contains("none.jar"));
}

#[test]
fn a_bad_download_says_what_is_wrong_with_it() {
    let reason = |manner| over_http(manner).unwrap_err().pop().unwrap();
    let wrong = reason(Manner::OtherBytes);
    assert!(wrong.contains("SHA-256") && wrong.contains(wheel().sha256), "{wrong}");
    let short = reason(Manner::Truncated);
    assert!(short.starts_with("https: http://127.0.0.1"), "{short}");
    assert!(reason(Manner::Missing).contains("404"));
    let nobody = fetcher("http://127.0.0.1:1/simple", vec![]);
    let folder = tempfile::tempdir().unwrap();
    let reasons = nobody.fetch(&wheel(), &folder.path().join("w"), &|_| {}).unwrap_err();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
}

#[test]
fn a_silent_server_is_given_up_on() {
    let started = Instant::now();
    let reason = over_http(Manner::Silent).unwrap_err().pop().unwrap();
    assert!(reason.contains("timeout"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn pip_fetches_by_hash_where_it_is_present() {
    let python = PathBuf::from("python3");
    let (index, asked) = serve(Manner::Honest);
    let client = Fetcher { silence: Duration::from_secs(20), ..fetcher(&index, vec![python]) };
    if client.find_pip().is_none() {
        eprintln!("skipped: no pip");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("w.whl");
    client.by_pip(Path::new("python3"), &wheel(), &target, &|_| {}).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), wheel_bytes());
    assert!(asked.lock().unwrap().iter().any(|path| path.ends_with(FILE)));
    let other = Wheel { sha256: sha256(b"other"), ..wheel() };
    let reason = client.by_pip(Path::new("python3"), &other, &target, &|_| {}).unwrap_err();
    assert!(reason.contains("sha256") || reason.to_lowercase().contains("hash"), "{reason}");
}

#[cfg(unix)]
#[test]
fn a_program_without_end_is_killed() {
    let mut command = Command::new("sleep");
    command.arg("30");
    let started = Instant::now();
    let error = run_limited(command, Duration::from_millis(200), &mut || {}).unwrap_err();
    assert!(error.contains("sleep") && started.elapsed() < Duration::from_secs(5), "{error}");
}

#[test]
fn credentials_stay_out_of_messages() {
    assert_eq!(without_credentials("https://u:p@h/simple/x/"), "https://h/simple/x/");
    assert_eq!(without_credentials("https://h/a@b"), "https://h/a@b");
}
