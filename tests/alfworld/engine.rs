//! The ALFWorld engine on a fixture, on real games if there are any, and on bad input.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use epo::env::alfworld::{
    game_files, AlfworldError, Game, Games, Library, OperatorId, Part, Play, Split, State, TaskType,
};

const GAME: &str = "train/pick_two_obj_and_place-Plum-None-Shelf-1/trial_0/game.tw-pddl";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/alfworld")
}

fn fixture() -> PathBuf {
    fixtures().join("json_2.1.1").join(GAME)
}

fn pantry() -> Arc<Game> {
    Library::new().load(fixture()).expect("the fixture loads")
}

/// The fields of the fixture.
fn fields() -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(&std::fs::read_to_string(fixture()).expect("readable")).expect("JSON")
}

/// The fixture with `from` replaced by `to` in one field.
fn changed(field: &str, from: &str, to: &str) -> String {
    let mut fields = fields();
    let text = fields[field].as_str().expect("a text").to_owned();
    assert!(text.contains(from), "{field} has no {from}");
    fields.insert(field.to_owned(), text.replacen(from, to, 1).into());
    serde_json::to_string(&fields).expect("JSON")
}

fn parse(text: &str) -> Result<Arc<Game>, AlfworldError> {
    Library::new().parse("some/game.tw-pddl", text)
}

/// The folder of real games: `ALFWORLD_DATA`, or the shared folder.
fn real_games() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = ["shared", "../shared"].map(|place| root.join(place).join("alfworld"));
    let given =
        std::env::var_os("ALFWORLD_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
    given.or_else(|| shared.into_iter().find(|path| path.join("json_2.1.1").is_dir()))
}

fn commands(play: &Play) -> Vec<String> {
    play.admissible().map(str::to_owned).collect()
}

#[test]
fn alfworld_fixture_plays_as_its_text_says() {
    let game = pantry();
    assert_eq!(
        game.first_observation(),
        "A pantry.\n\nAround you: a crate 1, a shelf 2, a shelf 1and a sinkpartbasin 1.\n\n\
         Your task is to: shelve two plums."
    );
    assert_eq!(game.goal(), "shelve two plums.");
    assert_eq!(game.task_type(), Some(TaskType::PickTwoObjAndPlace));
    let mut play = Play::new(game);
    assert_eq!(
        commands(&play),
        ["go to crate 1", "go to shelf 1", "go to shelf 2", "go to sinkpartbasin 1", "wait"]
    );
    let said = [
        ("wait", "You wait.\nAround you: a crate 1, a shelf 2, a shelf 1and a sinkpartbasin 1."),
        ("go to crate 1", "At crate 1. Sealed."),
        ("go to shelf 1", "Nothing happens."),
        ("wait", "You wait.\nBefore you: crate 1and shelf 1. Loose: nothing."),
        ("open crate 1", "Open: a plum 2."),
        ("open crate 1", "Nothing happens."),
        ("Take plum 2 from crate 1", "Nothing happens."),
        ("take plum 2 from crate 1", "You have the plum 2."),
        // Both branches of the lamp's `when` are mirrored, the one that makes it unlit last.
        ("press torch 1", "Click, torch 1."),
        ("press torch 1", "Click, torch 1."),
        ("wait", "You wait.\nBefore you: crate 1and shelf 1. Loose: a plum 2 (spare)."),
        ("put plum 2 in shelf 1", "Stowed the plum 2."),
        ("go to shelf 2", "At shelf 2. There: a plum 1."),
        ("take plum 1 from shelf 2", "You have the plum 1."),
        ("go to shelf 1", "At shelf 1. There: a plum 2and a torch 1."),
    ];
    for (action, expected) in said {
        let outcome = play.step(action).expect("a text");
        assert_eq!(outcome.observation, expected, "{action}");
        assert!(!outcome.won && !outcome.done && outcome.score == 0, "{action}");
    }
    let last = play.step("put plum 1 in shelf 1").expect("a text");
    assert!(last.won && last.done && last.score == 1);
}

