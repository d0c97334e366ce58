//! `alfworld_grpo` and `alfworld_ppo` as a user meets them.

use super::example::Example;

const GRPO: Example = Example("alfworld_grpo");
const PPO: Example = Example("alfworld_ppo");

#[test]
fn a_smoke_run_repeats_resumes_and_survives_kills() {
    for example in [GRPO, PPO] {
        example.a_smoke_run_repeats_resumes_and_survives_kills();
    }
}

#[test]
fn bad_settings_are_refused_before_a_folder_is_made() {
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let common = [
        ("[entropy]\nmethod = \"bonus\"\nalpha = 0.2", "`entropy.alpha` = 0.2: has no effect"),
        ("lambda = 1.0", "lambda"),
        ("[environment]\nalpha = 1", "in `environment`"),
        ("[environment]\ntest_games = \"x\"", "in `environment.test_games`"),
        ("[environment]\ntasks = []", "panel `train`"),
        ("[environment]\ntasks = [\"juggle\"]", "juggle"),
        ("[environment]\ntest_games = 0", "panel `valid_seen`"),
        ("[environment.household]\nreceptacles = [9, 4]", "household.receptacles"),
        ("[environment.household]\ntask_types = []", "household.task_types"),
        ("[rollout]\nactions = \"some\"", "some"),
        ("[environment]\ndata = \"/no/such/folder\"", "/no/such/folder"),
        (&format!("[environment]\ndata = {empty:?}"), empty),
        (
            &format!(
                "[environment]\ndata = {:?}",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/alfworld")
            ),
            "valid_seen",
        ),
    ];
    for example in [GRPO, PPO] {
        example.bad_settings_are_refused(&common);
    }
}
