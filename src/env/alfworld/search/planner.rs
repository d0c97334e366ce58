//! Shortest plans: A* over a game's states.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::BinaryHeap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::state::{OperatorId, State};
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::search::relaxed::Relaxed;

/// How many landmarks the search keeps count of.
const MAX_LANDMARKS: usize = 128;

/// Commands that win `game` from `state` on, as few as there are, after expanding at most `limit` states.
///
/// The search is A*, and what is known to be ahead are the landmarks of the start that a path has not met yet.
/// Carrying about what the goal does not ask for is left out, unless nothing else wins.
///
/// # Errors
/// [`AlfworldError::Unsolvable`] if nothing wins, [`AlfworldError::TooMany`] at the limit.
pub fn shortest_plan<'g>(game: &'g Game, state: &State, limit: usize) -> Result<Vec<&'g str>> {
    let useful = Relaxed::new(game, state, &|_| true).useful();
    let plan = match search(game, state, &useful, limit)? {
        Some(plan) => Some(plan),
        None => search(game, state, &vec![true; useful.len()], limit)?,
    };
    let plan = plan.ok_or_else(|| AlfworldError::Unsolvable {
        file: game.name().to_owned(),
        reason: "no action leads from here to the goal".to_owned(),
    })?;
    Ok(plan.into_iter().map(|operator| game.command(operator)).collect())
}

/// The search in progress.
struct Search<'g> {
    game: &'g Game,
    /// The landmarks that each operator meets.
    meets: Vec<u128>,
    landmarks: u128,
    nodes: Vec<Node>,
    known: FxHashMap<Arc<State>, u32>,
    /// The promising first: estimated length, estimated rest, node.
    open: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

/// How a state was reached.
struct Node {
    state: Arc<State>,
    length: u32,
    /// The landmarks met on each way here.
    met: u128,
    expanded: bool,
    from: Option<(u32, OperatorId)>,
}

/// A shortest plan with the operators of `allowed`, if there is one.
fn search(
    game: &Game,
    state: &State,
    allowed: &[bool],
    limit: usize,
) -> Result<Option<Vec<OperatorId>>> {
    let relaxed = Relaxed::new(game, state, &|operator| allowed[operator]);
    let Some(landmarks) = relaxed.landmarks() else { return Ok(None) };
    let mut search = Search::new(game, &landmarks);
    search.reach(state.clone(), 0, 0, None);
    let mut expanded = 0;
    while let Some(Reverse((_, _, node))) = search.open.pop() {
        let Node { state, expanded: done, .. } = &mut search.nodes[node as usize];
        if std::mem::replace(done, true) {
            continue;
        }
        if game.is_goal(state) {
            return Ok(Some(search.path(node)));
        }
        if expanded == limit {
            let file = game.name().to_owned();
            return Err(AlfworldError::TooMany {
                file,
                what: "states expanded in search of a plan",
                limit,
            });
        }
        expanded += 1;
        search.expand(node, allowed);
    }
    Ok(None)
}

impl<'g> Search<'g> {
    fn new(game: &'g Game, landmarks: &[Vec<OperatorId>]) -> Self {
        let mut meets = vec![0; game.operator_count()];
        let count = landmarks.len().min(MAX_LANDMARKS);
        for (i, landmark) in landmarks.iter().take(count).enumerate() {
            landmark.iter().for_each(|operator| meets[operator.index()] |= 1 << i);
        }
        let landmarks = u128::MAX.checked_shr((MAX_LANDMARKS - count) as u32).unwrap_or(0);
        Self {
            game,
            meets,
            landmarks,
            nodes: Vec::new(),
            known: FxHashMap::default(),
            open: BinaryHeap::new(),
        }
    }

    fn expand(&mut self, node: u32, allowed: &[bool]) {
        let Node { state, length, met, .. } = &self.nodes[node as usize];
        let (state, length, met) = (state.clone(), length + 1, *met);
        for operator in state.applicable().filter(|operator| allowed[operator.index()]) {
            let mut next = State::clone(&state);
            self.game.apply(&mut next, operator);
            self.reach(next, length, met | self.meets[operator.index()], Some((node, operator)));
        }
    }

