//! Kernels and whole models on a CUDA device.
//!
//! `EPO_REQUIRE_CUDA=1 cargo bench --features cuda --bench gpu [-- PARTS]` on the machine with the
//! device. Candle's own build needs a CUDA toolkit; `LD_LIBRARY_PATH` must contain libnvrtc,
//! libcublas and libcurand of the same version.
//!
//! Parts: `scores` compares log-probability and entropy with the device's copy; `decode` samples 64
//! rows, `update` trains 8 x 1024 tokens, both with a model of random bf16 weights in the shape of
//! `EPO_BENCH_MODEL` (0.5b, 3b or 7b of Qwen2.5, or tiny); `lora` trains LoRA adapters on it.
//! Without a device it prints a note and succeeds, unless EPO_REQUIRE_CUDA=1.
//! `EPO_BENCH_DEVICE=cpu` runs `decode`, `update` and `lora` on the processor, to try them out.

use anyhow::Result;
use epo::train::config::DeviceKind;

mod model;
mod scores;

fn main() -> Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
    let on_cpu = std::env::var("EPO_BENCH_DEVICE").as_deref() == Ok("cpu");
    let kind = if on_cpu { DeviceKind::Cpu } else { DeviceKind::Cuda };
    let device = match kind.open() {
        Ok(device) => device,
        Err(error) if std::env::var("EPO_REQUIRE_CUDA").as_deref() == Ok("1") => {
            return Err(error.into())
        }
        Err(error) => {
            let error = error.to_string(); // a backtrace may follow
            let reason = error.lines().next().unwrap_or_default();
            println!("no CUDA device, nothing was measured: {reason}");
            return Ok(());
        }
    };
    if wanted("scores") && !on_cpu {
        for n in [4096, 16_384] {
            scores::bench(&device, n)?;
        }
    }
    let model = std::env::var("EPO_BENCH_MODEL").unwrap_or_else(|_| "3b".into());
    let config = model::shape(&model)?;
    if wanted("decode") {
        model::decode(&config, &device)?;
    }
    for (part, lora) in [("update", false), ("lora", true)] {
        if wanted(part) {
            model::update(&config, lora, &device)?;
        }
    }
    Ok(())
}
