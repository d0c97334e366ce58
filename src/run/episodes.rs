//! Episodes as lines of JSON: written by a run, read back, printed as dialogues.

use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rollout::trajectory::Trajectory;
use crate::run::lines::{bad_line, whole_lines};
use crate::run::recorder::{Recorder, EPISODES_FILE};
use crate::run::rollout_log::rollout_files;
use crate::Result;

/// A line of `episodes.jsonl` or of the dumped training episodes.
///
/// Its `Display` prints the episode as a dialogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeLine {
    /// `eval` for an evaluation, `rl` for training.
    pub phase: String,
    /// Training steps before the episode.
    pub step: u64,
    /// The evaluation set of an evaluation's episode; `panel` in the file.
    #[serde(rename = "panel", default)]
    pub task_set: Option<String>,
    /// `Some(false)` for a training episode that dynamic sampling played but the update left out;
    /// `None` for an evaluation's episode.
    #[serde(default)]
    pub used: Option<bool>,
    /// The episode.
    pub episode: Trajectory,
}

/// A borrowed [`EpisodeLine`], for writing.
#[derive(Serialize)]
pub(crate) struct EpisodeRef<'a> {
    pub(crate) phase: &'a str,
    pub(crate) step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) panel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<bool>,
    pub(crate) episode: &'a Trajectory,
}

/// Appends all training episodes of a step to the run's dump, with tokens and entropies, sorted by
/// group and member.
///
/// `learned` are the episodes of the update; `unused` are those that dynamic sampling also played.
/// Each line says which of the two its episode is. [`Position`](crate::run::Position) counts the
/// lines, so a resumed run writes those after its checkpoint again.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn dump_rollouts(
    recorder: &mut Recorder,
    step: u64,
    learned: &[Trajectory],
    unused: &[Trajectory],
) -> Result<()> {
    let mut all: Vec<(&Trajectory, bool)> =
        learned.iter().map(|t| (t, true)).chain(unused.iter().map(|t| (t, false))).collect();
    all.sort_by_key(|(t, _)| (t.group, t.member));
    let line =
        |episode, used| EpisodeRef { phase: "rl", step, panel: None, used: Some(used), episode };
    recorder.begin_rollouts()?;
    for (episode, used) in all {
        recorder.rollout(&line(episode, used))?;
    }
    Ok(())
}

/// Calls `each` with the line number (from 1) and the episode of every line of a file.
///
/// Only one episode is in memory at a time. A last line that a kill has cut off is left out.
///
/// # Errors
/// [`Error::File`](crate::Error::File) with the line and the field that is wrong;
/// [`Error::Io`](crate::Error::Io); errors of `each`.
pub fn read_episodes(
    path: impl AsRef<Path>,
    mut each: impl FnMut(usize, EpisodeLine) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    whole_lines(path, |number, text| {
        let line = serde_json::from_str(text).map_err(|e| bad_line(path, number, &e))?;
        each(number, line)
    })
}

/// Lists a run folder's files of episodes: first those of evaluations, then the dumped training
/// episodes, oldest first.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn episode_files(run_dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let run_dir = run_dir.as_ref();
    let evaluations = Some(run_dir.join(EPISODES_FILE)).filter(|path| path.is_file());
    let rollouts = rollout_files(run_dir)?.into_iter().map(|(_, path)| path);
    Ok(evaluations.into_iter().chain(rollouts).collect())
}

impl Display for EpisodeLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { phase, step, task_set, used, episode } = self;
        let set = task_set.as_ref().map_or(String::new(), |name| format!(" {name}"));
        let Trajectory { task, member, .. } = episode;
        let solved = if episode.success { "solved" } else { "not solved" };
        let end = episode.end.name();
        let unused = if *used == Some(false) { " · not learned from" } else { "" };
        writeln!(
            f,
            "── {phase} step {step}{set} · {task} · member {member} · {solved} ({end}){unused}"
        )?;
        writeln!(f, "goal: {}", episode.start.goal.trim())?;
        write_text(f, &episode.start.observation)?;
        let mut before = 0.0;
        for (i, turn) in episode.turns.iter().enumerate() {
            let entropy = turn.entropies.iter().copied().map(f64::from).sum::<f64>()
                / turn.entropies.len() as f64;
            let change = turn.score - before;
            let gained = if change == 0.0 {
                String::new()
            } else {
                format!("  score {change:+} = {}", turn.score)
            };
            let invalid = if turn.valid { "" } else { "  ✗ not valid" };
            writeln!(f, "{i:>3} > {}   [entropy {entropy:.3}]{gained}{invalid}", turn.action)?;
            write_text(f, &turn.observation)?;
            before = turn.score;
        }
        Ok(())
    }
}

