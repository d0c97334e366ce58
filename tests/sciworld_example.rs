//! `sciworld_grpo` as a user meets it.
//!
//! `cargo test` builds the examples as well; to run this file alone, build it first:
//! `cargo build --example sciworld_grpo && cargo test --test sciworld_example`.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "scienceworld", feature = "text", unix))]

mod example;
mod simulator;

use example::Example;

const EXAMPLE: Example = Example("sciworld_grpo");

#[test]
fn a_smoke_run_repeats_resumes_and_survives_kills() {
    if simulator::installation().is_some() {
        EXAMPLE.a_smoke_run_repeats_resumes_and_survives_kills();
    }
}

#[test]
fn help_names_every_option() {
    EXAMPLE.help_names_every_option(&[]);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    EXAMPLE.bad_arguments_are_refused_by_name();
}

#[test]
fn bad_settings_are_refused_before_a_folder_is_made() {
    EXAMPLE.bad_settings_are_refused(&[
        ("lambda = 1.0", "lambda"),
        ("[entropy]\nkapa_low = 1.0", "kapa_low"),
        ("[entropy]\nkappa_low = -1.0", "entropy.kappa_low"),
        ("[entropy]\nkappa_low = 2.0\nkappa_high = 1.0", "entropy.kappa_low"),
        ("[entropy.beta]\nkind = \"official-two-phase\"\ntotal_steps = 0", "entropy.beta.total_steps"),
        ("[rollout]\ngroup = 1", "rollout.group"),
        ("[update]\nepochs = 0", "update.epochs"),
        ("[cloning]\nbatch = 0", "cloning.batch"),
        ("tasks = []", "panel `train`"),
        ("test_variations = 0", "panel `test`"),
        ("tasks = [\"boyl\"]", "boyl"),
    ]);
}
