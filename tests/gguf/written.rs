//! Checkpoints written as GGUF files and read again.

use candle_core::{DType, Device};
use epo::policy::{Chat, Decoder, GgufType, Message, Parameters, Pretrained};

use crate::tiny::{configs, file, folder, open};

/// The values of every parameter, one after another.
fn values(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    let flat = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1().unwrap();
    parameters.iter().map(|(name, var)| (name.to_owned(), flat(var))).collect()
}

fn parameters(model: &Pretrained) -> Parameters {
    model.parameters(DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_checkpoint_comes_back_from_its_gguf_file() {
    for config in configs() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&config, GgufType::F32, dir.path());
        let before = Pretrained::open(dir.path().join("checkpoint")).unwrap();
        let after = open(&path).unwrap();
        let mut expected = before.config().clone();
        expected.initializer_range = after.config().initializer_range;
        assert_eq!(*after.config(), expected);
        assert_eq!(values(&parameters(&after)), values(&parameters(&before)));
        assert_eq!(after.end_ids(), before.end_ids());
        let chat = Chat::new(&[Message::user("go to 12")]).unwrap();
        let [a, b] = [&before, &after].map(|model| {
            let tokenizer = model.tokenizer().unwrap();
            let texts = ["look  at 12345 it's\n\n 1", "e\u{301} 🙂 <|im_end|>", "the desk", "   7"];
            let ids = texts.map(|text| tokenizer.encode(text).unwrap());
            (ids, model.chat_template().unwrap().encode(&chat, &tokenizer).unwrap())
        });
        assert_eq!(a, b);
        after.verify().unwrap();
    }
}

#[test]
fn narrower_types_are_close_and_compute_the_same_model() {
    for config in configs() {
        for (kind, tolerance) in [(GgufType::F16, 1e-3), (GgufType::Q8_0, 0.02)] {
            let dir = tempfile::tempdir().unwrap();
            let path = file(&config, kind, dir.path());
            let exact = parameters(&Pretrained::open(dir.path().join("checkpoint")).unwrap());
            let narrow = parameters(&open(&path).unwrap());
            for ((name, a), (_, b)) in values(&exact).iter().zip(&values(&narrow)) {
                let largest = a.iter().fold(0_f32, |most, x| most.max(x.abs()));
                let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max);
                assert!(error <= tolerance * largest, "{name}: {error}");
            }
            let hidden = |parameters: &Parameters| {
                let decoder = Decoder::new(&config, parameters).unwrap();
                decoder.forward_packed(&[&[1, 40, 50, 2]]).unwrap().to_vec2::<f32>().unwrap()
            };
            let [a, b] = [&exact, &narrow].map(hidden).map(|rows| rows.concat());
            let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            assert!(square(&difference).sqrt() <= 6.0 * tolerance * square(&a).sqrt());
        }
    }
}

#[test]
fn a_gguf_file_is_saved_in_hugging_faces_layout_and_as_gguf_again() {
    for config in configs() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&config, GgufType::F32, dir.path());
        let model = open(&path).unwrap();
        let weights = parameters(&model);
        let saved = dir.path().join("saved");
        model.save(&saved, &weights, Pretrained::SHARD_BYTES).unwrap();
        let again = Pretrained::open(saved.as_path()).unwrap();
        assert_eq!(again.config(), model.config());
        assert_eq!(values(&parameters(&again)), values(&weights));
        assert_eq!(again.end_ids(), model.end_ids());
        let text = "look at 12 345";
        let ids = |model: &Pretrained| model.tokenizer().unwrap().encode(text).unwrap();
        assert_eq!(ids(&again), ids(&model));
        let copy = dir.path().join("copy.gguf");
        model.save_gguf(&copy, &weights, GgufType::F32).unwrap();
        let copy = open(&copy).unwrap();
        assert_eq!(copy.config(), model.config());
        assert_eq!(values(&parameters(&copy)), values(&weights));
        assert_eq!(ids(&copy), ids(&model));
    }
}

#[test]
fn a_quantised_base_is_written_as_its_values() {
    let config = configs().remove(2);
    let dir = tempfile::tempdir().unwrap();
    let model = open(&file(&config, GgufType::Q8_0, dir.path())).unwrap();
    let blocks = model.quantized_parameters().unwrap();
    let path = dir.path().join("values.gguf");
    model.save_gguf(&path, &blocks, GgufType::F32).unwrap();
    assert_eq!(values(&parameters(&open(&path).unwrap())), values(&parameters(&model)));
    let folder = dir.path().join("values");
    model.save(&folder, &blocks, Pretrained::SHARD_BYTES).unwrap();
    let saved = Pretrained::open(folder.as_path()).unwrap();
    assert_eq!(values(&parameters(&saved)), values(&parameters(&model)));
}

#[test]
fn what_gguf_cannot_hold_is_refused_and_leaves_no_file() {
    let config = configs().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let model = folder(&config, dir.path());
    let weights = parameters(&model);
    let var = weights.get("model.layers.0.mlp.up_proj.weight").unwrap();
    var.set(&(var.as_tensor() * 1e6).unwrap()).unwrap();
    let path = dir.path().join("x.gguf");
    let error = model.save_gguf(&path, &weights, GgufType::F16).unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_up.weight") && error.contains("f16"), "{error}");
    let tokenizer = dir.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap().replace("NFC", "NFKC");
    std::fs::write(&tokenizer, text).unwrap();
    let error = model.save_gguf(&path, &weights, GgufType::F32).unwrap_err().to_string();
    assert!(error.contains("pre_tokenizer") && error.contains("tokenizer.json"), "{error}");
    let missing = dir.path().join("no").join("x.gguf");
    assert!(model.save_gguf(&missing, &weights, GgufType::F32).is_err());
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("gguf")));
}
