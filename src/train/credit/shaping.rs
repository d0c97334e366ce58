//! What tokens are paid beside the reward of their turn: a penalty for long answers, and the KL to the reference.

use serde::{Deserialize, Serialize};

use crate::advantage::dapo::Overlong;
use crate::objective::kl::KlKind;
use crate::objective::kl_reward::{kl_in_reward, KlControl};
use crate::rollout::rows::{layout, Row};
use crate::rollout::trajectory::Trajectory;
use crate::train::credit::gae::{token_advantages, GaeConfig, TokenCredit};
use crate::train::credit::reward::RewardConfig;
use crate::train::learn::accumulate::{rows_of, widest};
use crate::train::learn::learner::Learner;
use crate::train::learn::prepare::flat;
use crate::train::step::StepSettings;
use crate::{Error, Result};

/// KL in the reward: every sampled token pays β·kl against the frozen reference (Ziegler et al. 2019, eq. 2).
///
/// With `update.policy.kl` set as well, the loss has its own term beside it, and the reference is computed twice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlReward {
    /// The estimator of a token's KL.
    pub kind: KlKind,
    /// β at the first step, and how it goes on.
    pub control: KlControl,
}

impl KlReward {
    /// Checks every field, and that β stays positive over steps of `samples` episodes.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field.
    pub fn validate(&self, samples: usize) -> Result<()> {
        self.control.validate()?;
        let mut falling = self.control;
        falling.update(0.0, samples)
    }
}

/// What a step's episodes are paid.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewards {
    /// By the environment, one number a turn.
    earned: Vec<Vec<f64>>,
    /// Beside it, one number a sampled token; `None` where nothing is.
    tokens: Option<Vec<Vec<f64>>>,
    /// Both together, one number a turn.
    turns: Vec<Vec<f64>>,
}

impl Rewards {
    /// What `reward` pays, and nothing else.
    pub fn new(trajectories: &[Trajectory], reward: &RewardConfig) -> Self {
        let earned = reward.of(trajectories);
        Self { turns: earned.clone(), tokens: None, earned }
    }

    /// One reward a turn, for [`turn_advantages`](crate::train::credit::turn_advantages): the environment's, and the sum of what the
    /// turn's tokens are paid.
    pub fn turns(&self) -> &[Vec<f64>] {
        &self.turns
    }

    /// What the environment paid each episode. Length and KL are left out: what a run reports as its return means the same
    /// with and without them.
    pub fn returns(&self) -> Vec<f64> {
        self.earned.iter().map(|of_turns| of_turns.iter().sum()).collect()
    }

    /// Advantages and value targets, every token's own pay at its place ([`token_advantages`]).
    ///
    /// # Errors
    /// As [`token_advantages`].
    pub fn credit(
        &self,
        trajectories: &[Trajectory],
        values: &[Vec<f64>],
        config: &GaeConfig,
    ) -> Result<TokenCredit> {
        token_advantages(trajectories, &self.earned, self.tokens.as_deref(), values, config)
    }

    /// Pays `pay` beside, one list a trajectory over its sampled tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ.
    pub fn add_token_rewards(
        &mut self,
        trajectories: &[Trajectory],
        pay: &[Vec<f64>],
    ) -> Result<()> {
        let tokens: Vec<usize> = trajectories.iter().map(Trajectory::sampled_tokens).collect();
        let got: Vec<usize> = pay.iter().map(Vec::len).collect();
        if got != tokens {
            return Err(Error::Shape {
                name: "token rewards",
                expected: format!("tokens {tokens:?}"),
                got,
            });
        }
        for ((trajectory, turns), pay) in trajectories.iter().zip(&mut self.turns).zip(pay) {
            let mut pay = pay.iter();
            for (turn, total) in trajectory.turns.iter().zip(turns) {
                *total += pay.by_ref().take(turn.action_ids.len()).sum::<f64>();
            }
        }
        match &mut self.tokens {
            Some(sums) => {
                sums.iter_mut()
                    .flatten()
                    .zip(pay.iter().flatten())
                    .for_each(|(sum, pay)| *sum += pay);
            }
            None => self.tokens = Some(pay.to_vec()),
        }
        Ok(())
    }
}

/// What [`Overlong`] pays each sampled token, one list a trajectory: the punishment of a turn's answer at its last token, by
/// the answer's own length, the stop token included (verl puts it there, of an answer that is the whole episode).
///
/// # Errors
/// As [`Overlong::validate`].
pub fn overlong_rewards(trajectories: &[Trajectory], overlong: &Overlong) -> Result<Vec<Vec<f64>>> {
    let of_trajectory = |t: &Trajectory| {
        let mut pay = Vec::with_capacity(t.sampled_tokens());
        for length in t.turns.iter().map(|turn| turn.action_ids.len()).filter(|&length| length > 0)
        {
            pay.extend(std::iter::repeat_n(0.0, length - 1));
            pay.push(overlong.reward(length)?);
        }
        Ok(pay)
    };
    trajectories.iter().map(of_trajectory).collect()
}

