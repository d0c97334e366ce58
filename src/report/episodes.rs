//! Sample episodes as dialogues.

use std::fmt::Write;

use crate::report::data::Run;
use crate::report::text::{escape, number};
use crate::rollout::trajectory::Turn;
use crate::run::episodes::EpisodeLine;

/// The section with the samples of each run, one fold-out per episode.
pub(crate) fn html(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs {
        let name =
            if runs.len() == 1 { String::new() } else { format!("{} · ", escape(&run.name)) };
        for sample in &run.samples {
            html += &dialogue(&name, sample);
        }
    }
    if html.is_empty() {
        return html;
    }
    format!(
        "<h2>Sample episodes</h2><p class=\"note\">The first solved and unsolved episodes of the \
         last evaluation on each evaluation set, one per task, from different task families if \
         there are several.</p>\n{html}"
    )
}

fn dialogue(run: &str, sample: &EpisodeLine) -> String {
    let EpisodeLine { step, task_set, episode, .. } = sample;
    let outcome = if episode.success {
        "<b class=\"good\">solved</b>"
    } else {
        "<b class=\"bad\">not solved</b>"
    };
    let mut html = format!(
        "<details><summary>{run}{outcome} · <b>{}</b> <span class=\"small\">{} · step {step} · \
         {} turns · score {} · {}</span></summary>",
        escape(&episode.task.to_string()),
        escape(task_set.as_deref().unwrap_or_default()),
        episode.turns.len(),
        number(episode.turns.last().map_or(0.0, |turn| turn.score)),
        episode.end.name().replace('_', " "),
    );
    let _ = write!(
        html,
        "<div class=\"goal\">{}</div><div class=\"say world\">{}</div>",
        escape(episode.start.goal.trim()),
        escape(episode.start.observation.trim())
    );
    let mut before = 0.0;
    for (i, turn) in episode.turns.iter().enumerate() {
        html += &turn_html(turn, i, turn.score - before);
        before = turn.score;
    }
    html + "</details>\n"
}

/// A turn's action with its facts, and the environment's response. `change` is the change in score.
fn turn_html(turn: &Turn, index: usize, change: f64) -> String {
    let mut facts = format!("turn {index}");
    if change != 0.0 {
        let class = if change > 0.0 { "good" } else { "bad" };
        let sign = if change > 0.0 { "+" } else { "−" };
        let change = number(change.abs());
        let score = number(turn.score);
        let _ = write!(facts, " · <b class=\"{class}\">score {sign}{change}</b>, now {score}");
    }
    if !turn.entropies.is_empty() {
        let sum: f64 = turn.entropies.iter().copied().map(f64::from).sum();
        let mean = sum / turn.entropies.len() as f64;
        let _ = write!(facts, " · entropy {mean:.3} nats per token");
    }
    let invalid = if turn.valid { "" } else { " invalid" };
    if !turn.valid {
        facts += " · <b class=\"bad\">not valid</b>";
    }
    format!(
        "<div class=\"say agent{invalid}\"><span class=\"action\">{}</span>\
         <span class=\"small\">{facts}</span></div><div class=\"say world\">{}</div>",
        escape(&turn.action),
        escape(turn.observation.trim())
    )
}
