//! EPO from scratch: the whole method in one file, without a trainer.
//!
//! A coin lies in one of four locked boxes. `look boxes` names the box and unlocks all of them;
//! `open COLOUR` ends the episode. The policy is a small decoder that starts from noise, and words
//! are its tokens. It must discover both actions, and use what it saw.
//!
//! Each training step plays groups of episodes, compares the returns within a group (GRPO), and
//! updates the decoder with loss = L_PG − λ[L_H − β·L_smooth], the objective of EPO. Equations are
//! those of arXiv 2509.22576, version 2.
//!
//! `cargo run --release --example epo_from_scratch`

use candle_core::{DType, Device, Tensor};
use epo::advantage::{grpo, Groups};
use epo::entropy::{
    AverageHistory, Averaging, Band, BetaSchedule, EntropyControl, EpoHinge, Granularity,
};
use epo::kernels::ScoreOptions;
use epo::objective::{policy_loss, LossInputs, PolicyLoss, TokenBatch};
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{
    Decoder, DecoderConfig, Gradients, KvCache, Parameters, Request, SamplingParams,
};
use epo::rng::{Purpose, Stream};
use epo::settings::{AtLeast, Positive};
use epo::Result;

use output::print_line;

#[path = "common/output.rs"]
mod output;

const SEED: u64 = 1;
const STEPS: u64 = 100;
const EPOCHS: usize = 2; // optimiser steps on the same episodes
const LEARNING_RATE: f64 = 5e-3;
const MAX_GRAD_NORM: f64 = 1.0;

const TURNS: usize = 3; // per episode
const ACTION: usize = 2; // tokens per turn: a verb and an object
const GROUP: usize = 32; // episodes of the same task, compared with each other
const EPISODES: usize = 4 * GROUP; // one group per box

const LAMBDA: f64 = 0.1; // λ, weight of the entropy term
const ALPHA: f64 = 1.0; // α, weight of the smoothing inside it
const GAMMA: f64 = 3.0; // γ, decay of β

// The vocabulary: a token id is an index into it.
const WORDS: [&str; 8] = ["look", "open", "boxes", "nothing", "red", "blue", "green", "gold"];
const LOOK: u32 = 0;
const OPEN: u32 = 1;
const BOXES: u32 = 2;
const NOTHING: u32 = 3;
const FIRST_COLOUR: u32 = 4;

/// The world: one episode.
#[derive(Default)]
struct World {
    coin: u32,
    looked: bool,
    found: bool,
    over: bool,
}

impl World {
    /// Plays an action; returns the observation and the reward.
    fn step(&mut self, action: &[u32]) -> (u32, f64) {
        match *action {
            [LOOK, BOXES] => {
                let reward = if self.looked { 0.0 } else { 0.25 };
                self.looked = true;
                (self.coin, reward)
            }
            [OPEN, colour] if self.looked && colour >= FIRST_COLOUR => {
                self.over = true;
                self.found = colour == self.coin;
                (NOTHING, if self.found { 0.75 } else { 0.0 })
            }
            _ => (NOTHING, 0.0),
        }
    }
}

/// A turn: one row of the batch.
struct Turn {
    episode: usize,
    /// Everything read and sampled so far in the episode; the last tokens are the action.
    ids: Vec<u32>,
    /// log π_old of the action's tokens.
    log_probs: Vec<f32>,
    /// Entropies (nats) of the distributions they were sampled from, eq. 1.
    entropies: Vec<f32>,
}

/// The episodes of one training step.
struct Rollouts {
    turns: Vec<Turn>,
    /// Return of every episode: the sum of its rewards.
    returns: Vec<f64>,
    found: usize,
}

/// Plays all episodes at the same time, one turn of every episode after the other.
fn play(decoder: &Decoder, step: u64, greedy: bool) -> Result<Rollouts> {
    let sampling = SamplingParams { max_tokens: ACTION, greedy, ..SamplingParams::default() };
    let mut cache = KvCache::new(decoder.config(), EPISODES);
    let mut worlds = Vec::new();
    for episode in 0..EPISODES {
        let coin = FIRST_COLOUR + (episode / GROUP) as u32;
        worlds.push(World { coin, ..World::default() });
    }
    let mut observations = vec![BOXES; EPISODES];
    let mut histories = vec![Vec::new(); EPISODES];
    let mut rollouts = Rollouts { turns: Vec::new(), returns: vec![0.0; EPISODES], found: 0 };
    for turn in 0..TURNS as u64 {
        let mut requests = Vec::new();
        for (row, world) in worlds.iter().enumerate() {
            if !world.over {
                let prompt = &observations[row..=row];
                let stream = Stream::new(SEED, Purpose::Rollout, step, 0, row as u32);
                requests.push(Request { row, prompt, stream, turn, choices: None });
            }
        }
        let playing: Vec<usize> = requests.iter().map(|request| request.row).collect();
        let sampled = decoder.generate(&mut cache, &requests, &sampling)?;
        for (episode, action) in playing.into_iter().zip(sampled) {
            let history: &mut Vec<u32> = &mut histories[episode];
            history.push(observations[episode]);
            history.extend(&action.ids);
            let (observation, reward) = worlds[episode].step(&action.ids);
            observations[episode] = observation;
            rollouts.returns[episode] += reward;
            rollouts.turns.push(Turn {
                episode,
                ids: history.clone(),
                log_probs: action.log_probs,
                entropies: action.entropies,
            });
        }
    }
    rollouts.found = worlds.iter().filter(|world| world.found).count();
    Ok(rollouts)
}