#[test]
fn alfworld_actions_are_stripped_as_python_strips() {
    let mut play = Play::new(pantry());
    let blank = "\u{1c}\u{1d}\u{1e}\u{1f}\u{85}\u{a0}\u{1680}\u{2000}\u{200a}\u{2028}\
                 \u{2029}\u{202f}\u{205f}\u{3000} \t\n\r\u{b}\u{c}";
    assert!(play.step(&format!("{blank}wait{blank}")).expect("a text").valid);
    for not_blank in ["\u{200b}", "\u{feff}", "\u{180e}", "\u{0}", "\u{8}", "\u{2060}"] {
        assert!(!play.step(&format!("wait{not_blank}")).expect("a text").valid, "{not_blank:?}");
    }
    for action in ["", " ", "WAIT", "wait .", "go to  crate 1", "go to crate 1\u{0}"] {
        assert_eq!(
            play.step(action).expect("a text").observation,
            "Nothing happens.",
            "{action:?}"
        );
    }
    assert_eq!(
        play.step(&"wait ".repeat(200_000)).expect("a text").observation,
        "Nothing happens."
    );
    assert!(play.step(&format!("wait{}", " ".repeat(1_000_000))).expect("a text").valid);
}

#[test]
fn alfworld_step_limit_counts_every_action() {
    let mut play = Play::new(pantry()).with_step_limit(3);
    assert!(!play.step("wait").expect("a text").done);
    assert!(!play.step("nonsense").expect("a text").done);
    let last = play.step("wait").expect("a text");
    assert!(last.done && !last.won);
    assert_eq!(play.steps(), 3);
}

#[test]
fn alfworld_clones_go_their_own_ways() {
    let mut play = Play::new(pantry());
    play.step("go to crate 1").expect("a text");
    let mut other = play.clone();
    other.step("open crate 1").expect("a text");
    assert!(play.admissible().any(|command| command == "open crate 1"));
    assert!(!other.admissible().any(|command| command == "open crate 1"));
    play.step("open crate 1").expect("a text");
    assert_eq!(play.state(), other.state());
    assert_eq!(commands(&play), commands(&other));
}

/// Finds a shortest plan by breadth-first search.
fn plan(game: &Game) -> Option<Vec<OperatorId>> {
    let start = game.initial_state().clone();
    let mut came_from: HashMap<State, Option<(State, OperatorId)>> =
        HashMap::from([(start.clone(), None)]);
    let mut open = VecDeque::from([start]);
    while let Some(state) = open.pop_front() {
        if game.is_goal(&state) {
            let mut way = Vec::new();
            let mut at = &state;
            while let Some(Some((before, operator))) = came_from.get(at) {
                way.push(*operator);
                at = before;
            }
            way.reverse();
            return Some(way);
        }
        for operator in state.applicable() {
            let mut next = state.clone();
            assert!(game.apply(&mut next, operator));
            if !came_from.contains_key(&next) {
                came_from.insert(next.clone(), Some((state.clone(), operator)));
                open.push_back(next);
            }
        }
    }
    None
}

#[test]
fn alfworld_states_can_be_searched() {
    let game = pantry();
    let way = plan(&game).expect("a plan");
    assert_eq!((way.len(), game.walkthrough().map(<[String]>::len)), (7, Some(8)));
    let mut play = Play::new(game.clone());
    let outcomes: Vec<bool> = way
        .iter()
        .map(|operator| play.step(game.command(*operator)).expect("a text").won)
        .collect();
    assert_eq!(outcomes.iter().position(|won| *won), Some(way.len() - 1));
    let last = game.operator(way[way.len() - 1]);
    assert_eq!((last.predicate, last.arguments[0]), ("stow", "cook1"));
    assert_eq!(game.display_name("plum_bar_1"), Some("plum 2"));
    let facts: HashSet<String> = play
        .state()
        .facts()
        .filter_map(|id| game.fact(id))
        .map(|fact| fact.predicate.to_owned())
        .collect();
    assert!(facts.contains("standing") && !facts.contains("carries"));
    assert!(game.constant_facts().any(|fact| fact.predicate == "placed"));
}

