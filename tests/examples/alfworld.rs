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
        ("[entropy.method]\nkind = \"bonus\"\nalpha = 0.2", "`entropy.method.alpha`"),
        ("lambda = 1.0", "lambda"),
        ("[environment]\nalpha = 1", "`environment.alpha`"),
        ("[environment]\ntest_games = \"x\"", "`environment.test_games`"),
        ("[environment]\ntasks = []", "`environment.tasks` = []"),
        ("[environment]\ntasks = [\"juggle\"]", "juggle"),
        ("[environment]\ntest_games = 0", "`environment.test_games`"),
        ("[environment.games]\nreceptacles = [9, 4]", "environment.games.receptacles"),
        ("[environment.games]\ntask_types = []", "environment.games.task_types"),
        ("[rollout.actions]\nkind = \"some\"", "some"),
        ("[environment.games]\nkind = \"folder\"\npath = \"/no/such/folder\"", "/no/such/folder"),
        (&format!("[environment.games]\nkind = \"folder\"\npath = {empty:?}"), empty),
        (
            &format!(
                "[environment.games]\nkind = \"folder\"\npath = {:?}",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/alfworld")
            ),
            "valid_seen",
        ),
    ];
    for example in [GRPO, PPO] {
        example.bad_settings_are_refused(&common);
    }
}
