//! `alfworld_grpo` as a user meets it.
//!
//! `cargo test` builds the examples as well; to run this file alone, build it first:
//! `cargo build --example alfworld_grpo && cargo test --test alfworld_example`.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "alfworld", feature = "text", unix))]

mod example;

use example::Example;

const EXAMPLE: Example = Example("alfworld_grpo");

#[test]
fn a_smoke_run_repeats_resumes_and_survives_kills() {
    EXAMPLE.a_smoke_run_repeats_resumes_and_survives_kills();
}

#[test]
fn help_names_every_option() {
    EXAMPLE.help_names_every_option(&["--actions"]);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    EXAMPLE.bad_arguments_are_refused_by_name();
    assert!(EXAMPLE.refusal(&["--actions", "any"]).contains("free"));
}

#[test]
fn bad_settings_are_refused_before_a_folder_is_made() {
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    EXAMPLE.bad_settings_are_refused(&[
        ("lambda = 1.0", "lambda"),
        ("tasks = []", "panel `train`"),
        ("tasks = [\"juggle\"]", "juggle"),
        ("test_games = 0", "panel `valid_seen`"),
        ("[household]\nreceptacles = [9, 4]", "household.receptacles"),
        ("[household]\ntask_types = []", "household.task_types"),
        ("[rollout]\nactions = \"some\"", "some"),
        ("data = \"/no/such/folder\"", "/no/such/folder"),
        (&format!("data = {empty:?}"), empty),
        (
            &format!("data = {:?}", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/alfworld")),
            "valid_seen",
        ),
    ]);
}
