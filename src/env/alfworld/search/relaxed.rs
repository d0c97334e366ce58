//! Games in which nothing that is true ever stops being so: what may matter to a goal, and how far off it is.

use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::operators::{Conjunction, Literal};
use crate::env::alfworld::engine::state::{OperatorId, State};

/// A literal's number: twice its fact's, plus 1 for true.
pub(crate) type LiteralId = usize;

/// What an operator brings about, under one case of its conditions; without an operator, a part of the goal.
struct Rule {
    operator: Option<usize>,
    needs: Vec<LiteralId>,
    gives: Vec<LiteralId>,
}

/// A game in which literals only ever come to hold.
pub(crate) struct Relaxed {
    rules: Vec<Rule>,
    operators: usize,
    /// The literals that hold at the start.
    initial: Vec<bool>,
    goal: LiteralId,
}

/// No way to reach it.
const NEVER: u32 = u32::MAX;

impl Relaxed {
    /// The operators of `game` for which `keep` holds, from `state` on.
    pub(crate) fn new(game: &Game, state: &State, keep: &dyn Fn(usize) -> bool) -> Self {
        let operators = game.operators();
        let literals = 2 * game.fact_count();
        let mut rules = Vec::new();
        for operator in (0..operators.len()).filter(|&operator| keep(operator)) {
            let needs = ids(operators.conditions.row(operator));
            let gives = ids(operators.effects.row(operator));
            for effect in operators.conditional.row(operator) {
                rules.extend(effect.when.iter().map(|case| Rule {
                    operator: Some(operator),
                    needs: needs.iter().copied().chain(ids(case)).collect(),
                    gives: vec![id(effect.literal)],
                }));
            }
            rules.push(Rule { operator: Some(operator), needs, gives });
        }
        let parts = game.goal_parts();
        let goal = literals + parts.len();
        for (i, alternatives) in parts.iter().enumerate() {
            let rule = |case: &Conjunction| Rule {
                operator: None,
                needs: ids(case),
                gives: vec![literals + i],
            };
            rules.extend(alternatives.iter().map(rule));
        }
        rules.push(Rule { operator: None, needs: (literals..goal).collect(), gives: vec![goal] });
        let mut initial: Vec<bool> =
            (0..literals).map(|id| state.holds(id / 2) == (id % 2 == 1)).collect();
        initial.resize(goal + 1, false);
        Self { rules, operators: operators.len(), initial, goal }
    }

