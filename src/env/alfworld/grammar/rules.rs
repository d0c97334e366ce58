//! Grammars compiled against a domain: what games say.

use std::sync::Arc;

use crate::env::alfworld::grammar::value::Attribute;
use crate::env::alfworld::pddl::atom::PredicateId;
use crate::env::alfworld::pddl::domain::Domain;
use crate::env::alfworld::pddl::types::TypeId;

/// A compiled grammar.
#[derive(Default)]
pub(crate) struct Grammar {
    /// The rules of each non-terminal that can come up.
    pub(crate) rules: Vec<Vec<Rule>>,
    /// The names of these non-terminals.
    pub(crate) names: Vec<String>,
    pub(crate) literals: Vec<String>,
    /// The literals that are the whole of a rule's right-hand side, and the bytes where they stand.
    pub(crate) plain: Vec<(std::ops::Range<usize>, u32)>,
    /// The first observation.
    pub(crate) intro: Vec<Symbol>,
    /// The texts of each action of the domain.
    pub(crate) actions: Vec<ActionText>,
    pub(crate) slots: Vec<Slot>,
    /// The names by which expressions call objects.
    pub(crate) variables: Vec<String>,
    /// The non-terminals between and instead of the items of a list; set if there is a list.
    pub(crate) lists: Option<Lists>,
    /// The predicates that queries ask about.
    pub(crate) queried: Vec<bool>,
}

/// What stands between the items of a list, and instead of them.
#[derive(Clone, Copy)]
pub(crate) struct Lists {
    pub(crate) empty: u16,
    pub(crate) separator: u16,
    pub(crate) last_separator: u16,
}

/// A placeholder of queries or a parameter of an action: one name and one type.
#[derive(PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) variable: u16,
    pub(crate) kind: TypeId,
}

/// The texts of an action.
pub(crate) struct ActionText {
    pub(crate) template: Vec<Symbol>,
    pub(crate) feedback: Vec<Symbol>,
    /// The slots of the parameters.
    pub(crate) params: Vec<u16>,
    /// The parameters that the command depends on.
    pub(crate) named: Vec<usize>,
    /// The template as texts and names of parameters, if it is no more than that.
    pub(crate) pieces: Option<Vec<Piece>>,
}

/// A piece of a command.
pub(crate) enum Piece {
    Literal(u32),
    /// The name of a parameter.
    Name(usize),
}

/// A rule: its text if its condition holds.
pub(crate) struct Rule {
    pub(crate) condition: Option<Query>,
    pub(crate) symbols: Vec<Symbol>,
}

/// A symbol of a text.
pub(crate) enum Symbol {
    Literal(u32),
    NonTerminal(u16),
    /// The body, for each answer of the query one after the other.
    Each(Each),
    /// The body as a list, an item for each answer of the query.
    List(Each),
}

/// A body, and the query whose answers it is written for; without a query it is written once.
pub(crate) struct Each {
    pub(crate) body: Body,
    pub(crate) query: Option<Query>,
}

/// What is written for an answer.
pub(crate) enum Body {
    NonTerminal(u16),
    /// The first sum that is not empty, or the last.
    Value(Vec<Vec<Term>>),
}

/// A part of a value.
pub(crate) enum Term {
    Text(u32),
    Attribute(u16, Attribute),
}

/// A conjunctive query.
pub(crate) struct Query {
    pub(crate) atoms: Vec<QueryAtom>,
    /// The placeholders, each once.
    pub(crate) slots: Vec<u16>,
}

/// One predicate of a query.
pub(crate) struct QueryAtom {
    /// Nothing is known of a predicate that the domain does not have.
    pub(crate) predicate: Option<PredicateId>,
    /// Asks for a fact that an action made false.
    pub(crate) denied: bool,
    pub(crate) slots: Vec<u16>,
    /// The types that the arguments may have, in the order in which they are tried.
    pub(crate) signatures: Signatures,
}

/// Combinations of types.
pub(crate) type Signatures = Arc<[Vec<TypeId>]>;

/// What a command depends on.
#[derive(Default)]
struct Inputs {
    variables: Vec<u16>,
    slots: Vec<u16>,
    /// The first predicate that actions can change.
    fluent: Option<PredicateId>,
}

impl Grammar {
    /// The longest chain of non-terminals below each one; the names along a chain that is longer than `limit`
    /// or comes back to its beginning.
    pub(crate) fn check_depth(&self, limit: usize) -> Result<(), Vec<&str>> {
        let mut heights = vec![None; self.rules.len()];
        (0..self.rules.len() as u16)
            .try_for_each(|id| self.height(id, limit, &mut Vec::new(), &mut heights))
    }

