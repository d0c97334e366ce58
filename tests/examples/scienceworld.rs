//! `sciworld_grpo` and `sciworld_ppo` as a user meets them.

use super::example::Example;
use super::simulator;

const GRPO: Example = Example("sciworld_grpo");
const PPO: Example = Example("sciworld_ppo");

#[test]
fn a_smoke_run_repeats_resumes_and_survives_kills() {
    if simulator::installation().is_some() {
        GRPO.a_smoke_run_repeats_resumes_and_survives_kills();
    }
}

#[test]
fn a_smoke_run_of_ppo_repeats_and_resumes_with_its_critic() {
    if simulator::installation().is_some() {
        PPO.a_smoke_run_repeats_and_resumes(tempfile::tempdir().unwrap().path());
    }
}

#[test]
fn bad_settings_are_refused_before_a_folder_is_made() {
    let common = [
        ("[entropy.method]\nkind = \"bonus\"\nalpha = 0.2", "`entropy.method.alpha`"),
        ("lambda = 1.0", "lambda"),
        ("[entropy.band]\nkapa_low = 1.0", "`entropy.band.kapa_low`"),
        ("[entropy.band]\nkappa_low = -1.0", "entropy.band.kappa_low"),
        ("[entropy.band]\nkappa_low = 2.0\nkappa_high = 1.0", "entropy.band.kappa_"),
        (
            "[entropy.method.beta]\nkind = \"official-two-phase\"\ntotal_steps = 0",
            "entropy.method.beta.total_steps",
        ),
        ("[update]\nepochs = 0", "update.epochs"),
        ("[cloning]\nbatch = 0", "cloning.batch"),
        ("[environment]\nalpha = 1", "`environment.alpha`"),
        ("[environment]\ntest_variations = \"x\"", "`environment.test_variations`"),
        ("[environment]\ntasks = []", "`environment.tasks` = []"),
        ("[environment]\ntest_variations = 0", "`environment.test_variations`"),
        ("[environment]\ntasks = [\"boyl\"]", "`environment.tasks` = boyl"),
    ];
    for example in [GRPO, PPO] {
        example.bad_settings_are_refused(&common);
    }
    GRPO.bad_settings_are_refused(&[
        ("[rollout]\ngroup = 1", "rollout.group"),
        ("[algorithm.critic]\nwarmup_steps = 1", "`algorithm.critic.warmup_steps`"),
    ]);
    PPO.bad_settings_are_refused(&[
        ("[algorithm.gae]\nlambda = -1.0", "algorithm.gae.lambda"),
        ("[algorithm.advantage]\ngamma = 0.9", "`algorithm.advantage.gamma`"),
    ]);
}
