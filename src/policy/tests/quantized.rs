//! A frozen quantised base below LoRA adapters, compared with the same base in f32.

use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::score::scoring::ScoreOptions;
use crate::policy::files::load_tensors;
use crate::policy::tests::*;
use candle_core::quantized::GgmlDType;
use std::collections::BTreeMap;

/// Random parameters with every matrix of whole blocks quantised, in four formats by turns, and the
/// same parameters dequantised.
fn pair(config: &DecoderConfig) -> [Parameters; 2] {
    let formats = [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q4_0, GgmlDType::Q5_1];
    let parameters = Parameters::init(config, 5, DType::F32, &Device::Cpu).unwrap();
    roughen(&parameters);
    let mut dense = parameters.tensors();
    let mut quantized = BTreeMap::new();
    for ((name, tensor), format) in parameters.tensors().into_iter().zip(formats.iter().cycle()) {
        if tensor.dims().get(1).is_some_and(|width| width.is_multiple_of(32)) {
            quantized.insert(name.clone(), QuantizedMatrix::quantize(&tensor, *format).unwrap());
            dense.remove(&name);
        }
    }
    let mut whole = dense.clone();
    for (name, matrix) in &quantized {
        whole.insert(name.clone(), matrix.dequantize().unwrap());
    }
    [
        Parameters::with_quantized(config, dense, quantized).unwrap(),
        Parameters::from_tensors(config, whole).unwrap(),
    ]
}

