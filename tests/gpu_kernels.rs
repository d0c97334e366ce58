//! The device kernels, run on the host's processor and compared with f64: the source that CUDA and
//! Metal compile, once with a prelude for the host and once with Metal's own. Needs a C++ compiler
//! and no device.
//!
//! Not covered: a device's exponential and logarithm, warps that do not run in lockstep, and races
//! that two orders of the threads do not reveal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "gpu_host/decode.rs"]
mod decode;
#[path = "gpu_host/launch.rs"]
mod launch;
#[path = "gpu_host/layers.rs"]
mod layers;
#[path = "gpu_host/rows.rs"]
mod rows;
#[path = "gpu_host/scores.rs"]
mod scores;

use launch::{Dialect, Element, Machine};

fn check(dialect: Dialect, element: Element) {
    if let Some(machine) = Machine::compile(dialect, element) {
        scores::check_all(&machine);
        layers::check_all(&machine);
        rows::check_all(&machine);
        decode::check_all(&machine);
        machine.report();
    }
}

macro_rules! dialects {
    ($($name:ident: $dialect:ident $element:ident,)*) => {
        $(#[test]
        fn $name() {
            check(Dialect::$dialect, Element::$element);
        })*
    };
}

dialects! {
    host_f32: Host F32,
    host_bf16: Host Bf16,
    host_f16: Host F16,
    metal_f32: Metal F32,
    metal_bf16: Metal Bf16,
    metal_f16: Metal F16,
}