/// Writes a text indented below its turn, without empty lines.
fn write_text(f: &mut Formatter<'_>, text: &str) -> std::fmt::Result {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(f, "      {line}")?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::env::toy::ToyEnvironment;
    use crate::env::{Environment, Task};
    use crate::rollout::trajectory::{End, Turn};

    /// An episode of the toy environment with the given actions.
    pub(crate) fn toy_episode(variation: u32, actions: &[&str]) -> Trajectory {
        let mut env = ToyEnvironment::new();
        let task = Task { name: ToyEnvironment::TASK.into(), variation };
        let start = env.reset(&task).unwrap();
        let mut episode = Trajectory {
            task,
            group: 0,
            member: 0,
            start,
            turns: vec![],
            success: false,
            end: End::TurnLimit,
        };
        for action in actions {
            let step = env.step(action).unwrap();
            episode.turns.push(Turn {
                action: (*action).to_owned(),
                action_ids: vec![7],
                entropies: vec![0.5],
                observation: step.observation,
                reward: step.reward,
                score: step.score,
                valid: step.valid,
                ..Turn::default()
            });
            episode.success = step.success;
            episode.end = if step.done { End::Done } else { End::TurnLimit };
        }
        episode
    }

    #[test]
    fn dumped_episodes_are_read_back_and_bad_lines_are_named() {
        let run = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(run.path()).unwrap();
        let mut episodes = [toy_episode(0, &["look", "open red"]), toy_episode(1, &["dance"])];
        episodes[1].group = 1;
        dump_rollouts(&mut recorder, 4, &episodes[1..], &episodes[..1]).unwrap();
        let [_, path] = &episode_files(run.path()).unwrap()[..] else { panic!("two files") };
        let mut read = Vec::new();
        let all = |read: &mut Vec<EpisodeLine>| {
            read_episodes(path, |n, line| {
                assert_eq!(n, read.len() + 1);
                read.push(line);
                Ok(())
            })
        };
        all(&mut read).unwrap();
        assert!(read
            .iter()
            .all(|line| (line.phase.as_str(), line.step, &line.task_set) == ("rl", 4, &None)));
        assert_eq!(
            read.iter().map(|line| &line.episode).collect::<Vec<_>>(),
            episodes.iter().collect::<Vec<_>>()
        );
        let used: Vec<_> = read.iter().map(|line| line.used).collect();
        assert_eq!(used, [Some(false), Some(true)]);
        assert!(read[0].to_string().lines().next().unwrap().ends_with(" · not learned from"));
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, format!("{text}{}", &text[..40])).unwrap();
        read.clear();
        all(&mut read).unwrap();
        assert_eq!(read.len(), 2, "a line without its end does not count");
        std::fs::write(path, text.replacen("\"member\"", "\"number\"", 1)).unwrap();
        let error = read_episodes(path, |_, _| Ok(())).unwrap_err().to_string();
        assert!(
            error.contains("rollouts.jsonl")
                && error.contains("line 1")
                && error.contains("member"),
            "{error}"
        );
    }

    #[test]
    fn an_episode_reads_as_a_dialogue() {
        let episode = toy_episode(2, &["dance", "look", "open green"]);
        let line = EpisodeLine {
            phase: "eval".into(),
            step: 9,
            task_set: Some("toy".into()),
            used: None,
            episode,
        };
        let expected = "\
── eval step 9 toy · find-coin:2 · member 0 · solved (done)
goal: find the coin
      you see four boxes
  0 > dance   [entropy 0.500]  ✗ not valid
      nothing happens
  1 > look   [entropy 0.500]  score +25 = 25
      the coin is in the green box
  2 > open green   [entropy 0.500]  score +75 = 100
      you found the coin
";
        assert_eq!(line.to_string(), expected);
    }
}