#[test]
fn alfworld_a_game_file_may_be_written_in_other_ways() {
    let text = changed("grammar", "shelve two plums.", "put two plums on a shelf.");
    let mut fields = fields();
    fields.insert("grammar".to_owned(), parse_json(&text)["grammar"].clone());
    fields.insert("made_by".to_owned(), "us, with \"quotes\"".into());
    let ways = [
        serde_json::to_string(&fields).unwrap(),
        serde_json::to_string_pretty(&parse_json(&text)).unwrap(),
        text.replace("put two", "p\\u0075t two"),
        text.replace("A pantry", "A p\\u0061ntry"),
        text.replace("(define", "(def\\u0069ne"),
        format!("\n{text}\t"),
        text.clone(),
    ];
    let library = Library::new();
    let expected = parse(&text).unwrap();
    library.load(fixture()).unwrap();
    for way in ways {
        let game = library.parse("some/game.tw-pddl", &way).unwrap();
        assert_eq!(game.first_observation(), expected.first_observation(), "{way}");
        assert_eq!(game.walkthrough(), expected.walkthrough(), "{way}");
        assert_eq!(commands(&Play::new(game)), commands(&Play::new(expected.clone())), "{way}");
    }
    let trailing = text.trim_end_matches('}').to_owned() + ",}";
    for wrong in [
        trailing,
        format!("{text}}}"),
        text.replacen("{", "{\"solvable\": true, ", 1),
        text.replace("A pantry", "A\tpantry"),
    ] {
        let known = library.parse("some/game.tw-pddl", &wrong);
        let fresh = parse(&wrong);
        assert_eq!(known.unwrap_err().to_string(), fresh.unwrap_err().to_string(), "{wrong}");
    }
}

fn parse_json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn alfworld_games_that_differ_in_their_task_share_the_rest() {
    let library = Library::new();
    library.load(fixture()).expect("a game");
    let sentences = [
        "shelve",
        "shelve two pears.",
        "x",
        "put \\\"it\\\" there",
        "{c.name}",
        "#view#",
        "a; b",
        "é 1",
        "\\u0041",
    ];
    for sentence in sentences {
        let text = changed("grammar", "shelve two plums.", sentence);
        let shared = library.parse("a", &text);
        let alone = Library::new().parse("a", &text);
        match (shared, alone) {
            (Ok(shared), Ok(alone)) => {
                assert_eq!(shared.first_observation(), alone.first_observation())
            }
            (Err(shared), Err(alone)) => assert_eq!(shared.to_string(), alone.to_string()),
            (shared, alone) => panic!("{sentence}: {shared:?} {alone:?}"),
        }
    }
    let other = library.parse("a", &changed("grammar", "Stowed", "Put away")).expect("a game");
    assert_ne!(other.first_observation(), "");
}

#[test]
fn alfworld_lists_are_sorted_and_filtered() {
    let files = game_files(&fixtures(), Split::Train, &[]).expect("a list");
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), [GAME]);
    assert_eq!(
        files,
        game_files(&fixtures().join("json_2.1.1"), Split::Train, &[TaskType::PickTwoObjAndPlace])
            .expect("a list")
    );
    let none = game_files(&fixtures(), Split::Train, &[TaskType::LookAtObjInLight])
        .expect_err("no such game");
    assert!(none.to_string().contains("look_at_obj_in_light"), "{none}");
    let missing = game_files(&fixtures(), Split::ValidSeen, &[]).expect_err("no such split");
    assert!(
        matches!(&missing, AlfworldError::Io { path, .. } if path.ends_with("valid_seen")),
        "{missing}"
    );
    assert!("valid_seen".parse::<Split>().is_ok());
    assert!("seen".parse::<Split>().expect_err("no split").to_string().contains("valid_unseen"));
    assert!("pick"
        .parse::<TaskType>()
        .expect_err("no type")
        .to_string()
        .contains("pick_two_obj_and_place"));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("train/x")).expect("a folder");
    assert!(matches!(
        game_files(folder.path(), Split::Train, &[]),
        Err(AlfworldError::NoGames { .. })
    ));
}

