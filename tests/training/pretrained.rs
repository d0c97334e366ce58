//! A checkpoint with a chat template as the policy: all weights, corrections of low rank, bf16;
//! resumed and exported.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Var};
use epo::policy::{DecoderConfig, Family, GgufType, LoraConfig, Parameters, Pretrained, Source};
use epo::rollout::{ActionFormat, ActionSpace, RolloutConfig};
use epo::run::RunFolder;
use epo::settings::Count;
use epo::train::config::{
    Algorithm, CheckpointConfig, ModelConfig, NoSettings, TrainConfig, UpdateConfig, WeightType,
};
use epo::train::learn::CloningConfig;

use crate::driver::{assert_same_run, resume, resume_with, train, Config};

/// A small random instruct model of `family` with the tokenizer and template of a fixture.
pub(crate) fn checkpoint(dir: &Path, family: Family) -> PathBuf {
    let folder = dir.join("model");
    std::fs::create_dir(&folder).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf/chat/chatml");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures.join(name), folder.join(name)).unwrap();
    }
    let config = DecoderConfig {
        family,
        max_position_embeddings: 512,
        initializer_range: 0.1,
        ..DecoderConfig::tiny(304)
    };
    config.save(folder.join("config.json")).unwrap();
    let parameters = Parameters::init(&config, 7, DType::F32, &Device::Cpu).unwrap();
    parameters.save(folder.join("model.safetensors")).unwrap();
    folder
}

pub(crate) fn config(model: CheckpointConfig) -> Config {
    let base = Config::default();
    Config {
        cloning: CloningConfig { epochs: Count::literal(2), ..base.cloning },
        rollout: RolloutConfig {
            tasks: Count::literal(2),
            group: Count::literal(2),
            actions: ActionSpace::Free { max_tokens: Count::literal(48) },
            ..base.rollout
        },
        update: UpdateConfig { mini_batches: Count::literal(1), ..base.update },
        model: ModelConfig::Checkpoint(model),
        ..base
    }
}

pub(crate) fn source(folder: &Path) -> String {
    folder.display().to_string()
}

#[test]
fn runs_with_corrections_repeat_resume_and_export() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen3);
    let lora = Some(LoraConfig::of_rank(2));
    let model = CheckpointConfig {
        lora,
        format: ActionFormat::Tagged,
        ..CheckpointConfig::new(source(&folder))
    };
    let mut config = config(model);
    config.update.policy = epo::objective::PolicyLoss::default();
    config.steps = 4;
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    let agent = train(&whole, &config).unwrap();
    config.steps = 2;
    train(&parts, &config).unwrap();
    resume(&parts, 4).unwrap();
    assert_same_run(&whole, &parts);
    // What is exported is the adapter, over the same base.
    let exported = dir.path().join("model-4");
    // Ending a run twice writes the same again.
    (0..2).for_each(|_| agent.export(dir.path(), 4).unwrap());
    let pretrained = Pretrained::open(Source::open(&source(&folder)).unwrap()).unwrap();
    let base = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let back = base.load_adapter(pretrained.config(), &exported).unwrap();
    for (name, var) in agent.learner.parameters.iter() {
        let [a, b] = [var, back.get(name).unwrap()];
        let bits = |v: &candle_core::Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(a), bits(b), "{name}");
    }
}

#[test]
fn a_run_goes_on_where_its_model_is_now_and_with_no_other() {
    for lora in [Some(LoraConfig::of_rank(2)), None] {
        let dir = tempfile::tempdir().unwrap();
        let folder = checkpoint(dir.path(), Family::Qwen2);
        let mut config = config(CheckpointConfig {
            lora: lora.clone(),
            ..CheckpointConfig::new(source(&folder))
        });
        config.steps = 2;
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        train(&whole, &config).unwrap();
        config.steps = 1;
        train(&parts, &config).unwrap();
        let moved = dir.path().join("moved");
        std::fs::rename(&folder, &moved).unwrap();
        let error = resume(&parts, 2).map(drop).unwrap_err().to_string();
        assert!(error.contains(&folder.display().to_string()), "{error}");
        let at = |place: &Path| {
            let place = source(place);
            move |c: &mut Config| {
                c.steps = 2;
                if let ModelConfig::Checkpoint(model) = &mut c.model {
                    model.source = place.clone();
                }
                Ok(())
            }
        };
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let other = checkpoint(&other, Family::Qwen2);
        // One byte differs: of the weights, which only a run with corrections needs, or a space
        // after the tokenizer.
        let file = if lora.is_some() { "model.safetensors" } else { "tokenizer.json" };
        let mut bytes = std::fs::read(other.join(file)).unwrap();
        match lora {
            Some(_) => *bytes.last_mut().unwrap() ^= 1,
            None => bytes.push(b' '),
        }
        std::fs::write(other.join(file), bytes).unwrap();
        let error = resume_with(&parts, at(&other)).map(drop).unwrap_err().to_string();
        assert!(error.contains("model.source") && error.contains(file), "{error}");
        // Killed before its next checkpoint, a run needs to be told the place no second time.
        RunFolder::resume(&parts, at(&moved)).unwrap();
        resume(&parts, 2).unwrap();
        assert_same_run(&whole, &parts);
    }
}

