//! The generator: maps a split and a number to a game.

use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::env::alfworld::task::{Split, TaskType};
use crate::env::household::scenario::{Layout, Scenario};
use crate::env::household::world::{below, World};
use crate::env::household::write::game_file;
use crate::{Error, Result};

/// Settings of a [`Generator`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratorConfig {
    /// The seed; another seed gives other games for the same numbers.
    pub seed: u64,
    /// The task types; games of consecutive numbers cycle through them.
    pub task_types: Vec<TaskType>,
    /// The smallest and the largest number of receptacles in a game; layouts have 4 to 16.
    pub receptacles: (usize, usize),
    /// The smallest and the largest number of objects in a game, lamps included.
    pub items: (usize, usize),
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self { seed: 0, task_types: TaskType::ALL.to_vec(), receptacles: (4, 16), items: (8, 16) }
    }
}

/// A game made by a [`Generator`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HouseholdGame {
    /// The name, in place of a path:
    /// `train/pick_and_place_simple-mug-None-table-kitchen3/7/game.tw-pddl`.
    pub name: String,
    /// The type of the task.
    pub task_type: TaskType,
    /// The text of the game file.
    pub text: String,
}

/// Generates household games.
#[derive(Debug, Clone)]
pub struct Generator {
    config: GeneratorConfig,
    /// The scenarios to draw from, by split and task type.
    scenarios: [Vec<Vec<Scenario>>; Split::ALL.len()],
}

impl Generator {
    /// Creates a generator.
    ///
    /// # Errors
    /// Returns [`Error::Setting`] if there is no task type, if the range of objects is empty or too
    /// large, or if the range of receptacles leaves a task type without games in a split.
    pub fn new(config: GeneratorConfig) -> Result<Self> {
        let (least, most) = config.items;
        if config.task_types.is_empty() {
            return Err(Error::setting(
                "environment.games.task_types",
                "[]",
                "must name at least one task type",
            ));
        }
        if least < 3 || least > most || most > MAX_ITEMS {
            let reason = format!("must be a range between 3 and {MAX_ITEMS}");
            return Err(Error::setting(
                "environment.games.items",
                format!("{:?}", config.items),
                reason,
            ));
        }
        let (least, most) = config.receptacles;
        let layouts: Vec<Layout> = Layout::all()
            .filter(|layout| (least..=most).contains(&layout.receptacles().len()))
            .collect();
        let all: Vec<Vec<Scenario>> =
            config.task_types.iter().map(|&kind| Scenario::all(kind, &layouts)).collect();
        let of_split = |split| all.iter().map(|all| of_split(all, split)).collect::<Vec<_>>();
        let scenarios = Split::ALL.map(of_split);
        for (split, by_type) in Split::ALL.iter().zip(&scenarios) {
            if let Some(i) = by_type.iter().position(Vec::is_empty) {
                let reason = format!("allows no game of {} in {split}", config.task_types[i]);
                return Err(Error::setting(
                    "environment.games.receptacles",
                    format!("{:?}", config.receptacles),
                    reason,
                ));
            }
        }
        Ok(Self { config, scenarios })
    }

    /// Generates game `index` of a split.
    pub fn game(&self, split: Split, index: u64) -> HouseholdGame {
        let mut rng = random(self.config.seed, split, index);
        let scenarios = &self.scenarios[split as usize];
        let scenarios = &scenarios[(index % scenarios.len() as u64) as usize];
        let scenario = scenarios[below(&mut rng, scenarios.len())];
        let (least, most) = self.config.items;
        let count = least + below(&mut rng, most - least + 1);
        let wording = below(&mut rng, 2);
        let world = World::draw(scenario, split, count, &mut rng);
        let task_type = scenario.task_type;
        let kind = scenario.kind().name;
        let target = scenario.target().name();
        let scene = format!("{}{}", scenario.layout.room().name, scenario.layout.number);
        let name = format!("{split}/{task_type}-{kind}-None-{target}-{scene}/{index}/game.tw-pddl");
        HouseholdGame { name, task_type, text: game_file(&world, wording) }
    }
}

/// The largest number of objects in a game.
const MAX_ITEMS: usize = 64;

fn of_split(scenarios: &[Scenario], split: Split) -> Vec<Scenario> {
    scenarios.iter().copied().filter(|scenario| scenario.split() == Some(split)).collect()
}