    /// Notes that a state was reached, if it is new or was farther before.
    fn reach(&mut self, state: State, length: u32, met: u128, from: Option<(u32, OperatorId)>) {
        let id = match self.known.entry(Arc::new(state)) {
            Entry::Vacant(free) => {
                let id = self.nodes.len() as u32;
                self.nodes.push(Node {
                    state: free.key().clone(),
                    length,
                    met,
                    expanded: false,
                    from,
                });
                free.insert(id);
                id
            }
            Entry::Occupied(known) => {
                let (id, node) = (*known.get(), &mut self.nodes[*known.get() as usize]);
                if node.length <= length {
                    return;
                }
                (node.length, node.from, node.expanded) = (length, from, false);
                node.met &= met;
                id
            }
        };
        let rest = (self.landmarks & !self.nodes[id as usize].met).count_ones();
        self.open.push(Reverse((length + rest, rest, id)));
    }

    fn path(&self, node: u32) -> Vec<OperatorId> {
        let step = |node: u32| self.nodes[node as usize].from;
        let mut path: Vec<OperatorId> = std::iter::successors(step(node), |&(from, _)| step(from))
            .map(|(_, operator)| operator)
            .collect();
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;
    use crate::env::alfworld::engine::library::Library;
    use crate::env::alfworld::engine::play::Play;
    use crate::env::alfworld::task::Split;
    use crate::env::household::generator::{Generator, GeneratorConfig};

    fn households(
        count: u64,
        receptacles: (usize, usize),
        items: (usize, usize),
    ) -> impl Iterator<Item = Arc<Game>> {
        let config = GeneratorConfig { receptacles, items, ..GeneratorConfig::default() };
        let (generator, library) = (Generator::new(config).unwrap(), Library::new());
        (0..count).map(move |index| {
            let made = generator.game(Split::Train, index);
            library.parse(&made.name, &made.text, None).unwrap()
        })
    }

    fn plan_length(game: &Game, state: &State) -> usize {
        shortest_plan(game, state, 1_000_000).unwrap().len()
    }

    /// The length of a shortest plan by breadth-first search, without looking about.
    fn breadth_first(game: &Game) -> usize {
        let idle = |command: &str| {
            ["examine", "inventory", "look"].iter().any(|idle| command.starts_with(idle))
        };
        let mut open = VecDeque::from([(game.initial_state().clone(), 0)]);
        let mut known: HashSet<State> = HashSet::new();
        while let Some((state, length)) = open.pop_front() {
            if game.is_goal(&state) {
                return length;
            }
            for operator in state.applicable().filter(|&operator| !idle(game.command(operator))) {
                let mut next = state.clone();
                game.apply(&mut next, operator);
                if known.insert(next.clone()) {
                    open.push_back((next, length + 1));
                }
            }
        }
        panic!("no plan");
    }

    #[test]
    fn plans_are_as_short_as_breadth_first_search_finds() {
        for game in households(24, (4, 10), (3, 4)) {
            assert_eq!(
                plan_length(&game, game.initial_state()),
                breadth_first(&game),
                "{}",
                game.name()
            );
        }
    }

    #[test]
    fn leaving_out_what_is_of_no_use_loses_no_shortest_plan() {
        for game in households(60, (4, 16), (8, 16)) {
            let all = vec![true; game.operator_count()];
            let with_all = search(&game, game.initial_state(), &all, 1_000_000).unwrap().unwrap();
            assert_eq!(plan_length(&game, game.initial_state()), with_all.len(), "{}", game.name());
        }
    }

    #[test]
    fn plans_win_from_wherever_a_player_got_to() {
        let mut random = 1_u64;
        for game in households(60, (4, 16), (8, 16)) {
            let mut play = Play::new(game.clone());
            for _ in 0..20 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let commands: Vec<String> = play.admissible().map(str::to_owned).collect();
                play.step(&commands[(random >> 33) as usize % commands.len()]).unwrap();
            }
            for action in shortest_plan(&game, play.state(), 1_000_000).unwrap() {
                assert!(play.step(action).unwrap().valid, "{}: {action}", game.name());
            }
            assert!(play.is_won(), "{}", game.name());
        }
    }