    /// For each operator, whether it may be part of a shortest plan: it brings about something needed, and all
    /// that it needs itself is needed anyway or true at the start; or it can be the first to bring that about, and
    /// nothing can do so at once.
    ///
    /// This leaves out actions whose only use is to undo themselves, such as carrying about what the goal does not
    /// ask for. It loses nothing where no thing has to be put aside, which holds for household tasks.
    pub(crate) fn useful(&self) -> Vec<bool> {
        let mut needed = vec![false; self.initial.len()];
        needed[self.goal] = true;
        let mut first: Vec<Option<Vec<bool>>> = vec![None; self.initial.len()];
        let mut useful = vec![false; self.rules.len()];
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for (i, rule) in self.rules.iter().enumerate() {
                if useful[i] || !rule.gives.iter().any(|&id| needed[id]) {
                    continue;
                }
                let at_hand = rule.needs.iter().all(|&id| needed[id] || self.initial[id]);
                let mut begins = |&id: &LiteralId| {
                    needed[id] && first[id].get_or_insert_with(|| self.first_achievers(id))[i]
                };
                if at_hand || rule.gives.iter().any(&mut begins) {
                    (useful[i], changed) = (true, true);
                    rule.needs.iter().for_each(|&id| needed[id] = true);
                }
            }
        }
        let mut operators = vec![false; self.operators];
        let rules = self.rules.iter().zip(useful).filter(|(_, useful)| *useful);
        rules.filter_map(|(rule, _)| rule.operator).for_each(|operator| operators[operator] = true);
        operators
    }

    /// The rules that can bring about `literal` before it ever held; none if some can do so at once, or if it holds.
    fn first_achievers(&self, literal: LiteralId) -> Vec<bool> {
        let holds = |known: &[bool], rule: &Rule| rule.needs.iter().all(|&id| known[id]);
        let gives = |rule: &&Rule| rule.gives.contains(&literal);
        if self.initial[literal]
            || self.rules.iter().filter(gives).any(|rule| holds(&self.initial, rule))
        {
            return vec![false; self.rules.len()];
        }
        let mut known = self.initial.clone();
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for rule in &self.rules {
                let news = rule.gives.iter().any(|&id| id != literal && !known[id]);
                if news && holds(&known, rule) {
                    rule.gives.iter().filter(|&&id| id != literal).for_each(|&id| known[id] = true);
                    changed = true;
                }
            }
        }
        self.rules.iter().map(|rule| gives(&rule) && holds(&known, rule)).collect()
    }

    /// Sets of operators, none in two of them, from each of which every plan has at least one (LM-cut, Helmert
    /// and Domshlak 2009); `None` if there is no plan.
    pub(crate) fn landmarks(&self) -> Option<Vec<Vec<OperatorId>>> {
        let mut costs = vec![1; self.operators];
        let mut landmarks = Vec::new();
        loop {
            let distances = self.distances(&costs);
            match distances[self.goal] {
                0 => return Some(landmarks),
                NEVER => return None,
                _ => {}
            }
            let cut = self.cut(&costs, &distances);
            cut.iter().for_each(|&operator| costs[operator] = 0);
            landmarks.push(cut.iter().map(|&operator| OperatorId(operator as u32)).collect());
        }
    }

    /// The cost of reaching each literal, if reaching several costs as much as reaching the costliest of them.
    fn distances(&self, costs: &[u32]) -> Vec<u32> {
        let mut distances: Vec<u32> =
            self.initial.iter().map(|&holds| if holds { 0 } else { NEVER }).collect();
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for rule in &self.rules {
                let needs = rule.needs.iter().map(|&id| distances[id]).max().unwrap_or(0);
                let distance = needs.saturating_add(rule.cost(costs));
                for &id in rule.gives.iter().filter(|_| needs != NEVER) {
                    if distance < distances[id] {
                        (distances[id], changed) = (distance, true);
                    }
                }
            }
        }
        distances
    }

    /// The operators that lead into the literals from which the goal costs nothing more.
    fn cut(&self, costs: &[u32], distances: &[u32]) -> Vec<usize> {
        let reachable = |rule: &&Rule| rule.needs.iter().all(|&id| distances[id] != NEVER);
        let rules: Vec<&Rule> = self.rules.iter().filter(reachable).collect();
        let mut near = vec![false; self.initial.len()];
        near[self.goal] = true;
        let free = rules.iter().filter(|rule| rule.cost(costs) == 0);
        grow(&mut near, free.map(|rule| (&rule.gives[..], rule.costliest(distances))).collect());
        let mut far = self.initial.clone();
        let mut cut = Vec::new();
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for rule in &rules {
                if !rule.costliest(distances).is_none_or(|id| far[id]) {
                    continue;
                }
                if rule.gives.iter().any(|&id| near[id]) {
                    cut.extend(rule.operator);
                } else if !rule.gives.iter().all(|&id| far[id]) {
                    rule.gives.iter().for_each(|&id| far[id] = true);
                    changed = true;
                }
            }
        }
        cut.sort_unstable();
        cut.dedup();
        cut
    }
}

impl Rule {
    fn cost(&self, costs: &[u32]) -> u32 {
        self.operator.map_or(0, |operator| costs[operator])
    }

    /// The need that is the costliest to reach.
    fn costliest(&self, distances: &[u32]) -> Option<LiteralId> {
        self.needs.iter().copied().max_by_key(|&id| distances[id])
    }
}

/// Adds to `set` each literal of which a rule that gives one of `set` says so, until there is none.
fn grow(set: &mut [bool], rules: Vec<(&[LiteralId], Option<LiteralId>)>) {
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for (gives, from) in &rules {
            if let Some(from) = from.filter(|&from| !set[from] && gives.iter().any(|&id| set[id])) {
                (set[from], changed) = (true, true);
            }
        }
    }
}

fn ids(literals: &[Literal]) -> Vec<LiteralId> {
    literals.iter().map(|&literal| id(literal)).collect()
}

fn id(literal: Literal) -> LiteralId {
    2 * literal.fact() as usize + usize::from(literal.value())
}
