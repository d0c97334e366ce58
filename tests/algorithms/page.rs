//! docs/ALGORITHMS.md: its settings parse and are valid, its links and names exist.

use std::path::Path;

use epo::entropy::EntropyMethod;
use epo::train::config::{Algorithm, NoSettings, TrainConfig};
use epo::train::credit::{turn_advantages, AdvantageConfig};

const PAGE: &str = include_str!("../../docs/ALGORITHMS.md");

/// The settings of a block over those of a small run, as `--config` takes them.
fn settings(block: &str) -> epo::Result<TrainConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block.toml");
    std::fs::write(&path, block).unwrap();
    TrainConfig::small(Algorithm::Grpo, NoSettings {}).layered(Some(&path), &[])
}

fn blocks() -> Vec<&'static str> {
    PAGE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_block_of_settings_is_valid_and_says_what_is_meant() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 28);
    let (mut methods, mut shaping) = (Vec::new(), 0);
    for block in &blocks {
        let settings = settings(block).unwrap_or_else(|e| panic!("{block}\n{e}"));
        shaping += usize::from(settings.dynamic_sampling.is_some())
            + usize::from(settings.overlong.is_some())
            + usize::from(settings.kl_reward.is_some());
        let again = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<TrainConfig>(&again).unwrap(), settings, "{again}");
        if block.contains("[entropy") {
            methods.push(settings.entropy.method);
        }
    }
    assert_eq!((methods.len(), shaping), (10, 3));
    assert_eq!(methods.iter().filter(|m| matches!(m, EntropyMethod::Adaptive(_))).count(), 2);
    // Misspelt settings would be noticed.
    assert!(settings("[update.policy]\nclip_hi = 1.0").is_err());
    assert!(turn_advantages(&[], &[], &AdvantageConfig::default()).unwrap().is_empty());
}

/// All Rust files below a folder, joined.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn in_backticks(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_function_test_and_link_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut code, mut tests) = (String::new(), String::new());
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut tests);
    let headings: Vec<String> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let rows =
        PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| algorithm"));
    let mut count = 0;
    for row in rows {
        let row = row.replace("\\|", "/");
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 6, "{row}");
        count += 1;
        for name in in_backticks(cells[4]) {
            let defined = ["fn", "struct", "enum"]
                .iter()
                .any(|kind| code.contains(&format!("pub {kind} {name}")));
            assert!(defined, "nothing is called {name}");
        }
        for name in in_backticks(cells[5]) {
            assert!(
                [&code, &tests].iter().any(|text| text.contains(&format!("fn {name}()"))),
                "no test {name}"
            );
        }
        if let Some((_, link)) = cells[3].split_once("](#") {
            let link = link.trim().trim_end_matches(')');
            assert!(headings.iter().any(|heading| heading == link), "no heading for {link}");
        } else {
            assert_eq!(cells[3].trim(), "in code", "{row}");
        }
    }
    assert_eq!(count, 37);
}