/// Adds the same adapters to both, with a B that is not zero.
fn adapted(config: &DecoderConfig, lora: &LoraConfig) -> [Parameters; 2] {
    pair(config).map(|base| {
        let parameters = base.with_lora(config, lora, 2).unwrap();
        for (name, var) in parameters.trainable().filter(|(name, _)| name.contains("lora_B")) {
            let values = ids(var.elem_count(), name.len() as u64, 100).into_iter();
            let values: Vec<f32> = values.map(|i| i as f32 / 250.0 - 0.2).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        parameters
    })
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let largest = values(b).iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (x, y) in values(a).into_iter().zip(values(b)) {
        assert!((x - y).abs() < 2e-4 * largest, "{what}: {x} against {y}");
    }
}

/// Log-probabilities and entropies of two rows, through embedding, blocks and head.
fn loss(decoder: &Decoder) -> Tensor {
    let rows: [&[u32]; 2] = [&[1, 2, 3, 30, 7], &[4, 5, 6]];
    let hidden = decoder.forward_packed(&rows).unwrap();
    let targets = Tensor::new(&[2u32, 3, 30, 7, 0, 5, 6, 39], &Device::Cpu).unwrap();
    let (log_probs, entropies) = decoder.score(&hidden, &targets, &ScoreOptions::at(1.3)).unwrap();
    let logits = decoder.logits(&hidden).unwrap().sqr().unwrap().sum_all().unwrap();
    let scores = (log_probs + (entropies * 0.7).unwrap()).unwrap().sum_all().unwrap();
    (scores + (logits * 0.01).unwrap()).unwrap()
}

#[test]
fn adapters_over_quantised_weights_have_the_gradients_of_those_over_their_values() {
    let attention = ["q_proj".to_owned(), "v_proj".to_owned()].to_vec();
    let few = LoraConfig { target_modules: attention, ..LoraConfig::of_rank(2) };
    for config in families() {
        for lora in [LoraConfig::of_rank(3), few.clone()] {
            let [quantized, dense] = adapted(&config, &lora);
            let [a, b] = [&quantized, &dense].map(|p| Decoder::new(&config, p).unwrap());
            let want = loss(&b);
            let gradients = Gradients::of(&want, &dense).unwrap();
            for decoder in [a.clone(), a.with_checkpointing(true)] {
                let got = loss(&decoder);
                assert_close(&got, &want, "loss");
                let got = Gradients::of(&got, &quantized).unwrap();
                got.check(&quantized).unwrap();
                for (name, gradient) in got.iter() {
                    assert_close(gradient, gradients.get(name).unwrap(), name);
                }
            }
        }
    }
}

#[test]
fn decoding_on_quantised_weights_is_decoding_on_their_values() {
    let rows: Vec<Vec<u32>> = [90, 3, 70, 41].iter().map(|&n| ids(n, n as u64, 40)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    for config in families() {
        let logits = adapted(&config, &LoraConfig::of_rank(3)).map(|parameters| {
            let decoder = Decoder::new(&config, &parameters).unwrap();
            let gap = max_decode_forward_gap(&decoder, &rows).unwrap();
            assert!(gap < 1e-4, "{config:?}: {gap}");
            // A chunk of more rows than one matrix-vector product takes, then one token each.
            let mut cache = KvCache::new(&config, 4);
            let chunk = decoder.extend(&mut cache, &[0, 1, 2, 3], &rows).unwrap();
            let token = decoder.extend(&mut cache, &[2, 0, 1], &[&[3], &[1], &[4]]).unwrap();
            let all = [chunk, token].concat();
            Tensor::from_vec(all.clone(), all.len(), &Device::Cpu).unwrap()
        });
        assert_close(&logits[0], &logits[1], "logits");
    }
}

#[test]
fn a_row_samples_the_same_tokens_beside_any_others() {
    let config = config();
    let [parameters, _] = adapted(&config, &LoraConfig::of_rank(3));
    let decoder = Decoder::new(&config, &parameters).unwrap();
    let prompt = [3, 1, 4, 1, 5, 9, 2, 6];
    let sample = |rows: std::ops::Range<usize>| {
        let request = |row: usize| Request {
            row: row - rows.start,
            prompt: &prompt,
            stream: Stream::new(1, Purpose::Rollout, 0, 0, row as u32),
            turn: 0,
            choices: None,
        };
        let requests: Vec<Request> = rows.clone().map(request).collect();
        let mut cache = KvCache::new(&config, requests.len());
        let sampling = SamplingParams { max_tokens: 12, ..SamplingParams::default() };
        let out = decoder.generate(&mut cache, &requests, &sampling).unwrap();
        out.into_iter().map(|row| (row.ids, row.log_probs, row.entropies)).collect::<Vec<_>>()
    };
    let all = sample(0..18);
    assert_eq!(sample(3..4), all[3..4]);
    assert_eq!(sample(7..16), all[7..16]);
}

#[test]
fn the_base_without_adapters_is_shared_and_merging_makes_it_f32() {
    let config = config();
    let [quantized, dense] = adapted(&config, &LoraConfig::of_rank(3));
    let decoder = Decoder::new(&config, &quantized).unwrap();
    let base = Decoder::new(&config, &quantized.clone().without_lora()).unwrap();
    let off = loss(&decoder.clone().without_lora());
    assert_eq!(values(&off), values(&loss(&base)));
    assert!(!off.track_op());
    let [merged, want] = [&quantized, &dense].map(|p| p.merged(&config).unwrap());
    assert_eq!(merged.quantized().count(), 0);
    assert_eq!(merged.trainable().count(), merged.iter().count());
    for (name, var) in merged.iter() {
        assert_eq!(values(var), values(want.get(name).unwrap()), "{name}");
    }
    assert_close(&loss(&Decoder::new(&config, &merged).unwrap()), &loss(&decoder), "merged");
}

#[test]
fn everything_that_walks_parameters_knows_quantised_ones() {
    let config = config();
    let [base, dense] = pair(&config);
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(base.count(), dense.count());
    assert_eq!(base.trainable().count(), 0);
    base.check_fits(&config).unwrap();
    let get = base.get(name).unwrap_err().to_string();
    assert!(get.contains(name) && get.contains("is quantised"), "{get}");
    let mut thawed = base.clone();
    assert!(thawed.set_trainable(name, true).unwrap_err().to_string().contains("LoRA"));
    thawed.set_trainable(name, false).unwrap();
    thawed.set_trainable("model.norm.weight", true).unwrap();
    assert!(!thawed.is_trainable(name).unwrap() && thawed.trainable().count() == 1);
    let copy = base.duplicate().unwrap();
    copy.assign(&base).unwrap();
    assert!(copy.assign(&dense).unwrap_err().to_string().contains("frozen"));
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    base.save(&a).unwrap();
    dense.save(&b).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let adapted = base.with_lora(&config, &LoraConfig::of_rank(2), 1).unwrap();
    adapted.save_trainable(&a).unwrap();
    adapted.load_trainable(&a).unwrap();
    assert!(load_tensors(&a, &Device::Cpu).unwrap().keys().all(|name| name.contains("lora")));
}

#[test]
fn quantised_parameters_must_be_those_of_the_model() {
    let config = config();
    let [base, _] = pair(&config);
    let tensors = base.tensors();
    let quantized: BTreeMap<String, QuantizedMatrix> =
        base.quantized().map(|(name, matrix)| (name.to_owned(), matrix.clone())).collect();
    let name = "model.layers.1.mlp.gate_proj.weight";
    let refuse = |tensors: &BTreeMap<String, Tensor>, quantized: &BTreeMap<_, _>, words: &str| {
        let made = Parameters::with_quantized(&config, tensors.clone(), quantized.clone());
        let error = made.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let mut fewer = quantized.clone();
    let matrix = fewer.remove(name).unwrap();
    refuse(&tensors, &fewer, "gate_proj.weight` = tensor: the tensor is missing");
    fewer.insert("other".into(), matrix.clone());
    refuse(&tensors, &fewer, "no such tensor");
    fewer.remove("other");
    let transposed = matrix.dequantize().unwrap().t().unwrap();
    let wide = QuantizedMatrix::quantize(&transposed, GgmlDType::Q8_0);
    fewer.insert(name.into(), wide.unwrap());
    refuse(&tensors, &fewer, "has shape [32, 64], the model needs [64, 32]");
    let mut twice = tensors.clone();
    twice.insert(name.into(), matrix.dequantize().unwrap());
    refuse(&twice, &quantized, "dense and quantised");
    let narrow = tensors.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::BF16).unwrap()));
    refuse(&narrow.collect(), &quantized, "has dtype bf16, f32 is required");
}

#[test]
fn a_value_model_shares_the_quantised_body() {
    let config = config();
    let body = ValueModel::body(&config);
    let [quantized, dense] = adapted(&config, &LoraConfig::of_rank(3)).map(|parameters| {
        let parameters = parameters.with_value_head().unwrap();
        let head = parameters.get("value_head.weight").unwrap();
        head.set(&Tensor::ones(head.shape(), DType::F32, &Device::Cpu).unwrap()).unwrap();
        parameters
    });
    let [a, b] = [&quantized, &dense].map(|parameters| {
        let model = ValueModel::new(&body, parameters).unwrap();
        let hidden = model.decoder().forward_packed(&[&[1, 5, 2, 7]]).unwrap();
        let values = model.values(&hidden).unwrap();
        (values.detach(), Gradients::of(&values.sqr().unwrap().sum_all().unwrap(), parameters))
    });
    assert_close(&a.0, &b.0, "values");
    let want = b.1.unwrap();
    for (name, gradient) in a.1.unwrap().iter() {
        assert_close(gradient, want.get(name).unwrap(), name);
    }
}
