use std::path::Path;

use serde_json::json;

use crate::report::{render_report, render_svg, write_report};
use crate::run::record::Record;
use crate::run::recorder::Recorder;

fn example_run(dir: &Path, seed: u64) {
    let mut recorder = Recorder::create(dir).unwrap();
    let noise =
        |k: u64| crate::rng::Stream::new(seed, crate::rng::Purpose::Tasks, k, 0, 0).uniform(0, 0);
    for k in 0..40 {
        recorder
            .record(&Record::new("clone", k).with("loss", 3.0 * (-0.1 * k as f64).exp() + 0.3))
            .unwrap();
    }
    for k in 0..60u64 {
        let t = k as f64 / 60.0;
        let h = 1.2 - 0.4 * t + 0.2 * noise(k);
        if k % 20 == 0 || k == 59 {
            let p = 0.2 + 0.6 * t;
            let record =
                Record::new("eval", k).with("panel", "unseen <variations>").with("n", 64usize);
            let record = record
                .with("success", p)
                .with("success_low", p - 0.1)
                .with("success_high", p + 0.11);
            recorder
                .record(
                    &record
                        .with("score", 30.0 + 50.0 * t)
                        .with("score_low", 25.0 + 50.0 * t)
                        .with("score_high", 36.0 + 50.0 * t),
                )
                .unwrap();
        }
        let turns: Vec<f64> = (0..12).map(|i| h * (1.0 - 0.05 * f64::from(i))).collect();
        let record = Record::new("rl", k)
            .with("success", 0.2 + 0.5 * t + 0.2 * noise(k + 100))
            .with("score", if k == 7 { f64::NAN } else { 30.0 + 40.0 * t })
            .with("entropy", h)
            .with("entropy_turn", turns)
            .with("beta", 1.0 + (-0.05 * k as f64).exp())
            .with("grad_norm", 0.3 + noise(k + 200))
            .with("custom/thing", noise(k + 300))
            .with("time/tokens_per_second", 800.0 + 50.0 * noise(k + 400));
        let band = [("entropy_reference", 1.1), ("band_low", 0.55), ("band_high", 1.65)];
        let mut record = record;
        if k == 30 {
            record.set("alarm/early_collapse", "groups <without> variance");
        }
        let record =
            band.into_iter().filter(|_| k > 0).fold(record, |r, (key, v)| r.with(key, v - 0.1 * t));
        recorder.record(&record).unwrap();
    }
    let turn = |action: &str, score: f64| {
        json!({"prompt_ids": [], "action_ids": [1, 2], "log_probs": [-0.5, -1.0],
            "entropies": [0.5, 1.0], "action": action, "observation": "You see <b>nothing</b>.",
            "reward": 0.0, "score": score, "valid": score > 0.0})
    };
    let mut episode = |step: u64, variation: u32, success: bool| {
        let task = json!({"name": "find-animal", "variation": variation});
        let turns = [turn("open door", 25.0), turn("x</div>", if success { 100.0 } else { -1.0 })];
        let start = json!({"goal": "Find an <animal>.", "observation": "A room."});
        let episode = json!({"task": task, "group": 0, "member": 0, "start": start,
            "turns": turns, "success": success, "end": "turn_limit"});
        let panel = "unseen <variations>";
        let line = json!({"phase": "eval", "step": step, "panel": panel, "episode": episode});
        recorder.episode(&line).unwrap();
    };
    for variation in 0..5 {
        episode(0, variation, variation == 0);
    }
    for variation in 0..5 {
        episode(59, variation, variation != 1);
        episode(59, variation, variation != 1);
    }
    let config = format!("seed = {seed}\n\n[entropy]\nkappa_low = 0.5\n");
    crate::files::atomic_write(dir.join("config.toml"), config).unwrap();
}

fn example_runs(dir: &Path, n: usize) -> Vec<std::path::PathBuf> {
    let runs: Vec<_> = (0..n).map(|i| dir.join(format!("seed-{i}"))).collect();
    for (seed, run) in runs.iter().enumerate() {
        example_run(run, seed as u64);
    }
    runs
}

fn report(runs: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = write_report(&example_runs(dir.path(), runs)).unwrap();
    std::fs::read_to_string(path).unwrap()
}

fn picture(runs: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    render_svg(&example_runs(dir.path(), runs)).unwrap()
}