    #[test]
    fn what_was_brought_too_early_is_brought_again_on_a_shortest_way() {
        let mut again = 0;
        for game in
            households(120, (8, 16), (3, 6)).filter(|game| game.walkthrough().unwrap().len() >= 6)
        {
            let mut play = Play::new(game.clone());
            let treats = |action: &&String| action.contains(" with ");
            for action in game.walkthrough().unwrap().iter().filter(|action| !treats(action)) {
                play.step(action).unwrap();
            }
            if !play.is_won() {
                let all = vec![true; game.operator_count()];
                let with_all = search(&game, play.state(), &all, 1_000_000).unwrap().unwrap();
                assert_eq!(plan_length(&game, play.state()), with_all.len(), "{}", game.name());
                again += 1;
            }
        }
        assert!(again > 20);
    }

    /// A game with one key that breaks in its lock, two rooms, and a goal.
    fn rooms(goal: &str) -> Arc<Game> {
        let domain = "(define (domain d) (:types room person)
            (:predicates (locked ?r - room) (whole) (inside ?r - room) (out))
            (:action enter :parameters (?r - room) :precondition (and (locked ?r) (whole))
              :effect (and (not (locked ?r)) (not (whole)) (inside ?r) (not (out))))
            (:action leave :parameters (?r - room) :precondition (inside ?r)
              :effect (and (not (inside ?r)) (out)))
            (:action mend :parameters (?r - room) :precondition (and (inside ?r) (not (whole))) :effect (whole)))";
        let problem = format!(
            "(define (problem p) (:domain d) (:objects a_bar_0 - room b_bar_0 - room)
             (:init (locked a_bar_0) (locked b_bar_0) (whole) (out)) (:goal {goal}))"
        );
        let text = |name, variable| {
            format!("action {name} {{ template :: \"{name}{variable}\"; feedback :: \"ok\"; }}\n")
        };
        let grammar = ["enter", "leave", "mend"].map(|name| text(name, " {r}")).concat();
        let grammar =
            format!("grammar :: \"\"\"{{\"intro\": [{{\"rhs\": \"go\"}}]}}\"\"\";\n{grammar}");
        let game = serde_json::json!({"pddl_domain": domain, "pddl_problem": problem, "grammar": grammar,
            "solvable": true, "walkthrough": []});
        Library::new().parse("rooms", &game.to_string(), None).unwrap()
    }

    #[test]
    fn what_was_true_is_brought_back_where_the_goal_needs_it() {
        let game = rooms("(and (not (locked a_bar_0)) (not (locked b_bar_0)) (out))");
        let plan = shortest_plan(&game, game.initial_state(), 1000).unwrap();
        assert_eq!(plan.len(), 4, "{plan:?}");
        assert_eq!((&plan[1][..4], &plan[3][..5]), ("mend", "leave"));
    }

    #[test]
    fn no_plan_and_too_long_a_search_are_errors() {
        let game = rooms("(and (inside a_bar_0) (locked a_bar_0))");
        let error = shortest_plan(&game, game.initial_state(), 1000).unwrap_err();
        assert!(
            matches!(&error, AlfworldError::Unsolvable { file, .. } if file == "rooms"),
            "{error}"
        );
        let game = households(6, (4, 16), (8, 16)).last().unwrap();
        let error = shortest_plan(&game, game.initial_state(), 3).unwrap_err();
        assert!(matches!(error, AlfworldError::TooMany { limit: 3, .. }), "{error}");
    }
}
