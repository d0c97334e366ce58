//! The real simulator as an `Environment`: gold paths, masking, finished episodes, isolation.

use std::time::Duration;

use super::simulator;
use epo::env::scienceworld::{
    check_simplification, task_names, variation_count, variations, CallPattern,
    DemonstrationConfig, Installation, Jvm, JvmConfig, ScienceWorldConfig, ScienceWorldPool,
    Simulator, SimulatorError, Split, SuccessRule, SIMPLIFICATIONS,
};
use epo::env::{Demonstration, Environment, Task, Unsolved};
use epo::settings::Count;
use epo::train::config::{Algorithm, Preset};
use epo::worlds::{Benchmark, ScienceWorldTasks};
use epo::Error;

fn task(name: &str, variation: u32) -> Task {
    Task { name: name.into(), variation }
}

fn pool(installation: &Installation, count: usize) -> ScienceWorldPool {
    ScienceWorldPool::new(installation, &ScienceWorldConfig::default(), count).unwrap()
}

#[test]
fn every_gold_path_reaches_100() {
    let Some(installation) = simulator::installation() else { return };
    let tasks: Vec<Task> = task_names().map(|name| task(name, 0)).collect();
    let config = ScienceWorldConfig { step_limit: 1000, ..ScienceWorldConfig::default() };
    let mut pool = ScienceWorldPool::new(&installation, &config, simulator::parallelism()).unwrap();
    let demonstrations =
        pool.demonstrations(&tasks, &DemonstrationConfig::GOLD, 0, &mut |_| ()).unwrap().solved;
    assert_eq!(demonstrations.len(), 30);
    for demonstration in &demonstrations {
        let last = &demonstration.turns.last().unwrap().step;
        assert!(
            last.success && last.done && last.score == 100.0,
            "{}: {last:?}",
            demonstration.task
        );
        // In some tasks, the `look around` at the start already scores.
        let first = &demonstration.turns[0].step;
        let sum: f64 = demonstration.turns.iter().map(|turn| turn.step.reward).sum();
        assert_eq!(first.score - first.reward + sum, 100.0, "{}", demonstration.task);
    }
    assert_eq!(pool.restarts(), 0);
}

#[test]
fn demonstrations_use_the_names_seen_and_recover_from_mistakes() {
    let Some(installation) = simulator::installation() else { return };
    let tasks: Vec<Task> =
        (0..12).map(|variation| task("lifespan-longest-lived", variation)).collect();
    let demonstrate = |environments| {
        let config = ScienceWorldConfig::default();
        let mut pool = ScienceWorldPool::new(&installation, &config, environments).unwrap();
        pool.demonstrations(&tasks, &DemonstrationConfig::default(), 7, &mut |_| ()).unwrap().solved
    };
    let demonstrations = demonstrate(simulator::parallelism());
    for Demonstration { task, start, turns } in &demonstrations {
        assert!(turns.last().unwrap().step.success, "{task}");
        let focus =
            turns.iter().position(|t| t.imitated && t.action.starts_with("focus on ")).unwrap();
        let thing = turns[focus].action.trim_start_matches("focus on ");
        let seen = turns[..focus].iter().map(|t| &t.step.observation).chain([&start.observation]);
        assert!(
            seen.into_iter().any(|text| text.contains(thing)),
            "{task}: no observation mentions {thing}"
        );
    }
    let mistakes =
        demonstrations.iter().flat_map(|d| &d.turns).filter(|turn| !turn.imitated).count();
    assert!(mistakes > 0, "{} episodes without a mistake", tasks.len());
    assert_eq!(demonstrate(1), demonstrations, "independent of the number of environments");
}