#[test]
fn alfworld_lists_leave_out_what_alfworld_leaves_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(fixture()).expect("readable");
    let unsolvable = text.replace("\"solvable\": true", "\"solvable\": false");
    let place = |name: &str, text: &str| {
        let path = folder.path().join("train").join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        std::fs::write(path.join("game.tw-pddl"), text).expect("a file");
    };
    for name in ["b-2", "b-10", "a"] {
        place(&format!("pick_and_place_simple-{name}/trial"), &text);
    }
    place("pick_and_place_simple-movable/trial", &text);
    place("pick_and_place_simple-AppleSliced/trial", &text);
    place("pick_and_place_simple-c/trial", &unsolvable);
    place("no_task_at_all/trial", &text);
    let files = game_files(folder.path(), Split::Train, &[]).expect("a list");
    let names: Vec<&str> = files.iter().map(|file| &file.name[28..file.name.len() - 19]).collect();
    assert_eq!(names, ["a", "b-10", "b-2"]);
}

/// A data folder of games, made from the fixture.
struct DataFolder(tempfile::TempDir);

impl DataFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn put(&self, folder: &str, file: &str, text: &str) {
        let folder = self.0.path().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(file), text).expect("a file");
    }

    fn game(&self, folder: &str, text: &str) {
        self.put(folder, "game.tw-pddl", text);
    }
}

#[test]
fn alfworld_the_key_solvable_is_read_wherever_it_is_and_what_is_left_out_is_counted() {
    let data = DataFolder::new();
    let text = std::fs::read_to_string(fixture()).expect("readable");
    let far = " ".repeat(10_000);
    let first = text.replace("\"solvable\": true, ", "").replacen('{', "{\"solvable\": true, ", 1);
    let padded = first.replace("\"walkthrough\"", &format!("{far}\"walkthrough\""));
    let without = text.replace("\"solvable\": true, ", "");
    assert!(padded.contains("solvable") && !without.contains("solvable"));
    let with = |value: &str| text.replace("\"solvable\": true", &format!("\"solvable\": {value}"));
    let simple = "train/pick_and_place_simple";
    data.game(&format!("{simple}-a/trial"), &text);
    data.game(&format!("{simple}-b/trial"), &padded);
    data.game(&format!("{simple}-c/trial"), &without);
    data.game(&format!("{simple}-d/trial"), &without);
    data.game(&format!("{simple}-e/trial"), &with("false"));
    data.game(&format!("{simple}-f/trial"), &with("\"true\""));
    data.game(&format!("{simple}-g/trial"), &text[..text.len() - 20]);
    data.game("train/unnamed/trial", &text);
    data.put("train/typed/trial", "traj_data.json", "{\"task_type\": \"pick_and_place_simple\"}");
    data.game("train/typed/trial", &text);
    data.game("train/__MACOSX/pick_and_place_simple-h/trial", &text);
    data.put(&format!("{simple}-a/trial"), "._game.tw-pddl", "");
    let files = game_files(data.0.path(), Split::Train, &[]).expect("a list");
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let expected =
        ["train/pick_and_place_simple-a", "train/pick_and_place_simple-b", "train/typed"];
    assert_eq!(names, expected.map(|name| format!("{name}/trial/game.tw-pddl")));
    let games = epo::env::alfworld::DataFolder::open(data.0.path()).expect("games");
    let left_out = games.left_out();
    for part in [
        "7 left out: ",
        "2 without the key `solvable` (such as train/pick_and_place_simple-c/trial/game.tw-pddl)",
        "1 with `\"solvable\": false`",
        "1 with a value of `solvable` that is not true or false",
        "1 not a JSON object",
        "1 with no task type in the path or in traj_data.json",
        "1 left over from a zip archive",
    ] {
        assert!(left_out.contains(part), "{part}: {left_out}");
    }
    let none = DataFolder::new();
    none.game(&format!("{simple}-c/trial"), &without);
    let error = game_files(none.0.path(), Split::Train, &[]).expect_err("no game").to_string();
    assert!(error.contains("1 without the key `solvable`"), "{error}");
}

