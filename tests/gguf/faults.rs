//! Damaged and unsupported GGUF files: the error names the file, the key or tensor, and the value.

use std::path::Path;

use epo::policy::{Family, GgufType};

use crate::tiny::{configs, file, open};

/// A GGUF file of the Llama family, and the bytes before its tensors' data.
fn llama(at: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let config = configs().into_iter().find(|config| config.family == Family::Llama).unwrap();
    let path = file(&config, GgufType::F32, at);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

/// Index behind the first occurrence of `text`.
fn after(bytes: &[u8], text: &str) -> usize {
    let text = text.as_bytes();
    bytes.windows(text.len()).position(|window| window == text).unwrap() + text.len()
}

/// Everything that reads a model.
fn load(path: &Path) -> epo::Result<()> {
    let model = open(path)?;
    model.verify()?;
    model.tokenizer()?;
    model.chat_template()?;
    Ok(())
}

#[track_caller]
fn check(path: &Path, bytes: &[u8], parts: &[&str]) {
    std::fs::write(path, bytes).unwrap();
    let error = load(path).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}: {parts:?}");
    assert!(error.contains("model.gguf"), "{error}");
}

/// The bytes with a text replaced by one of the same length.
fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let end = after(bytes, from);
    let mut bytes = bytes.to_vec();
    bytes[end - from.len()..end].copy_from_slice(to.as_bytes());
    bytes
}

/// The bytes with others written behind a text, `skip` bytes later.
fn patched(bytes: &[u8], text: &str, skip: usize, new: &[u8]) -> Vec<u8> {
    let at = after(bytes, text) + skip;
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = llama(dir.path());
    load(&path).unwrap();
    let header = after(&bytes, "blk.0.attn_norm.weight");
    let some = (0..header).step_by(97);
    for length in some.chain([3, 4, 7, 8, 23, 24, bytes.len() / 2, bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = load(&path).unwrap_err().to_string();
        let named = ["truncated", "does not begin with `GGUF`"];
        assert!(named.iter().any(|part| error.contains(part)), "{length}: {error}");
    }
}

#[test]
fn other_versions_and_formats_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = llama(dir.path());
    check(&path, &patched(&bytes, "GGUF", 0, &1_u32.to_le_bytes()), &["version", "= 1"]);
    check(&path, &patched(&bytes, "GGUF", 0, &4_u32.to_le_bytes()), &["version", "= 4"]);
    check(&path, &patched(&bytes, "GGUF", 0, &3_u32.to_be_bytes()), &["big-endian"]);
    check(&path, b"PK\x03\x04 something else", &["does not begin with `GGUF`"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 98362432\n";
    check(&path, pointer, &["Git LFS", "98362432"]);
    check(&path, b"<!DOCTYPE html><html></html>", &["web page"]);
    let other = dir.path().join("other.bin");
    std::fs::write(&other, "text").unwrap();
    assert!(load(&other).unwrap_err().to_string().contains("not GGUF"));
}

#[test]
fn unsupported_settings_are_named_with_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = llama(dir.path());
    let edit = |from: &str, to: &str| renamed(&bytes, from, to);
    let put = |key: &str, value: u32| patched(&bytes, key, 4, &value.to_le_bytes());
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (
            patched(&bytes, "general.architecture", 12, b"gemma"),
            &["general.architecture", "\"gemma\"", "llama, qwen2 and qwen3"],
        ),
        (patched(&bytes, "general.type", 12, b"adapt"), &["general.type", "\"adapt\""]),
        (edit("llama.block_count", "llama.block_cound"), &["llama.block_cound", "model.ignore"]),
        (put("llama.block_count", 3), &["blk.2.attn_norm.weight", "missing"]),
        (put("llama.attention.head_count", 3), &["llama.attention.head_count_kv", "= 2"]),
        (put("llama.attention.head_count", 0), &["llama.attention.head_count", "= 0"]),
        (put("llama.embedding_length", 48), &["token_embd.weight", "[400, 32]", "[400, 48]"]),
        (put("llama.vocab_size", 401), &["llama.vocab_size", "= 401", "400 rows"]),
        (put("llama.rope.dimension_count", 8), &["llama.rope.dimension_count", "= 8"]),
        (put("llama.attention.value_length", 8), &["llama.attention.value_length", "= 8"]),
        (
            patched(&bytes, "llama.rope.scaling.type", 12, b"yarn__"),
            &["llama.rope.scaling.type", "yarn__"],
        ),
        (
            patched(&bytes, "layer_norm_rms_epsilon", 4, &f32::NAN.to_le_bytes()),
            &["llama.attention.layer_norm_rms_epsilon", "NaN"],
        ),
        (
            patched(&bytes, "llama.context_length", 0, &5_u32.to_le_bytes()),
            &["llama.context_length", "whole number"],
        ),
        (
            patched(&bytes, "llama.context_length", 0, &77_u32.to_le_bytes()),
            &["llama.context_length", "value type 77"],
        ),
    ];
    for (bytes, parts) in cases {
        let parts: Vec<&str> = parts.to_vec();
        // A negative number needs its sign.
        let bytes = if parts.contains(&"whole number") {
            patched(&bytes, "llama.context_length", 4, &(-5_i32).to_le_bytes())
        } else {
            bytes
        };
        check(&path, &bytes, &parts);
    }
}