/// Requires that every opened element is closed, in order.
fn assert_balanced(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).map(|t| t.split('>').next().unwrap()) {
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "near <{tag}>");
        } else if !tag.ends_with('/') && !["meta", "!DOCTYPE"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_report_is_self_contained_well_formed_and_escaped() {
    for runs in [1, 3] {
        let html = report(runs);
        assert_balanced(&html);
        for external in ["http:", "https:", "src=", "href=", "url(", "<script"] {
            assert!(!html.contains(external), "{external}");
        }
        for raw in ["<variations>", "<b>nothing", "x</div>", "<animal>", "<without>", "NaN"] {
            assert!(!html.contains(raw), "{raw}");
        }
        for title in [
            "Success",
            "Entropy by turn",
            "against the band",
            "prefers-color-scheme:dark",
            "class=\"alarm\"",
            "reference H̄",
            "kappa_low",
            "custom/thing",
            "find-animal",
            "Behaviour cloning",
        ] {
            assert!(html.contains(title), "{title}");
        }
    }
}

#[test]
fn a_picture_is_self_contained_well_formed_and_legible_on_both_screens() {
    for runs in [1, 3] {
        let svg = picture(runs);
        assert_balanced(&svg);
        assert!(svg.len() < 60_000, "{} bytes", svg.len());
        assert!(svg.contains("prefers-color-scheme:dark") && svg.contains("fill=\"#fff\""));
        for absent in ["https:", "href=", "url(", "<script", "var(", "NaN", "<variations>"] {
            assert!(!svg.contains(absent), "{absent}");
        }
        assert_eq!(svg.matches("http:").count(), 1, "only the name space");
        let success = if runs == 1 { "Success</text>" } else { "Success: unseen" };
        for text in [success, "Entropy of the training episodes", "training step"] {
            assert!(svg.contains(text), "{text}");
        }
    }
    assert!(picture(1).contains("reference H̄"), "the legend names the lines");
    assert!(render_svg::<&Path>(&[]).is_err());
}

#[test]
fn the_summary_shows_first_and_last_evaluation() {
    let html = report(1);
    assert!(html.contains("0.2 <span class=\"small\">[0.1, 0.31]</span>"));
    assert!(html.contains("0.79 <span class=\"small\">[0.69, 0.9]</span>"));
}

/// 1 of 5 tasks before and 4 of 5 after: +0.6, and of 3 runs pooled 15 tasks.
#[test]
fn gains_families_alarms_and_dialogues_are_shown() {
    let html = report(1);
    assert!(
        html.contains("0.2 → 0.8</td><td class=\"n good\">+0.6 <span class=\"small\">[+0.2, +1]"),
        "{html}"
    );
    let family = "find-animal</td><td><span class=\"dot\" style=\"background:var(--s0)\"></span>\
        seed-0</td><td class=\"n\">5</td><td class=\"n\">0.2 \
        <span class=\"small\">[0.036, 0.624]</span>";
    assert!(html.contains(family), "{html}");
    assert!(html.contains("early collapse</td><td>groups &lt;without&gt; variance"));
    assert!(!html.contains("all runs</td>"));
    // Three solved episodes and the only unsolved one of the last evaluation, none of the first.
    assert_eq!(
        (html.matches("step 59 · 2 turns").count(), html.matches("step 0 · 2 turns").count()),
        (4, 0)
    );
    let facts = "<b class=\"bad\">score −26</b>, now -1 · entropy 0.750 nats per token · \
        <b class=\"bad\">not valid";
    assert!(html.contains(facts), "{html}");
    let several = report(3);
    let pooled = "<tr class=\"pooled\"><td>all runs</td><td>unseen &lt;variations&gt;</td>\
        <td class=\"n\">0 → 59</td><td class=\"n\">15</td>";
    assert!(several.contains(pooled), "{several}");
    assert!(several.contains("Success: unseen &lt;variations&gt;"));
}

#[test]
fn settings_that_differ_between_runs_are_marked() {
    let html = report(2);
    assert!(html.contains("<tr class=\"differs\"><td>seed</td><td>0</td><td>1</td>"));
    assert!(html.contains("<tr><td>entropy.kappa_low</td>"));
}

#[test]
fn an_empty_run_gives_a_page_and_a_missing_one_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
    assert_balanced(&render_report(&[dir.path()]).unwrap());
    let error = render_report(&[dir.path().join("absent")]).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    assert!(write_report::<&Path>(&[]).is_err());
}