#[test]
fn an_episode_may_be_held_shorter_than_the_model_allows() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    let model = |context| {
        let context = Some(Count::literal(context));
        CheckpointConfig { context, ..CheckpointConfig::new(source(&folder)) }
    };
    let run = dir.path().join("run");
    let agent = train(&run, &Config { steps: 1, ..config(model(400)) }).unwrap();
    assert_eq!(agent.learner.decoder.config().max_position_embeddings, 400);
    let agent = resume(&run, 2).unwrap();
    assert_eq!(agent.learner.decoder.config().max_position_embeddings, 400);
    agent.export(dir.path(), 2).unwrap();
    let back = Pretrained::open(dir.path().join("model-2")).unwrap();
    assert_eq!(back.config().max_position_embeddings, 512);
    let error = config(model(513)).new_agent().map(drop).unwrap_err().to_string();
    assert!(error.contains("model.context") && error.contains("512"), "{error}");
}

#[test]
fn all_weights_are_trained_in_either_type_and_exported() {
    for (family, dtype) in [(Family::Qwen2, WeightType::F32), (Family::Llama, WeightType::Bf16)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = checkpoint(dir.path(), family);
        let model = CheckpointConfig {
            dtype,
            checkpointing: true,
            ..CheckpointConfig::new(source(&folder))
        };
        let mut config = config(model);
        config.steps = 2;
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        let agent = train(&whole, &config).unwrap();
        config.steps = 1;
        train(&parts, &config).unwrap();
        resume(&parts, 2).unwrap();
        assert_same_run(&whole, &parts);
        let exported = dir.path().join("model-2");
        (0..2).for_each(|_| agent.export(dir.path(), 2).unwrap());
        let back = Pretrained::open(Source::open(&source(&exported)).unwrap()).unwrap();
        assert_eq!(back.stored_dtype().unwrap(), dtype.dtype());
        let parameters = back.parameters(dtype.dtype(), &Device::Cpu).unwrap();
        let bits = |p: &Parameters| -> Vec<Vec<f32>> {
            let values = |v: &candle_core::Var| {
                v.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            p.iter().map(|(_, var)| values(var)).collect()
        };
        assert_eq!(bits(&parameters), bits(&agent.learner.parameters));
        back.tokenizer().unwrap();
        back.chat_template().unwrap();
    }
}

/// The checkpoint as a GGUF file whose matrices are in 8-bit blocks.
fn gguf(dir: &Path) -> PathBuf {
    let folder = checkpoint(dir, Family::Llama);
    let path = folder.join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let words = serde_json::json!({
        "type": "Sequence",
        "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            {
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true,
            },
        ],
    });
    tokenizer["pre_tokenizer"] = words;
    std::fs::write(path, tokenizer.to_string()).unwrap();
    let model = Pretrained::open(folder).unwrap();
    let parameters = model.parameters(DType::F32, &Device::Cpu).unwrap();
    let file = dir.join("model.gguf");
    model.save_gguf(&file, &parameters, GgufType::Q8_0).unwrap();
    file
}

#[test]
fn a_gguf_file_is_trained_on_its_blocks_or_in_f32() {
    let mut runs = Vec::new();
    for dtype in [WeightType::Quantized, WeightType::F32] {
        let dir = tempfile::tempdir().unwrap();
        let file = gguf(dir.path());
        let lora = Some(LoraConfig::of_rank(2));
        let model = CheckpointConfig { dtype, lora, ..CheckpointConfig::new(source(&file)) };
        let mut config = config(model);
        config.steps = 2;
        config.model.available().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        let agent = train(&whole, &config).unwrap();
        config.steps = 1;
        train(&parts, &config).unwrap();
        // The file may be resumed from under another name.
        let moved = dir.path().join("moved.bin");
        std::fs::rename(&file, &moved).unwrap();
        let to = source(&moved);
        resume_with(&parts, |config: &mut Config| {
            config.steps = 2;
            if let ModelConfig::Checkpoint(model) = &mut config.model {
                model.source.clone_from(&to);
            }
            Ok(())
        })
        .unwrap();
        assert_same_run(&whole, &parts);
        agent.export(dir.path(), 2).unwrap();
        let model = Pretrained::open(Source::open(&to).unwrap()).unwrap();
        let base = model.parameters(DType::F32, &Device::Cpu).unwrap();
        let adapted = base.load_adapter(model.config(), dir.path().join("model-2")).unwrap();
        let merged = adapted.merged(model.config()).unwrap();
        let saved = dir.path().join("merged.gguf");
        model.save_gguf(&saved, &merged, GgufType::F16).unwrap();
        Pretrained::open(Source::open(&source(&saved)).unwrap()).unwrap().verify().unwrap();
        let values = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        runs.push(merged.iter().flat_map(|(_, var)| values(var)).collect::<Vec<f32>>());
    }
    // The same policy: what differs is the order of sums.
    let [quantised, dense] = &runs[..] else { panic!() };
    assert!(quantised.iter().zip(dense).all(|(a, b)| (a - b).abs() < 1e-3));
}

