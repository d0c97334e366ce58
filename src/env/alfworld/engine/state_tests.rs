//! State that is updated step by step, compared with the same state computed from scratch.

use std::path::Path;

use crate::env::alfworld::engine::files::game_files;
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::library::Library;
use crate::env::alfworld::engine::play::Play;
use crate::env::alfworld::engine::state::{OperatorId, State};
use crate::env::alfworld::task::Split;

/// The fixture, and real games if the shared folder is present.
fn games() -> Vec<std::sync::Arc<Game>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = Library::new();
    let folders = ["tests/fixtures/alfworld", "shared/alfworld", "../shared/alfworld"];
    let lists = folders.map(|folder| game_files(&root.join(folder), Split::Train, &[]));
    let files = lists.into_iter().filter_map(Result::ok).flatten();
    files.map(|file| library.load(&file.path).expect("a game")).collect()
}

/// Draws a pseudo-random index below `count`.
fn index(seed: &mut u64, count: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % count
}

#[test]
fn alfworld_applicable_operators_are_kept_right() {
    for game in games() {
        let mut state = game.initial_state().clone();
        let mut seed = 1;
        for _ in 0..300 {
            let applicable: Vec<_> = state.applicable().collect();
            let operator = applicable[index(&mut seed, applicable.len())];
            assert!(game.apply(&mut state, operator));
            assert_eq!(
                state.applicable,
                game.find_applicable(&state),
                "{}: {}",
                game.name(),
                game.command(operator)
            );
        }
    }
}

#[test]
fn alfworld_operators_that_are_not_applicable_change_nothing() {
    for game in games() {
        let mut state: State = game.initial_state().clone();
        for operator in (0..game.operator_count() as u32 + 3).map(OperatorId) {
            if !state.is_applicable(operator) {
                assert!(!game.apply(&mut state, operator));
                assert_eq!(&state, game.initial_state());
            }
        }
    }
}

#[test]
fn alfworld_lists_are_the_commands_of_the_applicable_operators() {
    for game in games() {
        let mut play = Play::new(game.clone());
        let mut seed = 2;
        for _ in 0..100 {
            let mut expected: Vec<&str> =
                play.state().applicable().map(|id| game.command(id)).collect();
            expected.sort_unstable();
            expected.dedup();
            assert!(play.admissible().eq(expected.iter().copied()), "{}", game.name());
            let action = expected[index(&mut seed, expected.len())].to_owned();
            let operator = play.operator(&action).expect("an operator");
            assert_eq!(game.command(operator), action);
            assert!(play.step(&action).expect("a text").valid);
        }
    }
}
