//! What the prompts of a run hold, and where its turns end.

use std::path::Path;

use epo::policy::{Family, Pretrained};
use epo::rollout::{ActionSpace, Trajectory};
use epo::run::RunFolder;
use epo::settings::{Count, Date};
use epo::train::config::{CheckpointConfig, ModelConfig};

use crate::driver::{assert_same_run, resume, train, Config};
use crate::pretrained::{checkpoint, config, source};

/// A template that prints the date, as Llama 3's do.
const DATED: &str = "{{- '<|im_start|>system\\nToday Date: ' + strftime_now('%d %b %Y') + '\\n' }}\
    {{- messages[0].content + '<|im_end|>\\n' }}{% for m in messages[1:] %}\
    {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn with_model(change: impl Fn(&mut CheckpointConfig), folder: &Path) -> Config {
    let mut model = CheckpointConfig::new(source(folder));
    change(&mut model);
    config(model)
}

/// The texts of the first prompts of four episodes.
fn prompts(config: &Config) -> Vec<String> {
    let agent = config.new_agent().unwrap();
    let tokenizer = agent.prompter.tokenizer();
    let played = config.play(&agent, &config.episodes(0)).unwrap();
    let ids = played.trajectories.iter().map(|t| &t.turns[0].prompt_ids);
    ids.map(|ids| tokenizer.decode(ids).unwrap()).collect()
}

#[test]
fn a_run_has_one_date_which_no_clock_changes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    std::fs::write(folder.join("chat_template.jinja"), DATED).unwrap();
    let mut config = with_model(|_| (), &folder);
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    train(&whole, &config).unwrap();
    config.steps = 1;
    train(&parts, &config).unwrap();
    // The settings hold the date, quoted or not, and a resumed run has no other.
    let file = parts.join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let edited = |date: &str| text.replace("date = \"2024-07-26\"", &format!("date = {date}"));
    assert_ne!(edited("x"), text);
    std::fs::write(&file, edited("2024-07-27")).unwrap();
    let error = RunFolder::<Config>::resume(&parts, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("`model.date` was \"2024-07-26\", is \"2024-07-27\""), "{error}");
    std::fs::write(&file, edited("2024-07-26")).unwrap();
    resume(&parts, 2).unwrap();
    assert_same_run(&whole, &parts);
    for text in prompts(&config) {
        assert!(text.contains("Today Date: 26 Jul 2024\n"), "{text}");
    }
    let other = with_model(|model| model.date = Date::literal(2025, 12, 1), &folder);
    for text in prompts(&other) {
        assert!(text.contains("Today Date: 01 Dec 2025\n"), "{text}");
    }
}

#[test]
fn every_listed_token_ends_a_turn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    let listed: Vec<u32> = [2, 0].into_iter().chain(100..110).collect();
    let generation = serde_json::json!({"bos_token_id": [1], "eos_token_id": listed, "top_k": -1});
    std::fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
    let path = folder.join("config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["eos_token_id"] = 120.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let ends: Vec<u32> = listed.iter().copied().chain([120]).collect();
    let pretrained = Pretrained::open(&folder).unwrap();
    assert!(ends.iter().all(|id| pretrained.end_ids().contains(id)));
    let mut config = with_model(|_| (), &folder);
    config.rollout.actions = ActionSpace::Free { max_tokens: Count::literal(64) };
    let agent = config.new_agent().unwrap();
    assert_eq!(agent.prompter.end_id(), 2);
    let played = (0..4).map(|step| config.play(&agent, &config.episodes(step)).unwrap());
    let trajectories: Vec<Trajectory> = played.flat_map(|played| played.trajectories).collect();
    let mut others = 0;
    for turns in trajectories.iter().map(|t| &t.turns) {
        for (i, turn) in turns.iter().enumerate() {
            let end = turn.action_ids.iter().position(|id| ends.contains(id));
            assert!(end.is_none_or(|at| at + 1 == turn.action_ids.len()), "{:?}", turn.action_ids);
            let last = *turn.action_ids.last().unwrap();
            others += usize::from(last != 2 && end.is_some());
            // The next prompt starts with the template's end token, unless it was sampled.
            if let Some(next) = turns.get(i + 1) {
                assert_eq!(next.prompt_ids[0] == 2, last != 2);
            }
        }
    }
    assert!(others > 10, "{others}");
    // An id of a default that does not fit the vocabulary ends nothing and is no obstacle.
    json["eos_token_id"] = 150_000.into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert_eq!(Pretrained::open(&folder).unwrap().end_ids(), listed);
}

#[test]
fn a_saved_truncation_cuts_no_prompt_and_is_exported_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = checkpoint(dir.path(), Family::Qwen2);
    let path = folder.join("tokenizer.json");
    let whole = prompts(&with_model(|_| (), &folder));
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 6,
        "strategy": "LongestFirst", "stride": 0});
    std::fs::write(&path, json.to_string()).unwrap();
    let config = with_model(|_| (), &folder);
    assert_eq!(prompts(&config), whole);
    config.new_agent().unwrap().export(dir.path(), 0).unwrap();
    let exported = std::fs::read_to_string(dir.path().join("model-0/tokenizer.json")).unwrap();
    assert_eq!(exported, json.to_string());
}

#[test]
fn the_settings_of_a_model_have_a_date() {
    let model = |date: &str| {
        let text = format!("kind = \"checkpoint\"\nsource = \"x\"\ndate = {date}\n");
        toml::from_str::<ModelConfig>(&text)
    };
    for date in ["2025-12-01", "\"2025-12-01\""] {
        let date = model(date).unwrap().checkpoint().unwrap().date;
        assert_eq!(date, Date::literal(2025, 12, 1));
    }
    for bad in ["\"2025-02-29\"", "2025-12-01T10:00:00", "5", "\"today\""] {
        let error = model(bad).unwrap_err().to_string();
        assert!(error.contains("2024-07-26"), "{error}");
    }
}
