//! SmolLM2-135M-Instruct in Q4_1, compared with transformers (hidden states, logits, greedy text,
//! chats), the `gguf` package (tensors) and llama.cpp (token ids).
//!
//! `scripts/gguf_reference.py` made the reference values.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use epo::policy::{Chat, Decoder, KvCache, Message, Pretrained, Source, Tokenizer};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Reference {
    pieces: Vec<String>,
    texts: usize,
    ids: Vec<String>,
    first_ids: Vec<Vec<u32>>,
    tensors: BTreeMap<String, String>,
    chats: Vec<Vec<Said>>,
    rendered: Vec<String>,
    greedy: Vec<Vec<u32>>,
    states: Vec<States>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

/// Every eighth position.
#[derive(Deserialize)]
struct States {
    ids: Vec<u32>,
    /// Every 48th feature.
    hidden: Vec<Vec<f32>>,
    /// Those of every 4096th token.
    logits: Vec<Vec<f32>>,
    log_sum_exp: Vec<f32>,
}

fn reference() -> Reference {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/smollm2.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The model, which is downloaded once; `None`, with a message, if it cannot be, unless
/// `EPO_REQUIRE_MODELS=1`.
fn model() -> Option<&'static Pretrained> {
    static MODEL: OnceLock<Result<Pretrained, String>> = OnceLock::new();
    let opened = MODEL.get_or_init(|| {
        let source = Source::open("smollm2-135m-instruct").map_err(|e| e.to_string())?;
        Pretrained::open(source).map_err(|e| e.to_string())
    });
    let required = std::env::var("EPO_REQUIRE_MODELS").is_ok_and(|value| value == "1");
    match opened {
        Ok(model) => Some(model),
        Err(reason) if required => panic!("EPO_REQUIRE_MODELS=1, but: {reason}"),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decoder(model: &Pretrained) -> Decoder {
    let parameters = model.parameters(DType::F32, &Device::Cpu).unwrap();
    Decoder::new(model.config(), &parameters).unwrap()
}

/// Name of a tensor in the file.
fn stored_name(name: &str) -> String {
    let parts = [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

#[test]
fn every_tensor_has_the_values_of_the_gguf_package() {
    let Some(model) = model() else { return };
    let reference = reference();
    let parameters = model.parameters(DType::F32, &Device::Cpu).unwrap();
    let mut names = 0;
    for (name, var) in parameters.iter() {
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let stored = stored_name(name);
        assert_eq!(Some(&digest(&bytes)), reference.tensors.get(&stored), "{stored}");
        names += 1;
    }
    assert_eq!(names, reference.tensors.len());
}

#[test]
fn hidden_states_and_logits_are_those_of_transformers() {
    let Some(model) = model() else { return };
    let decoder = decoder(model);
    let near = |found: Vec<Vec<f32>>, expected: &[Vec<f32>], what: &str| {
        assert_eq!(found.len(), expected.len());
        let found = found.concat();
        let expected = expected.concat();
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{what}: {a} and {b}");
        }
    };
    let every = |tensor: &Tensor, rows: usize, columns: usize| -> Vec<Vec<f32>> {
        let all: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
        let thin = |row: Vec<f32>| row.into_iter().step_by(columns).collect();
        all.into_iter().step_by(rows).map(thin).collect()
    };
    for states in reference().states {
        let hidden = decoder.forward_packed(&[&states.ids]).unwrap();
        near(every(&hidden, 8, 48), &states.hidden, "hidden states");
        let logits = decoder.logits(&hidden).unwrap();
        near(every(&logits, 8, 4096), &states.logits, "logits");
        let sums = logits.log_sum_exp(1).unwrap().to_vec1::<f32>().unwrap();
        near(vec![sums], &[states.log_sum_exp], "log Σ exp");
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let Some(model) = model() else { return };
    let reference = reference();
    let decoder = decoder(model);
    for (states, greedy) in reference.states.iter().zip(&reference.greedy) {
        let prompt = &states.ids[..states.ids.len() - greedy.len()];
        let mut cache = KvCache::new(model.config(), 1);
        let mut logits = decoder.extend(&mut cache, &[0], &[prompt]).unwrap();
        let mut found = Vec::new();
        while found.len() < greedy.len() {
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            let best = best.unwrap() as u32;
            found.push(best);
            logits = decoder.extend(&mut cache, &[0], &[&[best]]).unwrap();
        }
        assert_eq!(&found, greedy);
    }
    let ended = reference.greedy.iter().filter(|ids| ids.last() == Some(&2)).count();
    assert!(ended >= 1 && model.end_ids() == [2]);
}

/// The texts of the reference: pieces drawn by a linear congruential generator.
fn texts(reference: &Reference) -> Vec<String> {
    let mut state = 1_u64;
    let mut draw = |limit: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % limit
    };
    let text = |_| {
        let count = 1 + draw(12);
        (0..count).map(|_| reference.pieces[draw(reference.pieces.len())].as_str()).collect()
    };
    (0..reference.texts).map(text).collect()
}

#[test]
fn token_ids_are_those_of_llama_cpp() {
    let Some(model) = model() else { return };
    let reference = reference();
    let tokenizer: Tokenizer = model.tokenizer().unwrap();
    let texts = texts(&reference);
    for (text, ids) in texts.iter().zip(&reference.first_ids) {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    let mut different = Vec::new();
    for (part, (texts, expected)) in texts.chunks(100).zip(&reference.ids).enumerate() {
        let row = |text: &String| {
            let ids = tokenizer.encode(text).unwrap();
            ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        };
        let rows: Vec<String> = texts.iter().map(row).collect();
        if digest(rows.join("\n").as_bytes()) != *expected {
            different.push(part);
        }
    }
    assert!(different.is_empty(), "hundreds that differ: {different:?}");
}

#[test]
fn chats_are_rendered_as_by_transformers() {
    let Some(model) = model() else { return };
    let reference = reference();
    let template = model.chat_template().unwrap();
    for (said, rendered) in reference.chats.iter().zip(&reference.rendered) {
        let message = |said: &Said| match said.role.as_str() {
            "system" => Message::system(&said.content),
            "user" => Message::user(&said.content),
            _ => Message::assistant(&said.content),
        };
        let messages: Vec<Message> = said.iter().map(message).collect();
        let chat = Chat::new(&messages).unwrap().with_generation_prompt(true);
        assert_eq!(&template.render(&chat).unwrap(), rendered);
    }
}

#[test]
fn blocks_compute_what_their_values_in_f32_do() {
    let Some(model) = model() else { return };
    let dense = decoder(model);
    let blocks = Decoder::new(model.config(), &model.quantized_parameters().unwrap()).unwrap();
    let ids = &reference().states[0].ids[..40];
    let [a, b] = [&dense, &blocks].map(|decoder| {
        let hidden = decoder.forward_packed(&[ids]).unwrap();
        let mut cache = KvCache::new(model.config(), 1);
        let decoded = decoder.extend(&mut cache, &[0], &[ids]).unwrap();
        (hidden.to_vec2::<f32>().unwrap().concat(), decoded)
    });
    let near = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0))
    };
    assert!(near(&a.0, &b.0) && near(&a.1, &b.1));
}