#[test]
fn only_gold_paths_that_reach_100_are_shown_and_the_limit_for_the_others_is_offered() {
    let Some(installation) = simulator::installation() else { return };
    // Mendelian genetics takes more than 100 moves; freeze 11 is not solved by its own gold path.
    let long = task("mendelian-genetics-known-plant", 0);
    let tasks = [task("find-plant", 0), long.clone(), task("freeze", 11)];
    let shown = |step_limit, success| {
        let config = ScienceWorldConfig { step_limit, success, ..ScienceWorldConfig::default() };
        let count = simulator::parallelism();
        let mut pool = ScienceWorldPool::new(&installation, &config, count).unwrap();
        pool.demonstrations(&tasks, &DemonstrationConfig::default(), 0, &mut |_| ()).unwrap()
    };
    let found = shown(100, SuccessRule::Score100);
    let solved: Vec<&Task> = found.solved.iter().map(|d| &d.task).collect();
    assert_eq!(solved, [&tasks[0]]);
    let limit = found.needs().unwrap();
    assert!(limit > 100, "{limit}");
    let expected = [
        Unsolved { task: long, needs: Some(limit) },
        Unsolved { task: tasks[2].clone(), needs: None },
    ];
    assert_eq!(found.unsolved, expected);
    let lax = shown(100, SuccessRule::DoneWithPositiveScore);
    assert_eq!(lax.unsolved, expected, "running out of time with some points is no solution");
    let longer = shown(limit as u32, SuccessRule::Score100);
    assert_eq!(longer.solved.len(), 2, "the offered limit solves it: {}", longer.summary());
}

#[test]
fn a_run_without_a_solved_demonstration_is_refused_with_the_limit_to_set() {
    let Some(installation) = simulator::installation() else { return };
    let mut config = ScienceWorldTasks::preset(Preset::Small, Algorithm::Grpo);
    config.environment.tasks = vec!["find-plant".into()];
    config.environment.simulator.step_limit = 2;
    config.demonstrations = Count::literal(1);
    let mut pool = ScienceWorldPool::new(&installation, &config.environment.simulator, 1).unwrap();
    let error = ScienceWorldTasks::begin(&config, &mut pool).unwrap_err().to_string();
    assert!(error.contains("`environment.simulator.step_limit` = 2: "), "{error}");
    assert!(error.contains("find-plant 0 of 1") && error.contains("set it to "), "{error}");
}

#[test]
fn a_failed_episode_stays_failed_and_reset_task_is_masked() {
    let Some(installation) = simulator::installation() else { return };
    let mut pool = pool(&installation, 1);
    let env = &mut pool.environments()[0];
    let start = env.reset(&task("boil", 0)).unwrap();
    assert!(start.goal.starts_with("Your task is to boil water."), "{}", start.goal);
    assert!(
        start.observation.starts_with("This room is called the hallway."),
        "{}",
        start.observation
    );
    let listed = env.admissible().unwrap();
    assert!(listed.is_sorted() && listed.iter().any(|a| a == "look around"));
    assert!(!listed.iter().any(|a| a == "reset task"));
    assert_eq!(env.admissible().unwrap(), listed, "the second request makes no call");
    let masked = env.step(" Reset  TASK ").unwrap();
    assert_eq!(
        (masked.reward, masked.score, masked.done, masked.success),
        (0.0, 0.0, false, false)
    );
    let failed = env.step("focus on air").unwrap();
    assert_eq!(
        (failed.reward, failed.score, failed.done, failed.success),
        (-100.0, -100.0, true, false)
    );
    for action in ["look around", "reset task"] {
        let Error::World(error) = env.step(action).unwrap_err() else {
            panic!("not an error of the simulator")
        };
        let kind = error.downcast_ref::<SimulatorError>();
        assert!(matches!(kind, Some(SimulatorError::Finished { .. })), "{error}");
    }
    env.reset(&task("boil", 1)).unwrap();
    assert_eq!(env.step("look around").unwrap().score, 0.0, "a new episode starts at 0");
}