#[test]
fn alfworld_a_folder_of_another_version_is_found_and_a_wrong_level_is_named() {
    let text = std::fs::read_to_string(fixture()).expect("readable");
    let data = DataFolder::new();
    let trial = "json_2.1.2/train/pick_and_place_simple-a/trial";
    data.game(trial, &text);
    let open = |folder: &Path| epo::env::alfworld::DataFolder::open(folder).map(drop);
    let root = data.0.path();
    for right in [root.to_owned(), root.join("json_2.1.2")] {
        assert!(open(&right).is_ok(), "{}", right.display());
    }
    let version = root.join("json_2.1.2");
    for deep in ["json_2.1.2/train", "json_2.1.2/train/pick_and_place_simple-a", trial] {
        let error = open(&root.join(deep)).expect_err("too deep").to_string();
        assert!(error.contains(&format!("in {}: name", version.display())), "{error}");
    }
    let above = DataFolder::new();
    above.game(&format!("alfworld/{trial}"), &text);
    let error = open(above.0.path()).expect_err("too shallow").to_string();
    let place = above.0.path().join("alfworld");
    assert!(error.contains(&format!("in {}: name", place.display())), "{error}");
    let error = open(&root.join("missing")).expect_err("no folder").to_string();
    assert!(error.contains("missing"), "{error}");
}

#[cfg(unix)]
#[test]
fn alfworld_links_in_circles_and_odd_names_are_no_obstacle() {
    use std::os::unix::ffi::OsStrExt;
    let text = std::fs::read_to_string(fixture()).expect("readable");
    let data = DataFolder::new();
    data.game("train/pick_and_place_simple-a/trial", &text);
    let train = data.0.path().join("train");
    let link = |target: &Path, name: &str| {
        std::os::unix::fs::symlink(target, train.join(name)).expect("a link");
    };
    link(&train, "around");
    link(data.0.path(), "pick_and_place_simple-a/above");
    link(Path::new("/nonexistent"), "broken");
    let odd = train.join(std::ffi::OsStr::from_bytes(b"pick_and_place_simple-\xe9/trial"));
    std::fs::create_dir_all(&odd).expect("a folder");
    std::fs::write(odd.join("game.tw-pddl"), &text).expect("a file");
    let dangling = train.join("pick_and_place_simple-c");
    std::fs::create_dir(&dangling).expect("a folder");
    std::os::unix::fs::symlink("/nonexistent", dangling.join("game.tw-pddl")).expect("a link");
    let files = game_files(data.0.path(), Split::Train, &[]).expect("a list");
    assert_eq!(files.len(), 2, "{files:?}");
    Library::new().load(&files[1].path).expect("a name that is not UTF-8");
    let left_out = epo::env::alfworld::DataFolder::open(data.0.path()).expect("games").left_out();
    assert!(left_out.contains("2 linked to a folder around it"), "{left_out}");
    assert!(left_out.contains("1 that cannot be read"), "{left_out}");
}

