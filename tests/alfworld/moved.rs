//! Runs whose games move between a start and a resume.

use std::path::Path;

use epo::run::{CheckpointWriter, RunFolder};
use epo::settings::Count;
use epo::train::config::{Algorithm, Preset, TrainConfig};
use epo::worlds::{AlfWorldTasks, Benchmark, GameSource};
use epo::Result;

/// A data folder with the fixture's game in every split, under `name`.
fn data(folder: &Path, name: &str) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(
        "tests/fixtures/alfworld/json_2.1.1/train/pick_two_obj_and_place-Plum-None-Shelf-1/trial_0",
    );
    for split in ["train", "valid_seen", "valid_unseen"] {
        let trial = folder.join(split).join(format!("pick_two_obj_and_place-{name}")).join("trial");
        std::fs::create_dir_all(&trial).unwrap();
        std::fs::copy(fixture.join("game.tw-pddl"), trial.join("game.tw-pddl")).unwrap();
    }
}

/// Settings as the command line makes them.
fn settings(sets: &[String]) -> Result<TrainConfig<AlfWorldTasks>> {
    let mut base = AlfWorldTasks::preset(Preset::Small, Algorithm::Grpo);
    base.environment.games = GameSource::default();
    base.environment.tasks.retain(|kind| kind.name() == "pick_two_obj_and_place");
    base.environment.train_games = Count::literal(1);
    let mut config = base.layered(None, sets)?;
    config.environment.check()?;
    config.environment.complete()?;
    Ok(config)
}

fn in_folder(path: &str) -> Vec<String> {
    vec!["environment.games.kind=folder".into(), format!("environment.games.path={path:?}")]
}

fn path_of(config: &TrainConfig<AlfWorldTasks>) -> &Path {
    match &config.environment.games {
        GameSource::Folder { path, .. } => path,
        GameSource::Household(_) => panic!("no folder"),
    }
}

#[test]
fn a_run_resumes_where_its_games_are_now_if_they_are_the_same() {
    let root = tempfile::tempdir().unwrap();
    let [old, new, other, run] = ["old", "new", "other", "run"].map(|name| root.path().join(name));
    data(&old, "Plum");
    data(&other, "Pear");
    let config = settings(&in_folder(old.to_str().unwrap())).unwrap();
    let folder = RunFolder::create(&run, config).unwrap();
    let mut checkpoint = CheckpointWriter::new(&run, 0).unwrap();
    folder.save(&mut checkpoint).unwrap();
    checkpoint.finish(&()).unwrap();
    drop(folder);

    let resume = |sets: &[String]| {
        let moved = |config: &mut TrainConfig<AlfWorldTasks>| config.environment.relocate(sets);
        let folder = RunFolder::<TrainConfig<AlfWorldTasks>>::resume(&run, moved)?;
        let games = folder.config.environment.games()?;
        let panels = folder.config.environment.panels(&*games)?;
        Ok::<_, epo::Error>((path_of(&folder.config).to_owned(), panels[0].tasks.len()))
    };
    assert_eq!(resume(&[]).unwrap(), (old.clone(), 1));
    std::fs::rename(&old, &new).unwrap();
    let to = |folder: &Path| vec![format!("environment.games.path={}", folder.display())];
    if std::env::var_os("ALFWORLD_DATA").is_none() {
        let error = resume(&[]).unwrap_err().to_string();
        for part in
            ["`environment.games.path`", "ALFWORLD_DATA", "--set", &old.display().to_string()]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error = resume(&to(&other)).unwrap_err().to_string();
    assert!(error.contains("other games than the run began with: 3 games"), "{error}");
    let error = resume(&to(&new.join("train"))).unwrap_err().to_string();
    assert!(error.contains(&format!("in {}: name", new.display())), "{error}");
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains(old.to_str().unwrap()), "a refused change leaves the run as it was");
    assert_eq!(resume(&to(&new)).unwrap(), (new.clone(), 1));
    assert_eq!(resume(&[]).unwrap(), (new, 1), "the new place is kept");
    let error = resume(&["seed=1".into()]).unwrap_err().to_string();
    assert!(error.contains("seed=1") && error.contains("environment.games.path"), "{error}");
}

#[test]
fn a_relative_folder_is_kept_as_an_absolute_path_and_a_missing_one_is_named() {
    let below = std::env::current_dir().unwrap().join("target");
    std::fs::create_dir_all(&below).unwrap();
    let root = tempfile::tempdir_in(below).unwrap();
    data(root.path(), "Plum");
    let relative = Path::new("target").join(root.path().file_name().unwrap());
    let config = settings(&in_folder(relative.to_str().unwrap())).unwrap();
    assert_eq!(path_of(&config), root.path());
    let error = settings(&in_folder("no/such/folder")).unwrap_err().to_string();
    assert!(error.contains("no/such/folder") && error.contains("ALFWORLD_DATA"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_whose_name_cannot_be_written_in_a_configuration_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let mut config = AlfWorldTasks::preset(Preset::Small, Algorithm::Grpo);
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/x\xe9")).to_owned();
    config.environment.games = GameSource::Folder { path, names: None };
    let error = config.layered(None, &[]).unwrap_err().to_string();
    assert!(error.contains("environment.games.path") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_run_of_household_games_has_no_folder_to_move() {
    let mut tasks = AlfWorldTasks { games: GameSource::default(), ..AlfWorldTasks::default() };
    tasks.relocate(&[]).unwrap();
    tasks.complete().unwrap();
    assert_eq!(tasks.games, GameSource::default());
    let error = tasks.relocate(&["environment.games.path=x".into()]).unwrap_err().to_string();
    assert!(error.contains("household"), "{error}");
}