/// log π and entropies of all sampled tokens under the current weights, both [rows, tokens].
fn forward(decoder: &Decoder, turns: &[Turn]) -> Result<(Tensor, Tensor)> {
    let rows: Vec<&[u32]> = turns.iter().map(|turn| turn.ids.as_slice()).collect();
    let mut predictors: Vec<u32> = Vec::new(); // a token is predicted by the hidden state before it
    let mut targets: Vec<u32> = Vec::new();
    let mut end = 0;
    for ids in &rows {
        end += ids.len() as u32;
        predictors.extend(end - ACTION as u32 - 1..end - 1);
        targets.extend(&ids[ids.len() - ACTION..]);
    }
    let predictors = Tensor::new(predictors, decoder.device())?;
    let targets = Tensor::new(targets, decoder.device())?;
    let hidden = decoder.forward_packed(&rows)?.index_select(&predictors, 0)?;
    let (log_probs, entropies) = decoder.score(&hidden, &targets, &ScoreOptions::at(1.0))?;
    let shape = (rows.len(), ACTION);
    Ok((log_probs.reshape(shape)?, entropies.reshape(shape)?))
}

/// Numbers of all turns as a tensor [rows, tokens].
fn tensor(turns: &[Turn], values: impl Fn(&Turn) -> Vec<f32>) -> Result<Tensor> {
    let values: Vec<f32> = turns.iter().flat_map(values).collect();
    Ok(Tensor::from_vec(values, (turns.len(), ACTION), &Device::Cpu)?)
}

/// The three parts of EPO: regulariser, history and β.
fn entropy_control() -> Result<EntropyControl> {
    let band = Band::new(0.5, 1.5)?; // κ_l·H̄ and κ_r·H̄
    let hinge = EpoHinge::new(LAMBDA, ALPHA, band, Granularity::Token)?; // eq. 2, 3, 4 and 6
    let history = AverageHistory::new(Averaging::Cumulative {}, false); // H̄ of the steps before
    let gamma = Positive::try_from(GAMMA)?;
    let total_steps = AtLeast::try_from(STEPS as usize)?;
    let beta = BetaSchedule::PaperV2 { gamma, total_steps }; // eq. 5
    Ok(EntropyControl::new(Box::new(hinge), Box::new(history), Box::new(beta)))
}

fn main() -> Result<()> {
    let config = DecoderConfig::tiny(WORDS.len());
    let parameters = Parameters::init(&config, SEED, DType::F32, &Device::Cpu)?;
    let decoder = Decoder::new(&config, &parameters)?;
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut entropy = entropy_control()?;
    let objective = PolicyLoss { kl: None, ..PolicyLoss::default() }; // PPO's clip, 0.2 both ways
    let task_of_episode: Vec<usize> = (0..EPISODES).map(|episode| episode / GROUP).collect();

    for step in 0..STEPS {
        let Rollouts { turns, returns, found } = play(&decoder, step, false)?;

        // A = (R − mean of the group) / std of the group, the same for every token of an episode.
        let advantages = grpo(&returns, &Groups::over_rows(&task_of_episode), true)?;

        let episode_of_turn: Vec<usize> = turns.iter().map(|turn| turn.episode).collect();
        let batch = TokenBatch::turns(&vec![ACTION; turns.len()], &episode_of_turn)?;
        let old_log_probs = tensor(&turns, |turn| turn.log_probs.clone())?;
        let advantages = tensor(&turns, |turn| vec![advantages[turn.episode] as f32; ACTION])?;
        let rollout_entropies = tensor(&turns, |turn| turn.entropies.clone())?;

        entropy.begin_step(step, &rollout_entropies, &batch)?;
        for _ in 0..EPOCHS {
            let (log_probs, entropies) = forward(&decoder, &turns)?;
            let inputs = LossInputs::new(&log_probs, &old_log_probs, &advantages, &batch);
            let policy_loss = policy_loss(&inputs, &objective)?;
            let total = policy_loss.plus(entropy.term(&entropies, &batch)?)?; // eq. 6
            let gradients = Gradients::of(&total.loss, &parameters)?;
            optimizer.step_clipped(&parameters, &gradients, LEARNING_RATE, MAX_GRAD_NORM)?;
        }
        let mean_return = returns.iter().sum::<f64>() / EPISODES as f64;
        let success = found as f64 / EPISODES as f64;
        let nats = entropy.report()?.get("entropy/rollout").unwrap_or(f64::NAN);
        let beta = entropy.beta();
        print_line(format_args!(
            "step {step:2}  return {mean_return:.2}  success {success:.2}  entropy {nats:.3}  \
             β {beta:.2}"
        ))?;
        entropy.finish_step()?;
    }

    let trained = play(&decoder, STEPS, true)?;
    for turn in trained.turns.iter().filter(|turn| turn.episode % GROUP == 0) {
        let words: Vec<&str> = turn.ids.iter().map(|&id| WORDS[id as usize]).collect();
        print_line(words.join(" "))?;
    }
    print_line(format_args!("success {:.2}", trained.found as f64 / EPISODES as f64))
}
