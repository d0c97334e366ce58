//! The penalty for overlong actions as rewards of tokens.

use crate::advantage::dapo::Overlong;
use crate::rollout::trajectory::Trajectory;
use crate::Result;

/// The overlong penalty of each sampled token, one list per trajectory.
///
/// Each turn's action is penalised by its own length, including the stop token, at its last token.
/// verl does the same for a response that is the whole episode.
///
/// # Errors
/// As [`Overlong::validate`].
pub fn overlong_rewards(trajectories: &[Trajectory], overlong: &Overlong) -> Result<Vec<Vec<f64>>> {
    let of_trajectory = |t: &Trajectory| {
        let mut rewards = Vec::with_capacity(t.sampled_tokens());
        for length in t.turns.iter().map(|turn| turn.action_ids.len()) {
            if length > 0 {
                rewards.extend(std::iter::repeat_n(0.0, length - 1));
                rewards.push(overlong.reward(length)?);
            }
        }
        Ok(rewards)
    };
    trajectories.iter().map(of_trajectory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Positive;
    use crate::train::credit::reward::{RewardConfig, Rewards};

    const REWARD: RewardConfig = RewardConfig::Success { value: Positive::literal(2.0) };

    #[test]
    fn a_turn_is_penalised_for_its_own_length_at_its_last_token() {
        let played = [Trajectory::solved(&[2, 4]), Trajectory::solved(&[3])];
        let overlong = Overlong { limit: 4, buffer: 2, penalty: 1.0 };
        let penalties = overlong_rewards(&played, &overlong).unwrap();
        assert_eq!(penalties, [vec![0.0, 0.0, 0.0, 0.0, 0.0, -1.0], vec![0.0, 0.0, -0.5]]);
        let mut rewards = Rewards::new(&played, &REWARD);
        rewards.add_token_rewards(&played, &penalties).unwrap();
        assert_eq!(rewards.turns(), [vec![0.0, 1.0], vec![1.5]]);
        assert_eq!(rewards.returns(), [2.0, 2.0]);
    }
}
