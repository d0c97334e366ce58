//! A package index on loopback that serves a small fake wheel, correctly or not.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::provision::file::PinnedFile;
use crate::provision::index::PackageIndex;
use crate::provision::wheel::PinnedWheel;

/// The wheel's name, as pip downloads it.
pub(crate) const FILE: &str = "fake_wheel-1.0-py3-none-any.whl";
/// The content of the wheel's jar.
pub(crate) const JAR: &[u8] = b"only the bytes of this jar matter";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The server's response to a request for the wheel.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Response {
    Honest,
    Truncated,
    OtherBytes,
    Silent,
    Missing,
}

/// The wheel: a jar, a folder with a program, and a large file.
pub(crate) fn wheel_bytes() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("fake/fake.jar", options).unwrap();
    zip.write_all(JAR).unwrap();
    zip.start_file("fake/runtime/bin/java", options.unix_permissions(0o755)).unwrap();
    zip.write_all(b"#!/bin/sh").unwrap();
    zip.start_file("fake/zeros", options).unwrap();
    zip.write_all(&ZEROS).unwrap();
    zip.finish().unwrap().into_inner()
}

/// The wheel as a pinned one.
pub(crate) fn wheel() -> PinnedWheel {
    PinnedWheel { name: "fake-wheel", version: "1.0", sha256: hash(&wheel_bytes()) }
}

/// The jar as a pinned one.
pub(crate) fn jar() -> PinnedFile {
    PinnedFile { wheel: wheel(), member: "fake/fake.jar", file: "renamed.jar", sha256: hash(JAR) }
}

/// The wheel's large file, which compresses well.
pub(crate) fn zeros() -> PinnedFile {
    let sha256 = hash(&ZEROS);
    PinnedFile { wheel: wheel(), member: "fake/zeros", file: "zeros", sha256 }
}

fn hash(bytes: &[u8]) -> &'static str {
    Box::leak(format!("{:x}", Sha256::digest(bytes)).into_boxed_str())
}

/// Serves the index until the test process ends.
pub(crate) fn serve(manner: Response) -> PackageIndex {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || respond(stream, manner));
        }
    });
    PackageIndex { url, silence: Duration::from_secs(1), limit: Duration::from_secs(60) }
}

/// An index that nobody serves.
pub(crate) fn closed() -> PackageIndex {
    let url = "http://127.0.0.1:1/simple".into();
    PackageIndex { url, silence: Duration::from_secs(2), limit: Duration::from_secs(5) }
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
