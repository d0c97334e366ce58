//! An entropy regulariser of your own, in an agent's training.
//!
//! EPO holds the entropy inside a band around its history, with no force inside the band. The
//! `Spring` below pulls each token towards the history of its own turn instead, harder the further
//! it is away. It is one `impl` with one method; the trainer, the checkpoints and the report treat
//! it like a built-in one. The agent learns the toy task of `examples/quickstart.rs`.
//!
//! Compare it with the built-in methods, in one report:
//!
//! ```text
//! cargo run --release --example custom_regularizer -- --out runs/spring
//! cargo run --release --example custom_regularizer -- --out runs/epo --set entropy.method.kind=epo
//! cargo run --release --example custom_regularizer -- --out runs/no --set entropy.method.kind=none
//! cargo run --release --example report -- runs/spring runs/epo runs/no --out compare.html
//! ```

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::entropy::{
    AverageHistory, Averaging, BetaSchedule, EntropyControl, EntropyInputs, EntropyMethod,
    EntropyRegularizer, State,
};
use epo::objective::{LossOutput, Metrics};
use epo::run::stop_on_ctrl_c;
use epo::settings::{Count, NonNegative};
use epo::train::config::TrainConfig;
use epo::train::credit::turn_advantages;
use epo::train::{update_policy, Advantages, Trainer};

use common::output::{self, print_line};
use common::{toy, RunArgs};

mod common;

/// λ·β·agg((H − H̄)²): a spring of stiffness λ·β between a token's entropy and the history of its
/// turn.
struct Spring {
    lambda: f64,
}

impl State for Spring {}

impl EntropyRegularizer for Spring {
    fn term(&self, inputs: &EntropyInputs) -> epo::Result<LossOutput> {
        // A turn without a history yet is compared with itself: no force.
        let references = inputs.references()?.into_iter().zip(inputs.entropies());
        let targets: Vec<f64> = references.map(|(h_bar, &h)| h_bar.unwrap_or(h)).collect();
        let target_bt = inputs.batch.tensor_like(&targets, &inputs.entropy_bt)?;
        let spring = inputs.batch.aggregate(&(&inputs.entropy_bt - target_bt)?.sqr()?)?;
        let mut metrics = Metrics::new();
        metrics.add("entropy/spring", f64::from(spring.to_scalar::<f32>()?));
        Ok(LossOutput { loss: (spring * (self.lambda * inputs.beta))?, metrics })
    }
}

/// The spring with a history per turn and a β that fades: each part could be your own as well.
fn spring_control() -> EntropyControl {
    let per_turn = true;
    let history = AverageHistory::new(Averaging::Cumulative {}, per_turn);
    let beta = BetaSchedule::Linear {
        from: NonNegative::literal(1.0),
        to: NonNegative::literal(0.25),
        total_steps: Count::literal(30),
    };
    EntropyControl::new(Box::new(Spring { lambda: 0.05 }), Box::new(history), Box::new(beta))
}

/// Learns to find a coin in one of four boxes, with a regulariser that this file defines.
#[derive(Debug, Parser)]
#[command(version, after_help = common::AFTER_HELP)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// The settings of `examples/quickstart.rs`, with a regulariser of the program's own.
fn config(smoke: bool) -> TrainConfig {
    let mut config = toy::config(smoke);
    config.entropy.method = EntropyMethod::Custom;
    config
}

fn main() -> ExitCode {
    output::run(train)
}

fn train() -> Result<()> {
    let began = Instant::now();
    let args = Args::parse();
    let base = config(args.run.smoke);
    let Some(folder) = args.run.folder("custom-regularizer", base)? else { return Ok(()) };
    let config = folder.config.clone();
    let advantage = config.algorithm.grpo()?;
    let stop = stop_on_ctrl_c()?;
    let setup = folder.checkpoint.is_none().then(toy::setup).transpose()?;
    let environments = toy::environments(config.environments.get());
    let own = config.entropy.method == EntropyMethod::Custom;
    let entropy = own.then(spring_control);
    let mut run = Trainer::open_with(folder, environments, setup, entropy)?.stopping_at(stop);
    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let settings = config.settings(step, run.lr_factor());
        let advantages = turn_advantages(&rollouts.trajectories, rewards.turns(), &advantage)?;
        let advantages = Advantages::Turns(advantages);
        let record = update_policy(&mut run.agent, &rollouts, &returns, &advantages, &settings)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    print_line(format_args!("before: {}\nafter:  {}", before[0], after[0]))?;
    print_line(format_args!("summary {}", run.summary(began, &before[0], &after[0])))?;
    Ok(())
}