    fn height<'a>(
        &'a self,
        id: u16,
        limit: usize,
        path: &mut Vec<u16>,
        heights: &mut [Option<usize>],
    ) -> Result<(), Vec<&'a str>> {
        let name = |id: &u16| self.names[usize::from(*id)].as_str();
        let known = heights[usize::from(id)];
        if path.contains(&id) || path.len() + known.unwrap_or(0) >= limit {
            return Err(path.iter().chain([&id]).map(name).collect());
        }
        if known.is_some() {
            return Ok(());
        }
        path.push(id);
        let mut height = 0;
        for below in self.below(&self.rules[usize::from(id)]) {
            self.height(below, limit, path, heights)?;
            height = height.max(1 + heights[usize::from(below)].unwrap_or(0));
        }
        path.pop();
        heights[usize::from(id)] = Some(height);
        Ok(())
    }

    /// The non-terminals that stand in `rules`.
    fn below(&self, rules: &[Rule]) -> Vec<u16> {
        let mut found = Vec::new();
        for symbol in rules.iter().flat_map(|rule| &rule.symbols) {
            match symbol {
                Symbol::Literal(_) => {}
                Symbol::NonTerminal(id) => found.push(*id),
                Symbol::Each(each) | Symbol::List(each) => {
                    found.extend(each.non_terminal());
                    if let (Symbol::List(_), Some(lists)) = (symbol, self.lists) {
                        found.extend([lists.empty, lists.separator, lists.last_separator]);
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The parameters that the command of an action depends on, or the name of a predicate that it must not
    /// depend on.
    pub(crate) fn command_inputs(
        &self,
        action: &ActionText,
        domain: &Domain,
    ) -> Result<Vec<usize>, String> {
        let mut inputs = Inputs::default();
        let mut seen = vec![false; self.rules.len()];
        self.collect(&action.template, domain, &mut inputs, &mut seen);
        if let Some(predicate) = inputs.fluent {
            return Err(domain.predicates.list[usize::from(predicate)].name.clone());
        }
        // Answers of a query differ from every parameter, so a free placeholder depends on all of them.
        let free = inputs.slots.iter().any(|slot| !action.params.contains(slot));
        let named = |slot: &u16| {
            free || inputs.slots.contains(slot)
                || inputs.variables.contains(&self.slots[usize::from(*slot)].variable)
        };
        Ok((0..action.params.len()).filter(|&i| named(&action.params[i])).collect())
    }

    /// The template of an action as texts and names of parameters, if it is no more than that.
    pub(crate) fn pieces(&self, action: &ActionText) -> Option<Vec<Piece>> {
        let variable = |slot: &u16| self.slots[usize::from(*slot)].variable;
        let piece = |term: &Term| match term {
            Term::Text(id) => Some(Piece::Literal(*id)),
            Term::Attribute(name, Attribute::Name) => {
                action.params.iter().rposition(|slot| variable(slot) == *name).map(Piece::Name)
            }
            Term::Attribute(..) => None,
        };
        let mut pieces = Vec::new();
        for symbol in &action.template {
            match symbol {
                Symbol::Literal(id) => pieces.push(Piece::Literal(*id)),
                Symbol::Each(Each { body: Body::Value(choices), query: None })
                    if choices.len() == 1 =>
                {
                    pieces.extend(choices[0].iter().map(piece).collect::<Option<Vec<_>>>()?);
                }
                _ => return None,
            }
        }
        Some(pieces)
    }

    fn collect(&self, symbols: &[Symbol], domain: &Domain, inputs: &mut Inputs, seen: &mut [bool]) {
        for symbol in symbols {
            let below = match symbol {
                Symbol::Literal(_) => continue,
                Symbol::NonTerminal(id) => Some(*id),
                Symbol::Each(each) | Symbol::List(each) => {
                    each.query.iter().for_each(|query| inputs.add_query(query, domain));
                    inputs.add_variables(&each.body);
                    each.non_terminal()
                }
            };
            let Some(id) = below else { continue };
            if std::mem::replace(&mut seen[usize::from(id)], true) {
                continue;
            }
            for rule in &self.rules[usize::from(id)] {
                rule.condition.iter().for_each(|query| inputs.add_query(query, domain));
                self.collect(&rule.symbols, domain, inputs, seen);
            }
        }
    }
}

impl Inputs {
    fn add_query(&mut self, query: &Query, domain: &Domain) {
        self.slots.extend(&query.slots);
        let mut predicates = query.atoms.iter().filter_map(|atom| atom.predicate);
        let fluent = |id: &PredicateId| domain.predicates.list[usize::from(*id)].fluent;
        self.fluent = self.fluent.or(predicates.find(fluent));
    }

    fn add_variables(&mut self, body: &Body) {
        let Body::Value(choices) = body else { return };
        for term in choices.iter().flatten() {
            if let Term::Attribute(variable, _) = term {
                self.variables.push(*variable);
            }
        }
    }
}

impl Each {
    fn non_terminal(&self) -> Option<u16> {
        match self.body {
            Body::NonTerminal(id) => Some(id),
            Body::Value(_) => None,
        }
    }
}