#[test]
fn the_tables_agree_with_the_simulator() {
    let Some(installation) = simulator::installation() else { return };
    let jvm = Jvm::start(&installation, &JvmConfig::default(), 1).unwrap();
    let limit = Duration::from_secs(120);
    let mut simulator =
        Simulator::connect(jvm.endpoint(), &installation.simulator_jar, limit).unwrap();
    assert_eq!(simulator.task_names().unwrap(), task_names().collect::<Vec<_>>());
    let mut simplifications = SIMPLIFICATIONS[1..].to_vec();
    simplifications.sort_unstable();
    assert_eq!(simulator.simplifications().unwrap(), simplifications);
    for name in task_names() {
        assert_eq!(
            simulator.variation_count(name).unwrap(),
            i64::from(variation_count(name).unwrap()),
            "{name}"
        );
        simulator.load(&task(name, 0), "easy", false).unwrap();
        for split in [Split::Train, Split::Dev, Split::Test] {
            let ours: Vec<i64> = variations(name, split).unwrap().map(i64::from).collect();
            assert_eq!(simulator.variations(split).unwrap(), ours, "{name} {split:?}");
        }
        assert!(check_simplification(name, "easy").is_ok());
    }
    assert!(simulator.possible_actions().unwrap().contains(&"open OBJ".to_owned()));
    assert!(simulator.possible_objects().unwrap().len() > 3);
    // An action and a response with every character that the protocol escapes.
    let strange = simulator.step("look at \\n\r\n\\\\ \u{e9}").unwrap();
    assert!(!strange.is_empty());
    assert!(simulator.look().unwrap().contains("\n\t"), "responses are unescaped");
}

#[test]
fn running_out_of_time_ends_an_episode_without_success() {
    let Some(installation) = simulator::installation() else { return };
    let end_by_waiting = |success| {
        let config = ScienceWorldConfig { step_limit: 5, success, ..ScienceWorldConfig::default() };
        let mut pool = ScienceWorldPool::new(&installation, &config, 1).unwrap();
        let env = &mut pool.environments()[0];
        env.reset(&task("find-plant", 0)).unwrap();
        env.step("teleport to outside").unwrap();
        let last = env.step("wait").unwrap();
        assert!(last.done && last.score > 0.0 && last.score < 100.0, "{last:?}");
        last.success
    };
    assert!(!end_by_waiting(SuccessRule::Score100));
    assert!(end_by_waiting(SuccessRule::DoneWithPositiveScore));
}

#[test]
fn environments_of_one_process_do_not_disturb_each_other() {
    let Some(installation) = simulator::installation() else { return };
    let tasks =
        [task("find-plant", 3), task("lifespan-shortest-lived", 1), task("power-component", 0)];
    for call_pattern in [CallPattern::Lean, CallPattern::Official] {
        let config = ScienceWorldConfig { call_pattern, ..ScienceWorldConfig::default() };
        let demonstrations = |environments| {
            let mut pool = ScienceWorldPool::new(&installation, &config, environments).unwrap();
            assert_eq!(pool.process_ids().len(), 1);
            pool.demonstrations(&tasks, &DemonstrationConfig::GOLD, 0, &mut |_| ()).unwrap().solved
        };
        let alone = demonstrations(1);
        assert!(alone.iter().all(|d| d.turns.last().unwrap().step.success));
        assert_eq!(demonstrations(3), alone, "{call_pattern:?}");
    }
}

#[test]
fn an_action_that_the_simulator_cannot_parse_is_not_valid() {
    let Some(installation) = simulator::installation() else { return };
    let mut pool = pool(&installation, 1);
    let env = &mut pool.environments()[0];
    env.reset(&task("boil", 0)).unwrap();
    assert!(!env.step("sing a song").unwrap().valid);
    for other_way in ["reset task", "reset", "restart", "reset the task", "task reset"] {
        assert!(!env.step(other_way).unwrap().valid, "{other_way}");
    }
    assert!(env.step("look around").unwrap().valid);
    // "open door" asks which of six doors is meant. Only a number in the list is an answer.
    for answer in
        ["abc", "6", "-1", "99999999999", "", "0 ", "1.", "look around", "reset task", "é"]
    {
        env.reset(&task("boil", 0)).unwrap();
        let asked = env.step("open door").unwrap();
        assert!(asked.valid && asked.observation.starts_with("Ambiguous request"), "{asked:?}");
        assert!(!env.step(answer).unwrap().valid, "{answer:?}");
    }
    env.reset(&task("boil", 0)).unwrap();
    env.step("open door").unwrap();
    assert!(env.step("0").unwrap().valid);
    assert!(env.look().unwrap().contains("hallway") && env.inventory().unwrap().contains("orange"));
}
