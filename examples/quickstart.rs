//! The whole loop on a toy world, in seconds: clone a little, then learn by comparing episodes, with EPO.
//!
//! Four boxes, a coin in one of them: `look` tells which, `open COLOUR` ends the episode. A policy of about thirty thousand
//! weights clones the four solutions, too briefly to solve the task, and then finds out by playing.
//!
//! `cargo run --release --example quickstart`

use epo::entropy::EntropyConfig;
use epo::env::{DemonstratedTurn, Demonstration, Environment, Task, ToyEnvironment};
use epo::rollout::{demonstration_texts, RolloutConfig, Trajectory};
use epo::train::*;
use epo::Result;

const SEED: u64 = 3;
const STEPS: u64 = 30;
const LEARNING_RATE: f64 = 1e-3;

fn task(variation: u32) -> Task {
    Task { name: ToyEnvironment::TASK.into(), variation }
}

/// Looks, then opens the box that was named.
fn solve(variation: u32) -> Result<Demonstration> {
    let mut environment = ToyEnvironment::new();
    let start = environment.reset(&task(variation))?;
    let seen = environment.step("look")?;
    let colour = seen.observation.split(' ').nth(5).unwrap_or_default().to_owned();
    let open = format!("open {colour}");
    let end = environment.step(&open)?;
    let turn = |action: &str, step| DemonstratedTurn { action: action.into(), step, imitated: true };
    Ok(Demonstration { task: task(variation), start, turns: vec![turn("look", seen), turn(&open, end)] })
}

fn main() -> Result<()> {
    let rollout =
        RolloutConfig { tasks: 4, group: 16, max_turns: 3, max_action_tokens: 8, ..RolloutConfig::default() };
    let agent = AgentConfig {
        policy: PolicyConfig { vocabulary: 300, hidden_size: 32, layers: 2, context: 96 },
        model: ModelConfig::default(),
        optimizer: AdamWConfig { beta2: 0.95, ..AdamWConfig::default() },
        entropy: EntropyConfig::paper_v2(),
        rollout,
    };
    let (update, advantage) = (UpdateConfig::default(), AdvantageConfig::default());
    let panel = Panel::new("toy", (0..4).map(task).collect())?;
    let schedule = TaskSchedule::new(&panel, SEED, rollout.tasks)?;
    let mut environments: Vec<Box<dyn Environment>> =
        (0..8).map(|_| Box::new(ToyEnvironment::new()) as Box<dyn Environment>).collect();

    let demonstrations = (0..4).map(solve).collect::<Result<Vec<_>>>()?;
    let mut agent = Agent::new(&agent, demonstrations.iter().flat_map(demonstration_texts), SEED)?;
    let folder = std::env::temp_dir().join(format!("epo-quickstart-{}", std::process::id()));
    let mut recorder = Recorder::create(&folder)?;
    let cloning = CloningConfig {
        demonstrations: 4,
        epochs: 25,
        batch: 4,
        learning_rate: 3e-3,
        observation_weight: 0.1,
    };
    clone_demonstrations(&mut agent, &demonstrations, &cloning, &update, SEED, &mut recorder)?;

    println!("step  solved  score  entropy");
    for step in 0..STEPS {
        // Sixteen episodes of each task, whose returns, and turns from the same situation, are compared.
        let episodes = group_episodes(&schedule, SEED, step, rollout.group);
        let limits = rollout.play(rollout.temperature);
        let rollouts = agent.play(&mut environments, &episodes, &limits, &mut |_| ())?;
        let rewards: Vec<Vec<f64>> = rollouts.trajectories.iter().map(Trajectory::gains).collect();
        let returns: Vec<f64> = rewards.iter().map(|of_turns| of_turns.iter().sum()).collect();
        let advantages = Advantages::Turns(turn_advantages(&rollouts.trajectories, &rewards, &advantage)?);
        let settings =
            StepSettings { seed: SEED, step, lr: LEARNING_RATE, rows: rollout.rows, update: &update };
        let record = update_policy(&mut agent, &rollouts, &returns, &advantages, &settings)?;
        recorder.record(&record)?;
        if step % 3 == 0 || step + 1 == STEPS {
            let number = |key| record.number(key).unwrap_or(f64::NAN);
            let (solved, score, entropy) = (number("success"), number("score"), number("entropy"));
            let bar = "#".repeat((40.0 * solved) as usize);
            println!("{step:4}  {solved:6.2}  {score:5.1}  {entropy:7.3}  {bar}");
        }
    }
    println!("drawn on {}", write_report(&[&folder])?.display());
    Ok(())
}
