//! Writing a household as a game file.

use std::fmt::Write;

use crate::env::alfworld::task::TaskType;
use crate::env::household::catalog::{FURNITURE, KINDS, LAMPS};
use crate::env::household::world::{Labelled, World};

const DOMAIN: &str = include_str!("domain.pddl");
const GRAMMAR: &str = include_str!("grammar.twl2");
/// The placeholder for the sentence of the task in the grammar.
const PLACEHOLDER: &str = "THE TASK";

/// Writes the game file of `world`; `wording` selects the wording of the task.
pub(crate) fn game_file(world: &World, wording: usize) -> String {
    let grammar =
        GRAMMAR.replace(PLACEHOLDER, &format!("Your task is to: {}", sentence(world, wording)));
    let walkthrough: Vec<String> =
        world.walkthrough().iter().map(|action| quoted(action)).collect();
    format!(
        "{{\"pddl_domain\": {}, \"grammar\": {}, \"pddl_problem\": {}, \
         \"solvable\": true, \"walkthrough\": [{}]}}",
        quoted(DOMAIN),
        quoted(&grammar),
        quoted(&problem(world)),
        walkthrough.join(", ")
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes the sentence of the task.
fn sentence(world: &World, wording: usize) -> String {
    let thing = world.scenario.kind().name;
    let target = world.scenario.target().name();
    let article = if thing.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let wordings = match world.scenario.task_type {
        TaskType::PickAndPlaceSimple => {
            ["bring A THING to a TARGET.", "find A THING and bring it to a TARGET."]
        }
        TaskType::LookAtObjInLight => {
            ["look at A THING by the light of a TARGET.", "hold A THING under a lit TARGET."]
        }
        TaskType::PickCleanThenPlaceInRecep => {
            ["bring a clean THING to a TARGET.", "clean A THING, then bring it to a TARGET."]
        }
        TaskType::PickHeatThenPlaceInRecep => {
            ["bring a hot THING to a TARGET.", "heat A THING, then bring it to a TARGET."]
        }
        TaskType::PickCoolThenPlaceInRecep => {
            ["bring a cold THING to a TARGET.", "cool A THING, then bring it to a TARGET."]
        }
        TaskType::PickTwoObjAndPlace => [
            "bring A THING and another THING to the same TARGET.",
            "find A THING and another THING, then bring both to one TARGET.",
        ],
    };
    let text = wordings[wording % wordings.len()];
    text.replace("TARGET", target)
        .replace("A THING", &format!("{article} THING"))
        .replace("THING", thing)
}

/// Writes the problem in PDDL.
fn problem(world: &World) -> String {
    let mut text = String::from(
        "(define (problem chores) (:domain household)\n(:objects me - person middle - spot",
    );
    objects(world, &mut text);
    text.push_str(")\n(:init (at me middle)");
    facts(world, &mut text);
    let _ = write!(text, ")\n(:goal {}))\n", goal(world));
    text
}

// Writing to a string cannot fail, so the results of `write!` are ignored below.

fn objects(world: &World, text: &mut String) {
    for (i, receptacle) in world.receptacles.iter().enumerate() {
        let _ = write!(text, "\n{} - receptacle spot{i} - spot", receptacle.id);
    }
    for item in &world.items {
        let _ = write!(text, "\n{} - item", item.id);
    }
    for kind in KINDS.iter().chain(&LAMPS) {
        let _ = write!(text, "\n{} - kind", kind.name);
    }
    for furniture in &FURNITURE {
        let _ = write!(text, "\n{} - furniture", furniture.name);
    }
}

fn facts(world: &World, text: &mut String) {
    for (i, receptacle) in world.receptacles.iter().enumerate() {
        let Labelled { id, what, .. } = receptacle;
        let _ = write!(text, "\n(beside {id} spot{i}) (make {id} {})", what.name);
        traits(id, what.traits, text);
    }
    for (item, &place) in world.items.iter().zip(&world.places) {
        let Labelled { id, what, .. } = item;
        let _ = write!(
            text,
            "\n(inside {id} {}) (sort {id} {})",
            world.receptacles[place].id, what.name
        );
        let is_lamp = LAMPS.iter().any(|lamp| lamp.name == what.name);
        let _ = write!(text, " ({} {id})", if is_lamp { "lamp" } else { "portable" });
        traits(id, what.traits, text);
    }
    for kind in &KINDS {
        for furniture in FURNITURE.iter().filter(|furniture| kind.suits(furniture)) {
            let _ = write!(text, "\n(suits {} {})", furniture.name, kind.name);
        }
    }
}

fn traits(id: &str, traits: &str, text: &mut String) {
    for name in traits.split_whitespace() {
        let _ = write!(text, " ({name} {id})");
    }
}

/// Writes the goal in PDDL.
fn goal(world: &World) -> String {
    let kind = world.scenario.kind().name;
    let target = world.scenario.target().name();
    let put = |state: &str| {
        format!(
            "(exists (?i - item ?r - receptacle)\n\
             (and (sort ?i {kind}) (make ?r {target}) (inside ?i ?r){state}))"
        )
    };
    match world.scenario.task_type {
        TaskType::PickAndPlaceSimple => put(""),
        TaskType::PickCleanThenPlaceInRecep => put(" (clean ?i)"),
        TaskType::PickHeatThenPlaceInRecep => put(" (hot ?i)"),
        TaskType::PickCoolThenPlaceInRecep => put(" (cold ?i)"),
        TaskType::PickTwoObjAndPlace => format!(
            "(exists (?i - item ?j - item ?r - receptacle)\n\
             (and (not (= ?i ?j)) (sort ?i {kind}) (sort ?j {kind}) \
             (make ?r {target}) (inside ?i ?r) (inside ?j ?r)))"
        ),
        TaskType::LookAtObjInLight => format!(
            "(and (exists (?p - person ?i - item) (and (holding ?p ?i) (sort ?i {kind})))\n\
             (exists (?p - person ?s - spot ?r - receptacle ?i - item)\n\
             (and (at ?p ?s) (beside ?r ?s) (inside ?i ?r) (sort ?i {target}) (lit ?i))))"
        ),
    }
}