#[test]
fn broken_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = llama(dir.path());
    let name = "blk.1.ffn_up.weight";
    // After a name: dimensions (u32), two sizes (u64), type (u32), offset (u64).
    let put = |skip: usize, new: &[u8]| patched(&bytes, name, skip, new);
    check(&path, &put(20, &23_u32.to_le_bytes()), &[name, "IQ4_XS", "Q4_1"]);
    check(&path, &put(20, &99_u32.to_le_bytes()), &[name, "type 99"]);
    check(&path, &put(0, &9_u32.to_le_bytes()), &[name, "9 dimensions"]);
    check(&path, &put(4, &16_u64.to_le_bytes()), &[name, "[64, 16]", "[64, 32]"]);
    check(&path, &put(4, &u64::MAX.to_le_bytes()), &[name, "more elements"]);
    check(&path, &put(24, &7_u64.to_le_bytes()), &[name, "aligned"]);
    check(&path, &put(24, &(1_u64 << 40).to_le_bytes()), &[name, "truncated"]);
    let other = "blk.1.ffn_ub.weight";
    check(&path, &renamed(&bytes, name, other), &[name, "missing"]);
    let twice = renamed(&bytes, "blk.1.ffn_up.weight", "blk.0.ffn_up.weight");
    check(&path, &twice, &["blk.0.ffn_up.weight", "twice"]);
    let mut infinite = bytes.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, infinite).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("inf") && error.contains("model.gguf"), "{error}");
}

#[test]
fn metadata_without_a_usable_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = llama(dir.path());
    let edit = |from: &str, to: &str| renamed(&bytes, from, to);
    let no_model = edit("tokenizer.ggml.model", "tokenizer.ggml.modem");
    check(&path, &no_model, &["tokenizer.ggml.model", "no tokenizer"]);
    let other = patched(&bytes, "tokenizer.ggml.model", 12, b"bert");
    check(&path, &other, &["tokenizer.ggml.model", "\"bert\""]);
    let kind = patched(&bytes, "tokenizer.ggml.pre", 12, b"tekken");
    check(&path, &kind, &["tokenizer.ggml.pre", "\"tekken\"", "smollm, qwen2, llama-bpe"]);
    let no_kind = edit("tokenizer.ggml.pre", "tokenizer.ggml.prx");
    check(&path, &no_kind, &["tokenizer.ggml.pre", "missing"]);
    let no_merges = edit("tokenizer.ggml.merges", "tokenizer.ggml.mergez");
    check(&path, &no_merges, &["tokenizer.ggml.merges", "missing"]);
    // The key is followed by the type, the type of the elements, their number, and the length of
    // the first.
    let merge = patched(&bytes, "tokenizer.ggml.merges", 24, b"\xc3\x80");
    check(&path, &merge, &["tokenizer.ggml.merges[0]", "is not in tokenizer.ggml.tokens"]);
    let types = patched(&bytes, "tokenizer.ggml.token_type", 8, &399_u64.to_le_bytes());
    std::fs::write(&path, types).unwrap();
    assert!(load(&path).is_err());
    let end = patched(&bytes, "tokenizer.ggml.eos_token_id", 4, &400_u32.to_le_bytes());
    check(&path, &end, &["tokenizer.ggml.eos_token_id", "400"]);
    let no_template = edit("tokenizer.chat_template", "tokenizer.chat_templade");
    check(&path, &no_template, &["no chat template"]);
    let template = patched(&bytes, "tokenizer.chat_template", 12, b"{% frob %}");
    check(&path, &template, &["chat_template", "frob"]);
}