/// The field to change, the text to replace, its replacement, and the expected place and reason.
type Fault = (&'static str, &'static str, &'static str, &'static str, &'static str);

#[test]
fn alfworld_faults_are_located() {
    let faults: [Fault; 26] = [
        ("pddl_domain", ":adl", ":fluents", "pddl_domain:3:17: `:fluents`", "requirement"),
        (
            "pddl_domain",
            "(busy ?c - cook)",
            "(busy ?c - cook",
            "pddl_domain:2:1: `(`",
            "never closed",
        ),
        ("pddl_domain", "(busy ?c - cook)", "(busy ?c - cook))", "`(`", "goes on after"),
        ("pddl_domain", "(busy ?c - cook)", "(busy ?c - )", "`-`", "no type"),
        ("pddl_domain", "(standing ?c ?from)", "(standing ?c ?form)", "`?form`", "not declared"),
        (
            "pddl_domain",
            "(standing ?c ?from)",
            "(sitting ?c ?from)",
            "",
            "`sitting` is not declared",
        ),
        ("pddl_domain", "(standing ?c ?from)", "(standing ?c)", "", "1 arguments"),
        ("pddl_domain", "(exists", "(forall", "", "`forall` is not supported"),
        ("pddl_domain", ":action wait", ":action walk", "", "declared twice"),
        ("pddl_domain", "(:action wait", "(:durative-action wait", "", "not supported"),
        ("pddl_domain", "(lamp ?o)", "(lämp ?o)", "`lämp`", "ASCII"),
        (
            "pddl_problem",
            "(lamp Torch_bar_1)",
            "(lamp Torch_bar_9)",
            "pddl_problem:14:10: `Torch_bar_9`",
            "not declared",
        ),
        ("pddl_problem", "(lamp Torch_bar_1)", "(lamp)", "`(`", "0 arguments"),
        ("pddl_problem", "fruit tool - grade", "fruit tool - wood", "`wood`", "not declared"),
        (
            "pddl_problem",
            "fruit tool - grade",
            "fruit fruit tool - grade",
            "",
            "`fruit` is declared twice",
        ),
        ("pddl_problem", "(:goal (and", "(:goal (xor", "", "`xor` is not declared"),
        ("pddl_problem", "(:goal", "(:metric", "", ":goal"),
        ("grammar", "#view#", "#veiw#", "`#veiw#`", "no rule"),
        ("grammar", "\"Sealed.\"", "\"#inside#\"", "`#inside#`", "derives itself: inside → inside"),
        ("grammar", "\"Sealed.\"", "Sealed", "grammar:44:14: `Sealed`: expected value", ""),
        ("grammar", "action Wait", "action Dance", "`wait`", "no texts"),
        ("grammar", "template :: \"wait\";", "", "", "needs a template"),
        ("grammar", "template :: \"wait\";", "template :: \"wait\"", "", "expected `;`"),
        (
            "grammar",
            "lidded(p:store) & unsealed(p:store)",
            "lidded(p:store & unsealed(p:store)",
            "",
            "expected `,` or `)`",
        ),
        ("grammar", "lidded(p:store) & unsealed(p:store)", "lidded(p:shop)", "", "type `shop`"),
        ("grammar", "{o.indefinite + ' '", "{o.indefinite + '", "", ""),
    ];
    for (field, from, to, place, reason) in faults {
        let error = parse(&changed(field, from, to)).expect_err(to);
        let AlfworldError::Syntax { file, part, line, column, .. } = &error else {
            panic!("{to}: {error}")
        };
        assert_eq!(
            (file.as_str(), part.to_string()),
            ("some/game.tw-pddl", field.to_owned()),
            "{error}"
        );
        assert!(*line > 0 && *column > 0);
        assert!(error.to_string().contains(place), "{place}: {error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn alfworld_unsolvable_games_are_refused() {
    let said = parse(
        &std::fs::read_to_string(fixture())
            .expect("readable")
            .replace("\"solvable\": true", "\"solvable\": false"),
    );
    assert!(matches!(said, Err(AlfworldError::Unsolvable { .. })), "{said:?}");
    let unreachable =
        parse(&changed("pddl_problem", "(takes Shelf_bar__plus_01_dot_00 fruit)", ""));
    assert!(matches!(unreachable, Err(AlfworldError::Unsolvable { .. })), "{unreachable:?}");
}

#[test]
fn alfworld_bad_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Library::new();
    let file = folder.path().join("game.tw-pddl");
    let text = std::fs::read_to_string(fixture()).expect("readable");
    assert!(matches!(library.load(folder.path()), Err(AlfworldError::Io { .. })));
    for end in [0, 1, 100, text.len() / 2, text.len() - 1] {
        std::fs::write(&file, &text[..end]).expect("a file");
        let error = library.load(&file).expect_err("truncated");
        assert!(
            matches!(&error, AlfworldError::Json { line: 1, file, .. }
                if file.ends_with("game.tw-pddl")),
            "{error}"
        );
    }
    for (text, reason) in [
        ("{}", "pddl_domain"),
        ("[]", ""),
        ("not JSON", "expected"),
        ("{\"grammar\": 3}", "string"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(matches!(&error, AlfworldError::Json { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    std::fs::write(&file, b"\xff\xfe").expect("a file");
    assert!(matches!(library.load(&file), Err(AlfworldError::Io { .. })));
    std::fs::File::create(&file).and_then(|file| file.set_len(100 << 20)).expect("a file");
    let error = library.load(&file).expect_err("too large");
    assert!(matches!(error, AlfworldError::FileSize { size: 104_857_600, .. }), "{error}");
}

#[test]
fn alfworld_hostile_texts_are_refused() {
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let wide: String = (0..300_000).map(|i| format!(" o{i}")).collect();
    let atoms: String = (0..200).map(|_| "(busy ?c)").collect();
    let choices: String = (0..20).map(|_| "(or (busy ?c) (noticed ?c))").collect();
    let params: String = (0..20).map(|i| format!(" ?x{i} - object")).collect();
    let chain: String =
        (0..500).map(|i| format!("\"n{i}\": [{{\"rhs\": \"#n{}#\"}}],", i + 1)).collect();
    let doubling: String =
        (0..60).map(|i| format!("\"n{i}\": [{{\"rhs\": \"#n{0}##n{0}#\"}}],", i + 1)).collect();
    let view = "\"view\": [";
    let faults = [
        ("pddl_domain", "(and (standing ?c ?from)", deep("(and ", ")"), "nested"),
        ("pddl_problem", "(lamp Torch_bar_1)", deep("(", ")"), "nested"),
        ("pddl_problem", "unused", wide, "objects"),
        ("pddl_domain", "(placed ?p ?to))", format!("(placed ?p ?to) {atoms})"), "64 atoms"),
        (
            "pddl_domain",
            "(placed ?p ?to))",
            format!("(placed ?p ?to) {choices})"),
            "1024 disjuncts",
        ),
        (
            "pddl_domain",
            ":action wait :parameters (?c - cook",
            format!(":action wait :parameters (?c - cook {params}"),
            "operators",
        ),
        (
            "grammar",
            view,
            format!("{chain} \"n500\": [{{\"rhs\": \"x\"}}], {view} {{\"rhs\": \"#n0#\"}},"),
            "above each other",
        ),
        (
            "grammar",
            view,
            format!("{doubling} \"n60\": [{{\"rhs\": \"x\"}}], {view} {{\"rhs\": \"#n0#\"}},"),
            "endless",
        ),
    ];
    for (field, from, to, reason) in faults {
        let start = std::time::Instant::now();
        let error = parse(&changed(field, from, &to)).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(start.elapsed().as_secs() < 20, "{reason}: {:?}", start.elapsed());
    }
    let json = format!("{{\"grammar\": {}", "[".repeat(100_000));
    assert!(matches!(parse(&json), Err(AlfworldError::Json { .. })));
}

#[test]
fn alfworld_walkthroughs_win() {
    let Some(folder) = real_games() else { return println!("skipped: set ALFWORLD_DATA") };
    let library = Library::new();
    let mut played = 0;
    for split in
        Split::ALL.into_iter().filter(|split| folder.join("json_2.1.1").join(split.name()).is_dir())
    {
        for file in game_files(&folder, split, &[]).expect("a list") {
            let game = library.load(&file.path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(game.task_type(), Some(file.task_type));
            assert!(game.first_observation().ends_with(game.goal()), "{}", file.name);
            let mut play = Play::new(game.clone());
            for (i, action) in game.walkthrough().expect("a walkthrough").iter().enumerate() {
                assert!(!play.is_won(), "{}: won before step {i}", file.name);
                assert!(play.step(action).expect("a text").valid, "{}: {action}", file.name);
            }
            assert!(play.is_won(), "{}", file.name);
            played += 1;
        }
    }
    println!("{played} walkthroughs win");
    assert!(played > 0);
}

#[test]
fn alfworld_parts_are_named_as_in_the_file() {
    assert_eq!(
        [Part::Domain, Part::Grammar, Part::Problem].map(|part| part.to_string()),
        ["pddl_domain", "grammar", "pddl_problem"]
    );
}

#[test]
fn alfworld_one_library_serves_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<(Library, Game, Play, State, AlfworldError)>();
    let library = Library::new();
    let load = |_| library.load(fixture()).expect("a game").first_observation().to_owned();
    let load_some = || (0..8).map(load).collect::<Vec<_>>();
    let observations = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load_some)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(observations.windows(2).all(|pair| pair[0] == pair[1]));
}
