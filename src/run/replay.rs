//! Replay of recorded actions, to check that an environment still responds as it did.

use std::fmt::{Debug, Display, Formatter};

use crate::env::Environment;
use crate::rollout::trajectory::{End, Trajectory};
use crate::Result;

/// A difference between an environment's response and the recorded one.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The turn, from 0; `None` for the start of the episode.
    pub turn: Option<usize>,
    /// The field that differs: `goal`, `observation`, `reward`, `score`, `valid`, `done` or
    /// `success`.
    pub field: &'static str,
    /// The recorded value.
    pub recorded: String,
    /// The value of the replay.
    pub replayed: String,
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let turn = self.turn.map_or("start".to_owned(), |turn| format!("turn {turn}"));
        let Self { field, recorded, replayed, .. } = self;
        write!(f, "{turn}: `{field}`\n  recorded {recorded}\n  replayed {replayed}")
    }
}

/// Plays a recorded episode's actions in `environment` and compares every response bit for bit.
///
/// `ask` also requests the admissible actions before each turn, as a policy that samples among them
/// does: some simulators respond differently after such a request. If the replay ends earlier or
/// later than the record, that is a difference in `done`, and later turns are not compared.
///
/// # Errors
/// The environment's own: an unknown task, or a simulator that cannot be restarted.
pub fn replay_episode(
    environment: &mut dyn Environment,
    episode: &Trajectory,
    ask: bool,
) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    let start = environment.reset(&episode.task)?;
    compare(&mut differences, None, "goal", &episode.start.goal, &start.goal);
    compare(&mut differences, None, "observation", &episode.start.observation, &start.observation);
    for (i, turn) in episode.turns.iter().enumerate() {
        if ask {
            environment.admissible()?;
        }
        let at = Some(i);
        let last = i + 1 == episode.turns.len();
        let step = environment.step(&turn.action)?;
        compare(&mut differences, at, "observation", &turn.observation, &step.observation);
        compare(&mut differences, at, "reward", &turn.reward, &step.reward);
        compare(&mut differences, at, "score", &turn.score, &step.score);
        // An action that was cut off is recorded as invalid even if the environment accepts it.
        compare(&mut differences, at, "valid", &turn.valid, &(turn.valid && step.valid));
        let done = last && episode.end == End::Done;
        compare(&mut differences, at, "done", &done, &step.done);
        if done != step.done {
            break;
        }
        // An episode that a full context ended has no outcome from the environment.
        if last && episode.end != End::ContextFull {
            compare(&mut differences, at, "success", &episode.success, &step.success);
        }
    }
    Ok(differences)
}

fn compare<T: PartialEq + Debug>(
    differences: &mut Vec<Difference>,
    turn: Option<usize>,
    field: &'static str,
    recorded: &T,
    replayed: &T,
) {
    if recorded != replayed {
        let [recorded, replayed] = [recorded, replayed].map(|value| format!("{value:?}"));
        differences.push(Difference { turn, field, recorded, replayed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::toy::ToyEnvironment;
    use crate::run::episodes::tests::toy_episode;

    fn fields(episode: &Trajectory) -> Vec<(Option<usize>, &'static str)> {
        let differences = replay_episode(&mut ToyEnvironment::new(), episode, true).unwrap();
        differences.iter().map(|d| (d.turn, d.field)).collect()
    }

    #[test]
    fn a_recorded_episode_replays_without_differences() {
        for actions in [&["look", "dance", "open blue"][..], &["open red"], &["look", "look"]] {
            assert_eq!(fields(&toy_episode(1, actions)), []);
        }
        let mut cut = toy_episode(1, &["look"]);
        cut.turns[0].valid = false;
        cut.end = End::ContextFull;
        assert_eq!(fields(&cut), [], "an action that was cut off is invalid");
    }

    #[test]
    fn every_difference_is_named_with_its_turn() {
        let played = toy_episode(1, &["look", "dance", "open blue"]);
        let changed = |change: fn(&mut Trajectory)| {
            let mut episode = played.clone();
            change(&mut episode);
            fields(&episode)
        };
        assert_eq!(changed(|e| e.start.goal.push('!')), [(None, "goal")]);
        assert_eq!(changed(|e| e.start.observation.clear()), [(None, "observation")]);
        assert_eq!(changed(|e| e.turns[1].observation.push('!')), [(Some(1), "observation")]);
        assert_eq!(changed(|e| e.turns[0].score += 1e-12), [(Some(0), "score")]);
        assert_eq!(changed(|e| e.turns[0].reward = 0.0), [(Some(0), "reward")]);
        assert_eq!(changed(|e| e.turns[1].valid = true), [(Some(1), "valid")]);
        assert_eq!(changed(|e| e.success = false), [(Some(2), "success")]);
        assert_eq!(changed(|e| e.end = End::TurnLimit), [(Some(2), "done")]);
        assert_eq!(
            changed(|e| e.turns[0].action = "open red".into()).last(),
            Some(&(Some(0), "done"))
        );
        let unknown = changed(|e| e.task.variation = 2);
        assert_eq!(unknown[0], (Some(0), "observation"));
    }

    #[test]
    fn a_difference_shows_both_texts() {
        let mut episode = toy_episode(0, &["look"]);
        episode.turns[0].observation = "a lamp".into();
        let all = replay_episode(&mut ToyEnvironment::new(), &episode, false).unwrap();
        let expected = "turn 0: `observation`\n  recorded \"a lamp\"\n  \
            replayed \"the coin is in the red box\"";
        assert_eq!(all[0].to_string(), expected);
    }
}
