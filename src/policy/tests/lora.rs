//! LoRA adapters, weights in bf16, and gradient checkpointing.

use crate::optim::adamw::AdamW;
use crate::optim::adamw::AdamWConfig;
use crate::policy::files::load_tensors;
use crate::policy::tests::*;
use crate::settings::NonNegative;

const ROWS: [&[u32]; 2] = [&[1, 2, 3, 30, 7], &[4, 5, 6]];

fn loss(decoder: &Decoder) -> Tensor {
    let hidden = decoder.forward_packed(&ROWS).unwrap();
    let logits = decoder.logits(&hidden).unwrap().sqr().unwrap().sum_all().unwrap();
    (hidden.powf(3.0).unwrap().sum_all().unwrap() + logits).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn max_gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Parameters with adapters of rank 3 on all projections, with a B that is not zero.
fn adapted(config: &DecoderConfig, dtype: DType) -> Parameters {
    let base = Parameters::init(config, 5, dtype, &Device::Cpu).unwrap();
    let parameters = base.with_lora(config, &LoraConfig::of_rank(3), 2).unwrap();
    for (name, var) in parameters.trainable().filter(|(name, _)| name.contains("lora_B")) {
        let values = ids(var.elem_count(), name.len() as u64, 100).into_iter();
        let values: Vec<f64> = values.map(|i| f64::from(i) / 250.0 - 0.2).collect();
        let tensor = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
        var.set(&tensor.to_dtype(var.dtype()).unwrap()).unwrap();
    }
    parameters
}

#[test]
fn checkpointing_changes_no_bit() {
    for config in families() {
        let (decoder, parameters) = decoder(&config, DType::F32);
        let again = decoder.clone().with_checkpointing(true);
        assert_eq!(values(&loss(&decoder)), values(&loss(&again)));
        let [a, b] = [&decoder, &again].map(|d| Gradients::of(&loss(d), &parameters).unwrap());
        for (name, gradient) in a.iter() {
            assert_eq!(values(gradient), values(b.get(name).unwrap()), "{name}");
        }
        b.check(&parameters).unwrap();
    }
}

#[test]
fn fresh_adapters_change_nothing_and_freeze_the_rest() {
    let (plain, base) = decoder(&config(), DType::F32);
    let parameters = base.with_lora(&config(), &LoraConfig::of_rank(4), 1).unwrap();
    let decoder = Decoder::new(&config(), &parameters).unwrap();
    let a = loss(&plain);
    let b = loss(&decoder);
    assert!(max_gap(&a, &b) < 1e-5 * values(&a)[0].abs());
    let gradients = Gradients::of(&loss(&decoder), &parameters).unwrap();
    gradients.check(&parameters).unwrap();
    assert_eq!(gradients.iter().count(), 2 * 7 * 2);
    assert!(gradients.iter().all(|(name, _)| name.contains("lora_")));
}

#[test]
fn adapters_match_merged_weights_and_their_gradients() {
    for config in families() {
        let parameters = adapted(&config, DType::F64);
        let merged = parameters.merged(&config).unwrap();
        let decoders = [&parameters, &merged].map(|p| Decoder::new(&config, p).unwrap());
        let [a, b] = decoders.each_ref().map(loss);
        assert!(max_gap(&a, &b) < 1e-9 * values(&a)[0].abs().max(1.0), "{:?}", config.family);
        let small = Gradients::of(&a, &parameters).unwrap();
        let full = Gradients::of(&b, &merged).unwrap();
        let scale = parameters.lora().unwrap().scale();
        for (name, da) in small.iter().filter(|(name, _)| name.contains("lora_A")) {
            let module = name.strip_suffix(".lora_A.weight").unwrap();
            let dw = full.get(&format!("{module}.weight")).unwrap();
            let [a, b] =
                ["A", "B"].map(|w| parameters.get(&format!("{module}.lora_{w}.weight")).unwrap());
            let want = (b.as_tensor().t().unwrap().matmul(dw).unwrap() * scale).unwrap();
            assert!(max_gap(da, &want) < 1e-7, "{name}: {}", max_gap(da, &want));
            let db = small.get(&format!("{module}.lora_B.weight")).unwrap();
            let want = (dw.matmul(&a.as_tensor().t().unwrap()).unwrap() * scale).unwrap();
            assert!(max_gap(db, &want) < 1e-7, "{name}: {}", max_gap(db, &want));
        }
        let off = decoders[0].clone().without_lora();
        let (plain, _) = crate::policy::tests::decoder(&config, DType::F64);
        assert!(max_gap(&loss(&off), &loss(&plain)) == 0.0);
    }
}

#[test]
fn decoding_with_adapters_and_in_bf16_agrees_with_the_forward_pass() {
    let rows: Vec<Vec<u32>> = [90, 3, 41].iter().map(|&n| ids(n, n as u64, 40)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    for config in families() {
        let decoder = Decoder::new(&config, &adapted(&config, DType::F32)).unwrap();
        assert!(max_decode_forward_gap(&decoder, &rows).unwrap() < 1e-4);
        let narrow = Parameters::init(&config, 5, DType::BF16, &Device::Cpu).unwrap();
        let decoder = Decoder::new(&config, &narrow).unwrap();
        assert!(max_decode_forward_gap(&decoder, &rows).unwrap() < 1e-4);
        let decoder = Decoder::new(&config, &adapted(&config, DType::BF16)).unwrap();
        assert!(max_decode_forward_gap(&decoder, &rows).unwrap() < 1e-4);
    }
}

#[test]
fn dropout_depends_on_its_stream_and_keeps_the_mean() {
    let parameters = adapted(&config(), DType::F64);
    let decoder = Decoder::new(&config(), &parameters).unwrap();
    let with = |share, seed| {
        let stream = Stream::new(seed, Purpose::Dropout, 0, 0, 0);
        let decoder = decoder.clone().with_dropout(share, stream);
        decoder.forward_packed(&ROWS).unwrap().detach()
    };
    let plain = decoder.forward_packed(&ROWS).unwrap().detach();
    assert_eq!(max_gap(&with(0.0, 1), &plain), 0.0);
    assert_eq!(max_gap(&with(0.3, 1), &with(0.3, 1)), 0.0);
    assert!(max_gap(&with(0.3, 1), &with(0.3, 2)) > 1e-3);
    let mean = (0..200).map(|seed| with(0.05, seed)).reduce(|a, b| (a + b).unwrap()).unwrap();
    assert!(max_gap(&(mean / 200.0).unwrap(), &plain) < 0.25);
    // Recomputed blocks draw the same elements.
    let stream = Stream::new(1, Purpose::Dropout, 0, 0, 0);
    let dropping = decoder.with_dropout(0.3, stream);
    let [a, b] = [dropping.clone(), dropping.with_checkpointing(true)];
    let [a, b] = [a, b].map(|d| Gradients::of(&loss(&d), &parameters).unwrap());
    for (name, gradient) in a.iter() {
        assert_eq!(values(gradient), values(b.get(name).unwrap()), "{name}");
    }
}

#[test]
fn weights_in_bf16_are_computed_in_f32_and_their_gradients_rounded_once() {
    for config in families() {
        let narrow = Parameters::init(&config, 5, DType::BF16, &Device::Cpu).unwrap();
        let widened =
            narrow.tensors().into_iter().map(|(name, t)| (name, t.to_dtype(DType::F32).unwrap()));
        let wide = Parameters::from_tensors(&config, widened.collect()).unwrap();
        let [a, b] = [&narrow, &wide].map(|p| Decoder::new(&config, p).unwrap());
        assert_eq!(values(&loss(&a)), values(&loss(&b)));
        let [ga, gb] =
            [(&a, &narrow), (&b, &wide)].map(|(d, p)| Gradients::of(&loss(d), p).unwrap());
        ga.check(&narrow).unwrap();
        for (name, gradient) in ga.iter() {
            let want = gb.get(name).unwrap();
            let largest = values(want).iter().fold(0f64, |m, x| m.max(x.abs()));
            let gap = max_gap(gradient, want);
            // With a tied head, the embedding's two gradients are rounded separately.
            assert!(gap <= largest / 100.0, "{name}: {gap} of {largest}");
        }
    }
}

#[test]
fn steps_below_the_rounding_of_bf16_add_up() {
    let config = config();
    let parameters = Parameters::init(&config, 5, DType::BF16, &Device::Cpu).unwrap();
    let decoder = Decoder::new(&config, &parameters).unwrap();
    let name = "model.norm.weight";
    let weight_decay = NonNegative::literal(0.0);
    let mut optimizer = AdamW::new(AdamWConfig { weight_decay, ..AdamWConfig::default() });
    // Around 1, neighbouring bf16 numbers are at least 2⁻⁸ apart, so one step of 1e-3 is lost
    // in rounding. Twenty steps of the same sign add up in the f32 master copy.
    for _ in 0..20 {
        let gradients = Gradients::of(&loss(&decoder), &parameters).unwrap();
        optimizer.step(&parameters, &gradients, 1e-3).unwrap();
    }
    let moved =
        values(parameters.get(name).unwrap()).iter().filter(|x| (**x - 1.0).abs() > 0.01).count();
    assert!(moved > 16, "{moved} of 32");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    optimizer.save(&path).unwrap();
    let mut resumed =
        AdamW::load(&path, AdamWConfig { weight_decay, ..AdamWConfig::default() }, &parameters)
            .unwrap();
    let copy = parameters.duplicate().unwrap();
    let gradients = Gradients::of(&loss(&decoder), &parameters).unwrap();
    resumed.step(&copy, &gradients, 1e-3).unwrap();
    optimizer.step(&parameters, &gradients, 1e-3).unwrap();
    for (name, var) in parameters.iter() {
        assert_eq!(values(var), values(copy.get(name).unwrap()), "{name}");
    }
}

#[test]
fn adapters_are_saved_as_peft_does_and_read_back_bit_for_bit() {
    let config = config();
    let dir = tempfile::tempdir().unwrap();
    let parameters = adapted(&config, DType::F32);
    parameters.save_adapter(dir.path(), "base/model").unwrap();
    let read = || {
        let base = Parameters::init(&config, 5, DType::F32, &Device::Cpu).unwrap();
        base.load_adapter(&config, dir.path())
    };
    let back = read().unwrap();
    assert_eq!(back.lora(), parameters.lora());
    for (name, var) in parameters.iter() {
        assert_eq!(values(var), values(back.get(name).unwrap()), "{name}");
    }
    let file = load_tensors(&dir.path().join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
    assert_eq!(file[name].dims(), [config.hidden_size, 3]);
    // Settings that change the maths, and tensors that do not match, are refused by name.
    let path = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, field) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"r\": 3", "\"r\": 4", "lora_A"),
        ("\"q_proj\",", "", "q_proj"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"lora_alpha\": 6.0", "\"lora_alpha\": -1.0", "lora_alpha"),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("adapter_"), "{error}");
    }
}

#[test]
fn lora_settings_out_of_range_are_refused() {
    let good = LoraConfig::of_rank(2);
    let modules = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let bad = [
        LoraConfig { rank: 0, ..good.clone() },
        LoraConfig { alpha: f64::NAN, ..good.clone() },
        LoraConfig { dropout: 1.0, ..good.clone() },
        LoraConfig { target_modules: vec![], ..good.clone() },
        LoraConfig { target_modules: modules(&["lm_head"]), ..good.clone() },
        LoraConfig { target_modules: modules(&["q_proj", "q_proj"]), ..good.clone() },
    ];
    for lora in bad {
        let base = Parameters::init(&config(), 5, DType::F32, &Device::Cpu).unwrap();
        assert!(
            base.with_lora(&config(), &lora, 0).unwrap_err().to_string().contains("`model.lora."),
            "{lora:?}"
        );
    }
    let twice = adapted(&config(), DType::F32).with_lora(&config(), &good, 0);
    assert!(twice.unwrap_err().to_string().contains("already"));
}
