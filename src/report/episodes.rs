//! Sample episodes as dialogues.

use std::fmt::Write;

use serde::Deserialize;

use crate::env::{Start, Task};
use crate::report::data::{Run, Sample};
use crate::report::escape;
use crate::report::plot::number;

/// What is shown of an episode.
#[derive(Deserialize)]
pub(crate) struct Episode {
    task: Task,
    start: Start,
    turns: Vec<Turn>,
    success: bool,
    #[serde(default)]
    end: String,
}

#[derive(Deserialize)]
struct Turn {
    action: String,
    observation: String,
    score: f64,
    valid: bool,
    #[serde(default)]
    entropies: Vec<Option<f64>>,
}

/// The samples of each run, one fold-out each.
pub(crate) fn html(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs {
        let name =
            if runs.len() == 1 { String::new() } else { format!("{} · ", escape(&run.name)) };
        run.samples.iter().for_each(|sample| html += &dialogue(&name, sample));
    }
    if html.is_empty() {
        return html;
    }
    format!(
        "<h2>Sample episodes</h2><p class=\"note\">From each panel's last evaluation, in the order they were \
         played: the first solved and the first unsolved ones, of several task families where there are several.</p>\n{html}"
    )
}

fn dialogue(run: &str, sample: &Sample) -> String {
    let Sample { panel, step, episode } = sample;
    let outcome = if episode.success {
        "<b class=\"good\">solved</b>"
    } else {
        "<b class=\"bad\">not solved</b>"
    };
    let score = episode.turns.last().map_or(0.0, |turn| turn.score);
    let mut html = format!(
        "<details><summary>{run}{outcome} · <b>{}</b> <span class=\"small\">{} · step {step} · {} turns · score {} \
         · {}</span></summary><div class=\"goal\">{}</div><div class=\"say world\">{}</div>",
        escape(&episode.task.to_string()),
        escape(panel),
        episode.turns.len(),
        number(score),
        escape(&episode.end.replace('_', " ")),
        escape(episode.start.goal.trim()),
        escape(episode.start.observation.trim())
    );
    let mut before = 0.0;
    for (i, turn) in episode.turns.iter().enumerate() {
        let _ = write!(html, "{}", turn.html(i, turn.score - before));
        before = turn.score;
    }
    html + "</details>\n"
}

impl Turn {
    fn html(&self, index: usize, change: f64) -> String {
        let mut facts = format!("turn {index}");
        if change != 0.0 {
            let class = if change > 0.0 { "good" } else { "bad" };
            let sign = if change > 0.0 { "+" } else { "−" };
            let (change, score) = (number(change.abs()), number(self.score));
            let _ = write!(facts, " · <b class=\"{class}\">score {sign}{change}</b>, now {score}");
        }
        let entropies: Vec<f64> = self.entropies.iter().flatten().copied().collect();
        if !entropies.is_empty() {
            let mean = entropies.iter().sum::<f64>() / entropies.len() as f64;
            let _ = write!(facts, " · entropy {mean:.3} nats per token");
        }
        let invalid = if self.valid { "" } else { " invalid" };
        if !self.valid {
            facts += " · <b class=\"bad\">not valid</b>";
        }
        format!(
            "<div class=\"say agent{invalid}\"><span class=\"action\">{}</span><span class=\"small\">{facts}</span></div>\
             <div class=\"say world\">{}</div>",
            escape(&self.action),
            escape(self.observation.trim())
        )
    }
}