/// −β·kl of each sampled token, one list a trajectory, and the mean of kl over all of them, nats.
///
/// kl compares the log-probabilities of sampling with those of the learner's reference at the same temperature and over the
/// same choice.
///
/// # Errors
/// A learner without a reference, an episode without sampled tokens, β out of range, a number that is not finite.
pub fn kl_rewards(
    learner: &Learner,
    trajectories: &[Trajectory],
    kind: KlKind,
    coef: f64,
    settings: &StepSettings,
) -> Result<(Vec<Vec<f64>>, f64)> {
    let rows = rows_of(trajectories, settings.rows)?;
    let none =
        || Error::setting("kl_reward", "set", "the policy has no reference to be compared with");
    let reference = learner.reference_log_probs(&rows, settings.update)?.ok_or_else(none)?;
    let chosen: Vec<&Row> = rows.iter().collect();
    let layout = layout(&chosen, widest(&chosen))?;
    let sampled = flat(&layout, "log_probs", rows.iter().map(|row| row.old_log_probs.as_slice()))?;
    let reference = flat(&layout, "ref_log_probs", reference.iter().map(Vec::as_slice))?;
    let nothing = vec![0.0; sampled.len()];
    let (paid, kl) = kl_in_reward(&nothing, &sampled, &reference, &layout, kind, coef)?;
    let mut of_trajectories = vec![Vec::new(); trajectories.len()];
    for (row, paid) in rows.iter().zip(paid.chunks_exact(layout.tokens())) {
        of_trajectories[row.trajectory].extend_from_slice(&paid[..row.positions.len()]);
    }
    Ok((of_trajectories, kl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Start, Task};
    use crate::objective::kl_reward::AdaptiveKl;
    use crate::rollout::trajectory::{End, Turn};
    use crate::settings::{Positive, Unit};
    use crate::train::credit::gae::GaeLevel;

    /// An episode of turns of so many sampled tokens, solved in its last.
    fn episode(lengths: &[usize]) -> Trajectory {
        let turn = |&n: &usize| Turn { action_ids: vec![7; n], valid: true, ..Turn::default() };
        let mut turns: Vec<Turn> = lengths.iter().map(turn).collect();
        turns.last_mut().unwrap().score = 100.0;
        let start = Start { goal: String::new(), observation: String::new() };
        let task = Task { name: "t".into(), variation: 0 };
        Trajectory { task, group: 0, member: 0, start, turns, success: true, end: End::Done }
    }

    const REWARD: RewardConfig = RewardConfig::Success { value: Positive::literal(2.0) };

    #[test]
    fn a_turn_pays_for_its_own_length_at_its_last_token() {
        let played = [episode(&[2, 4]), episode(&[3])];
        let overlong = Overlong { limit: 4, buffer: 2, penalty: 1.0 };
        let pay = overlong_rewards(&played, &overlong).unwrap();
        assert_eq!(pay, [vec![0.0, 0.0, 0.0, 0.0, 0.0, -1.0], vec![0.0, 0.0, -0.5]]);
        let mut rewards = Rewards::new(&played, &REWARD);
        rewards.add_token_rewards(&played, &pay).unwrap();
        assert_eq!(rewards.turns(), [vec![0.0, 1.0], vec![1.5]]);
        assert_eq!(rewards.returns(), [2.0, 2.0]);
    }

    #[test]
    fn pay_adds_up_and_reaches_its_token_and_no_turn_of_another() {
        let played = [episode(&[1, 2])];
        let mut rewards = Rewards::new(&played, &REWARD);
        rewards.add_token_rewards(&played, &[vec![-0.25, 0.0, -0.5]]).unwrap();
        rewards.add_token_rewards(&played, &[vec![0.0, -1.0, 0.0]]).unwrap();
        assert_eq!(rewards.turns(), [vec![-0.25, 0.5]]);
        let config = |level| GaeConfig { level, whiten: false, ..GaeConfig::default() };
        let returns = |level| {
            rewards.credit(&played, &[vec![0.0; 3]], &config(level)).unwrap().returns.concat()
        };
        assert_eq!(returns(GaeLevel::Trajectory), [0.25, 0.5, 1.5]);
        assert_eq!(returns(GaeLevel::Turn), [0.25, 0.5, 0.5]);
        // Every turn is paid the episode, and its own tokens alone.
        assert_eq!(returns(GaeLevel::Token), [1.75, 0.5, 1.5]);
        let error = rewards.add_token_rewards(&played, &[vec![0.0; 2]]).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "token rewards", .. }));
    }

    #[test]
    fn nothing_beside_leaves_every_number_as_it_was() {
        let played = [episode(&[1, 2])];
        let (rewards, values) = (Rewards::new(&played, &REWARD), [vec![0.3, 0.2, 0.1]]);
        let gamma = Unit::literal(0.9);
        let lambda = Unit::literal(0.7);
        let config = GaeConfig { gamma, lambda, ..GaeConfig::default() };
        let plain = token_advantages(&played, rewards.turns(), None, &values, &config).unwrap();
        assert_eq!(rewards.credit(&played, &values, &config).unwrap(), plain);
        assert_eq!(rewards.turns(), REWARD.of(&played));
    }

    #[test]
    fn a_horizon_that_one_step_exhausts_is_refused() {
        let control = KlControl::Adaptive(AdaptiveKl { coef: 0.1, target: 0.1, horizon: 10.0 });
        let kl = KlReward { kind: KlKind::K1, control };
        kl.validate(49).unwrap();
        assert!(kl.validate(50).unwrap_err().to_string().contains("kl_reward.control.horizon"));
    }
}