/// Creates the random number generator of one game.
fn random(seed: u64, split: Split, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16] = split as u8;
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::env::alfworld::engine::files::game_files;
    use crate::env::alfworld::engine::library::Library;
    use crate::env::alfworld::engine::play::Play;
    use crate::env::household::catalog::KINDS;

    fn default() -> Generator {
        Generator::new(GeneratorConfig::default()).unwrap()
    }

    fn of(generator: &Generator, split: Split) -> impl Iterator<Item = &Scenario> {
        generator.scenarios[split as usize].iter().flatten()
    }

    /// Describes a layout independently of its number: the room and its furniture.
    fn layout(scenario: &Scenario) -> String {
        let names =
            scenario.layout.receptacles().iter().map(|place| place.name).collect::<Vec<_>>();
        format!("{}: {}", scenario.layout.room().name, names.join(" "))
    }

    fn goal(scenario: &Scenario) -> (&'static str, &'static str) {
        (scenario.kind().name, scenario.target().name())
    }

    #[test]
    fn splits_have_in_common_exactly_what_is_said() {
        let generator = default();
        let layouts = |split| of(&generator, split).map(layout).collect::<BTreeSet<_>>();
        let goals = |split| of(&generator, split).map(goal).collect::<BTreeSet<_>>();
        let both =
            |split| of(&generator, split).map(|s| (layout(s), goal(s))).collect::<BTreeSet<_>>();
        let [train, seen, unseen] = Split::ALL;
        assert_eq!(layouts(train), layouts(seen));
        assert!(layouts(train).is_disjoint(&layouts(unseen)));
        assert!(goals(seen).is_subset(&goals(train)));
        assert!(goals(train).is_disjoint(&goals(unseen)));
        assert!(both(train).is_disjoint(&both(seen)));
        let targets = |split| goals(split).into_iter().map(|goal| goal.1).collect::<BTreeSet<_>>();
        assert_eq!(targets(unseen).difference(&targets(train)).collect::<Vec<_>>(), [&""; 0]);
        let things = |split| goals(split).into_iter().map(|goal| goal.0).collect::<BTreeSet<_>>();
        let held_out: BTreeSet<_> =
            KINDS.iter().filter(|kind| kind.held_out).map(|kind| kind.name).collect();
        let familiar: BTreeSet<_> =
            KINDS.iter().filter(|kind| !kind.held_out).map(|kind| kind.name).collect();
        assert_eq!(things(train), familiar);
        assert!(held_out.is_subset(&things(unseen)) && !things(unseen).is_disjoint(&familiar));
    }

    #[test]
    fn held_out_things_are_in_no_training_game() {
        let generator = default();
        let mentions = |split, name: &str| {
            (0..300).any(|i| generator.game(split, i).text.contains(&format!("{name}_bar_")))
        };
        for kind in KINDS.iter().filter(|kind| kind.held_out) {
            assert!(
                !mentions(Split::Train, kind.name) && !mentions(Split::ValidSeen, kind.name),
                "{}",
                kind.name
            );
            assert!(mentions(Split::ValidUnseen, kind.name), "{}", kind.name);
        }
    }

    #[test]
    fn a_number_always_makes_the_same_game_and_no_two_make_the_same() {
        let one = default();
        let two = default();
        let other =
            Generator::new(GeneratorConfig { seed: 1, ..GeneratorConfig::default() }).unwrap();
        let mut texts = BTreeSet::new();
        for split in Split::ALL {
            for index in (0..500).chain([u64::MAX]) {
                let game = one.game(split, index);
                assert_eq!(game, two.game(split, index));
                assert!(texts.insert(game.text), "{split} {index}");
                assert!(texts.insert(other.game(split, index).text), "{split} {index}, seed 1");
            }
        }
    }

    #[test]
    fn every_game_is_won_by_the_last_action_of_its_walkthrough() {
        let generator = default();
        let library = Library::new();
        for split in Split::ALL {
            for index in 0..200 {
                let made = generator.game(split, index);
                let game = library.parse(&made.name, &made.text).unwrap();
                assert_eq!(game.task_type(), Some(made.task_type));
                assert_eq!(made.task_type, TaskType::ALL[(index % 6) as usize]);
                let mut play = Play::new(game.clone());
                for action in game.walkthrough().unwrap() {
                    assert!(!play.is_won(), "{}: won before {action}", made.name);
                    assert!(play.step(action).unwrap().valid, "{}: {action}", made.name);
                }
                assert!(play.is_won(), "{}", made.name);
            }
        }
    }

    #[test]
    fn games_have_as_many_receptacles_and_things_as_asked_for() {
        let config = GeneratorConfig {
            receptacles: (8, 9),
            items: (3, 5),
            task_types: vec![TaskType::PickTwoObjAndPlace, TaskType::LookAtObjInLight],
            ..GeneratorConfig::default()
        };
        let generator = Generator::new(config).unwrap();
        let mut counts = BTreeSet::new();
        for index in 0..100 {
            let made = generator.game(Split::Train, index);
            let receptacles = made.text.matches(" - receptacle spot").count();
            let items = made.text.matches(" - item\\n").count();
            counts.insert((receptacles, items));
            assert_eq!(made.task_type, generator.config.task_types[(index % 2) as usize]);
        }
        assert_eq!(
            counts.iter().map(|count| count.0).collect::<BTreeSet<_>>(),
            BTreeSet::from([8, 9])
        );
        assert_eq!(
            counts.iter().map(|count| count.1).collect::<BTreeSet<_>>(),
            BTreeSet::from([3, 4, 5])
        );
        let sizes: BTreeSet<_> = Layout::all().map(|layout| layout.receptacles().len()).collect();
        assert_eq!(
            (sizes.first(), sizes.last()),
            (Some(&4), Some(&16)),
            "the default range and its documentation"
        );
    }

    #[test]
    fn impossible_settings_are_refused_with_their_values() {
        let refused = |config| Generator::new(config).unwrap_err().to_string();
        let config = GeneratorConfig::default();
        let error = refused(GeneratorConfig { task_types: Vec::new(), ..config.clone() });
        assert!(error.contains("environment.games.task_types"), "{error}");
        for items in [(2, 8), (9, 8), (8, 65)] {
            let error = refused(GeneratorConfig { items, ..config.clone() });
            assert!(
                error.contains("environment.games.items") && error.contains(&format!("{items:?}")),
                "{error}"
            );
        }
        let error = refused(GeneratorConfig { receptacles: (1, 3), ..config });
        assert!(
            error.contains("environment.games.receptacles") && error.contains("(1, 3)"),
            "{error}"
        );
    }

    #[test]
    fn games_written_to_files_are_found_and_played_as_alfworlds_are() {
        let folder = tempfile::tempdir().unwrap();
        let generator = default();
        for index in 0..12 {
            let game = generator.game(Split::ValidSeen, index);
            let path = folder.path().join(&game.name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &game.text).unwrap();
        }
        let files =
            game_files(folder.path(), Split::ValidSeen, &[TaskType::PickCoolThenPlaceInRecep])
                .unwrap();
        assert_eq!(files.len(), 2);
        let game = Library::new().load(&files[0].path).unwrap();
        assert!(game.goal().contains("cool") || game.goal().contains("cold"), "{}", game.goal());
    }

    #[test]
    fn answers_name_what_was_done_and_contents_change() {
        let game = (0..)
            .map(|i| default().game(Split::Train, 6 * i + 2))
            .find(|game| game.text.contains("\"open "));
        let game = game.unwrap();
        let game = Library::new().parse(&game.name, &game.text).unwrap();
        let mut play = Play::new(game.clone());
        assert_eq!(play.step("inventory").unwrap().observation, "Your hands are free.");
        for action in game.walkthrough().unwrap() {
            let said = play.step(action).unwrap().observation;
            let (verb, names) = action.split_once(' ').unwrap();
            assert!(said.starts_with(&format!("You {verb} {names}.")), "{action}: {said}");
            match verb {
                "go" => {
                    let place = names.strip_prefix("to ").unwrap();
                    assert_eq!(
                        play.step("look").unwrap().observation,
                        format!("You stand at {place}.")
                    );
                    let seen = play.step(&format!("examine {place}")).unwrap().observation;
                    assert_eq!(seen.split_once(". ").unwrap().1, said.split_once(". ").unwrap().1);
                }
                "open" => assert!(said.contains("It is open and holds "), "{said}"),
                "take" => {
                    let thing = names.split(" from ").next().unwrap();
                    assert_eq!(
                        play.step("inventory").unwrap().observation,
                        format!("You hold a {thing}.")
                    );
                    let looked = play.step(&format!("examine {thing}")).unwrap().observation;
                    assert_eq!(looked, format!("You examine {thing}. It is as usual."));
                }
                "clean" => {
                    let thing = names.split(" with ").next().unwrap();
                    let looked = play.step(&format!("examine {thing}")).unwrap().observation;
                    assert_eq!(looked, format!("You examine {thing}. It is clean."));
                }
                _ => assert_eq!(verb, "move"),
            }
        }
        assert!(play.is_won());
    }
}