#[test]
fn quantised_weights_need_a_file_that_has_them_and_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let file = gguf(dir.path());
    let lora = Some(LoraConfig::of_rank(2));
    let quantized = |source: String, lora| CheckpointConfig {
        dtype: WeightType::Quantized,
        lora,
        ..CheckpointConfig::new(source)
    };
    let error = |model| config(model).new_agent().map(drop).unwrap_err().to_string();
    let no_adapters = error(quantized(source(&file), None));
    assert!(no_adapters.contains("model.dtype") && no_adapters.contains("--lora"), "{no_adapters}");
    let folder = source(&dir.path().join("model"));
    let dense = error(quantized(folder.clone(), lora.clone()));
    assert!(dense.contains("no quantised weights") && dense.contains(&folder), "{dense}");
    let early = ModelConfig::Checkpoint(quantized(folder, lora)).available().unwrap_err();
    assert!(early.to_string().contains("no quantised weights"), "{early}");
}

#[test]
fn a_run_that_did_not_start_from_a_model_checkpoint_has_no_source_to_change() {
    let mut small = crate::ppo::config();
    let error = crate::ppo::Config::resumed(None, Some("x"))(&mut small).unwrap_err().to_string();
    assert!(error.contains("model.source") && error.contains("= x"), "{error}");
}

#[test]
fn a_missing_model_checkpoint_is_named() {
    let missing = config(CheckpointConfig::new("/no/such/folder")).new_agent();
    let error = missing.map(drop).unwrap_err().to_string();
    assert!(error.contains("/no/such/folder"), "{error}");
}

/// Changes the `config.json` of a model checkpoint.
fn edit(folder: &Path, fields: serde_json::Value) {
    let path = folder.join("config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn a_damaged_model_checkpoint_is_found_before_a_run_has_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    let available = || ModelConfig::Checkpoint(CheckpointConfig::new(source(&folder))).available();
    available().unwrap();
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"] {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = available().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = available().unwrap_err().to_string();
        assert!(error.contains(&folder.display().to_string()), "{error}");
        std::fs::write(path, bytes).unwrap();
    }
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
    let error = available().unwrap_err().to_string();
    assert!(error.contains("NaN") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn unknown_fields_of_a_model_pass_if_the_settings_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    edit(&folder, serde_json::json!({"trained_by": "us"}));
    let open = |config: &CheckpointConfig| config.open().map(drop).map_err(|e| e.to_string());
    let error = open(&CheckpointConfig::new(source(&folder))).unwrap_err();
    assert!(error.contains("model.ignore = [\"trained_by\"]"), "{error}");
    let ignore = vec!["trained_by".to_owned(), "of_another_model".to_owned()];
    open(&CheckpointConfig { ignore, ..CheckpointConfig::new(source(&folder)) }).unwrap();
    let set = |ignore: &str| {
        let sets = [
            "model.kind=checkpoint".to_owned(),
            format!("model.source={:?}", source(&folder)),
            format!("model.ignore={ignore}"),
        ];
        let config = TrainConfig::small(Algorithm::Grpo, NoSettings {}).layered(None, &sets)?;
        config.model.available()
    };
    set("[\"trained_by\"]").unwrap();
    let error = set("[]").unwrap_err().to_string();
    assert!(error.contains("trained_by"), "{error}");
    let error = set("[\"trained_by\", \"vocab_size\"]").unwrap_err().to_string();
    assert!(error.contains("`vocab_size`") && error.contains("model.ignore"), "{error}");
}

#[test]
fn a_sliding_window_limits_the_episodes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    let window = serde_json::json!({
        "use_sliding_window": true, "sliding_window": 400, "max_window_layers": 1
    });
    edit(&folder, window);
    let open = |context| {
        let context = Count::try_from(context).ok();
        CheckpointConfig { context, ..CheckpointConfig::new(source(&folder)) }.open()
    };
    let context = |tokens| open(tokens).unwrap().config().max_position_embeddings;
    assert_eq!((context(0), context(400), context(9)), (400, 400, 9));
    let error = open(401).unwrap_err().to_string();
    assert!(error.contains("model.context") && error.contains("sliding_window, 400"), "{error}");
    // The exported model keeps its window.
    let model = open(0).unwrap();
    let parameters = model.parameters(DType::F32, &Device::Cpu).unwrap();
    model.save(dir.path().join("out"), &parameters, Pretrained::SHARD_BYTES).unwrap();
    let saved = std::fs::read_to_string(dir.path().join("out/config.json")).unwrap();
    assert!(saved.contains("\"sliding_window\": 400"), "{saved}");
}
