//! Downloads from an index on loopback that serves a small fake wheel, correctly or not.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::env::scienceworld::provision::wheel::*;

const FILE: &str = "fake_wheel-1.0-py3-none-any.whl";
const JAR: &[u8] = b"only the bytes of this jar matter";

/// The server's response to a request for the wheel.
#[derive(Clone, Copy, PartialEq)]
enum Response {
    Honest,
    Truncated,
    OtherBytes,
    Silent,
    Missing,
}

fn wheel_bytes() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("fake/fake.jar", options).unwrap();
    zip.write_all(JAR).unwrap();
    zip.start_file("fake/runtime/bin/java", options.unix_permissions(0o755)).unwrap();
    zip.write_all(b"#!/bin/sh").unwrap();
    zip.finish().unwrap().into_inner()
}

fn wheel() -> PinnedWheel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, wheel_bytes()).unwrap();
    let sha256 = Box::leak(sha256(&path).unwrap().into_boxed_str());
    PinnedWheel { name: "fake-wheel", version: "1.0", sha256 }
}

/// Serves the index until the test process ends.
fn serve(manner: Response) -> PackageIndex {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || respond(stream, manner));
        }
    });
    PackageIndex { url, silence: Duration::from_secs(1), limit: Duration::from_secs(60) }
}

fn respond(mut stream: TcpStream, manner: Response) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let mut status = "200 OK";
    let mut body = match path {
        "/simple/fake-wheel/" => page(),
        "/files/fake_wheel-1.0-py3-none-any.whl" => wheel_bytes(),
        _ => panic!("nobody should request {path}"),
    };
    let length = body.len();
    if path.ends_with(FILE) {
        match manner {
            Response::Honest => {}
            Response::Truncated => body.truncate(length / 2),
            Response::OtherBytes => body[40] ^= 1,
            Response::Silent => std::thread::sleep(Duration::from_secs(5)),
            Response::Missing => status = "404 Not Found",
        }
    }
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

fn page() -> Vec<u8> {
    let hashes = serde_json::json!({ "sha256": wheel().sha256 });
    let file = serde_json::json!({ "url": format!("../../files/{FILE}"), "hashes": hashes });
    serde_json::json!({ "files": [file] }).to_string().into_bytes()
}

/// Fetches the wheel into an empty folder; the error's text and the files that are left.
fn failure(index: &PackageIndex) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = wheel().fetch(folder.path(), index, &|_| {}).unwrap_err();
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "no unverified file is left");
    error.to_string()
}

#[test]
fn a_wheel_is_downloaded_once_verified_and_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let path = wheel().fetch(folder.path(), &serve(Response::Honest), &|_| {}).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), wheel_bytes());
    let nobody = serve(Response::Missing);
    let again = wheel().fetch(folder.path(), &nobody, &|line| panic!("{line}")).unwrap();
    assert_eq!(again, path);

    let jar = folder.path().join("renamed.jar");
    unpack(&path, "fake/fake.jar", &jar).unwrap();
    assert_eq!(std::fs::read(&jar).unwrap(), JAR);
    let runtime = folder.path().join("runtime");
    for _ in 0..2 {
        unpack(&path, "fake/runtime", &runtime).unwrap();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = runtime.join("bin/java").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "programs stay executable");
    }
    let error = unpack(&path, "fake/none.jar", &jar).unwrap_err().to_string();
    assert!(error.contains("fake/none.jar"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
}

#[test]
fn an_unpacked_folder_must_be_that_of_its_wheel() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join(FILE);
    std::fs::write(&wheel, wheel_bytes()).unwrap();
    let runtime = folder.path().join("runtime");
    unpack(&wheel, "fake/runtime", &runtime).unwrap();
    let check = || check_unpacked(&wheel, "fake/runtime", &runtime).map_err(|e| e.to_string());
    check().unwrap();
    let java = runtime.join("bin/java");
    for other in ["#!/bin/ah", "#!/bin/s", "#!/bin/sh\n", ""] {
        std::fs::write(&java, other).unwrap();
        let error = check().unwrap_err();
        assert!(error.contains("bin/java") && error.contains("content"), "{other:?}: {error}");
    }
    std::fs::write(&java, "#!/bin/sh").unwrap();
    check().unwrap();
    let extra = runtime.join("bin/classes.jsa");
    std::fs::write(&extra, "").unwrap();
    assert!(check().unwrap_err().contains("classes.jsa"));
    std::fs::remove_file(&extra).unwrap();
    std::fs::remove_file(&java).unwrap();
    assert!(check().unwrap_err().contains("bin/java"));
}

#[test]
fn a_wheel_that_pip_has_downloaded_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::write(&path, wheel_bytes()).unwrap();
    let nobody = serve(Response::Missing);
    assert_eq!(wheel().fetch(folder.path(), &nobody, &|_| {}).unwrap(), path);
}

#[test]
fn a_bad_download_is_an_error_with_its_cause() {
    let wrong = failure(&serve(Response::OtherBytes));
    assert!(wrong.contains("SHA-256") && wrong.contains(wheel().sha256), "{wrong}");
    let short = failure(&serve(Response::Truncated));
    assert!(short.contains("download") && short.contains("http://127.0.0.1"), "{short}");
    assert!(failure(&serve(Response::Missing)).contains("404"));
    let url = "http://127.0.0.1:1/simple".into();
    let closed = PackageIndex { url, ..serve(Response::Missing) };
    assert!(failure(&closed).contains("127.0.0.1:1"));
}

#[test]
fn a_silent_server_is_abandoned() {
    let started = Instant::now();
    let reason = failure(&serve(Response::Silent));
    assert!(reason.contains("timeout"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
