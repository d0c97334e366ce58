//! TensorBoard event files: protobuf events in TFRecord frames, written without protobuf.
//!
//! A frame is the length (u64 LE), the masked CRC-32C of the length, the payload, and the masked
//! CRC-32C of the payload (TensorFlow's `tfrecord`, TensorBoard's `record_writer.py`). Payload:
//! `Event { wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7 }` of
//! `event.proto`; summaries hold `simple_value`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::create_folder;
use crate::{Error, Result};

/// An event file of one folder; TensorBoard shows each folder as a run.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: File,
    path: std::path::PathBuf,
}

impl EventFile {
    /// Creates an event file that readers read after those already in `folder`, even if the clock
    /// was set back since: readers go by the second in the name. With `purge_step`,
    /// TensorBoard discards the earlier files' events from that step on.
    pub(crate) fn create(folder: &Path, purge_step: Option<u64>) -> Result<Self> {
        create_folder(folder)?;
        let now = wall_time();
        let mut second = now as u64;
        for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
            let entry = entry.map_err(|e| Error::io(folder, e))?;
            second = second.max(second_of(&entry.file_name().to_string_lossy()) + 1);
        }
        let path = folder.join(format!("{PREFIX}{second:010}.epo"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut events = Self { file: file.map_err(|e| Error::io(&path, e))?, path };
        events.write(&version_event(now))?;
        if let Some(step) = purge_step {
            events.write(&session_start_event(now, step))?;
        }
        Ok(events)
    }

    /// Appends one step's scalars.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        self.write(&scalar_event(wall_time(), step, scalars))
    }

    /// Makes the written events durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&frame(event)).map_err(|e| Error::io(&self.path, e))
    }
}

/// The start of an event file's name; the second of its creation follows.
const PREFIX: &str = "events.out.tfevents.";

/// The second in the name of an event file; 0 for another file.
fn second_of(name: &str) -> u64 {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    rest.split('.').next().and_then(|second| second.parse::<u32>().ok()).map_or(0, u64::from)
}

/// Seconds since the Unix epoch.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn version_event(time: f64) -> Vec<u8> {
    let mut event = event_head(time, 0);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// `SessionLog { status: START }`: readers discard earlier events whose step is at least `step`.
fn session_start_event(time: f64, step: u64) -> Vec<u8> {
    let mut event = event_head(time, step);
    bytes_field(&mut event, 7, &[0x08, 1]);
    event
}

fn scalar_event(time: f64, step: u64, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        bytes_field(&mut entry, 1, tag.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((*value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &entry);
    }
    let mut event = event_head(time, step);
    bytes_field(&mut event, 5, &summary);
    event
}

fn event_head(time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(time.to_le_bytes());
    if step != 0 {
        event.push(2 << 3);
        varint(&mut event, step);
    }
    event
}

/// Appends a length-delimited protobuf field.
fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(payload.len() + 16);
    frame.extend(length);
    frame.extend(masked_crc32c(&length).to_le_bytes());
    frame.extend(payload);
    frame.extend(masked_crc32c(payload).to_le_bytes());
    frame
}

/// ((c ≫ 15) | (c ≪ 17)) + 0xa282ead8 of the CRC-32C c, as the TFRecord format defines it.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), one table look-up per byte.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32c_table();
    !bytes.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that TensorBoard 2.21.0 (`RecordWriter`, `event_pb2`) writes for the events below.
    const OFFICIAL: &str = concat!(
        "1800000000000000a37f4b2209000010c86e48da411a0d627261696e2e4576656e743a32962c33dd",
        "0f000000000000006d532b0909000060c86e48da4110073a02080151f275d64a00000000000000af",
        "77dbb0090000b0c86e48da4110ac022a3c0a0e0a07656e74726f707915cdcccc3d0a1d0a1674696d",
        "652f746f6b656e735f7065725f7365636f6e6415caf249f10a0b0a046c6f7373150000c07f3c9571",
        "6d",
    );

    #[test]
    fn bytes_equal_the_official_writer() {
        let scalars = [("entropy", 0.1), ("time/tokens_per_second", -1e30), ("loss", f64::NAN)];
        let scalars = scalars.map(|(tag, value)| (tag.to_owned(), value));
        let mut bytes = frame(&version_event(1763818272.25));
        bytes.extend(frame(&session_start_event(1763818273.5, 7)));
        bytes.extend(frame(&scalar_event(1763818274.75, 300, &scalars)));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, OFFICIAL);
    }

    #[test]
    fn crc32c_of_the_standard_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn files_of_one_folder_sort_in_the_order_of_creation() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> =
            (0..3).map(|_| EventFile::create(dir.path(), None).unwrap().path).collect();
        assert!(paths.windows(2).all(|p| p[0] < p[1]), "{paths:?}");
    }

    #[test]
    fn a_file_made_after_the_clock_went_back_is_read_last() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = wall_time() as u64 + 900_000;
        for name in [format!("{PREFIX}{ahead:010}.host.17.0"), "notes.txt".to_owned()] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let first = EventFile::create(dir.path(), Some(12)).unwrap().path;
        let second = EventFile::create(dir.path(), Some(14)).unwrap().path;
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert_eq!(names[1..3], [first, second], "{names:?}");
    }
}
