//! Compiled grammars.

use std::sync::Arc;

use crate::env::alfworld::grammar::value::Attribute;
use crate::env::alfworld::pddl::atom::PredicateId;
use crate::env::alfworld::pddl::domain::Domain;
use crate::env::alfworld::pddl::types::TypeId;

/// A compiled grammar.
#[derive(Default)]
pub(crate) struct Grammar {
    /// The rules of each reachable non-terminal.
    pub(crate) rules: Vec<Vec<Rule>>,
    /// The names of the non-terminals.
    pub(crate) names: Vec<String>,
    pub(crate) literals: Vec<String>,
    /// The literals that are a whole right-hand side, with their byte ranges in the text.
    pub(crate) plain: Vec<(std::ops::Range<usize>, u32)>,
    /// The first observation.
    pub(crate) intro: Vec<Symbol>,
    /// The texts of each action of the domain.
    pub(crate) actions: Vec<ActionText>,
    pub(crate) slots: Vec<Slot>,
    /// The names of variables in expressions and queries.
    pub(crate) variables: Vec<String>,
    /// The non-terminals that lists need; set if the grammar has a list.
    pub(crate) lists: Option<Lists>,
    /// For each predicate, `true` if some query uses it.
    pub(crate) queried: Vec<bool>,
}

/// The non-terminals for an empty list and for the separators of its items.
#[derive(Clone, Copy)]
pub(crate) struct Lists {
    pub(crate) empty: u16,
    pub(crate) separator: u16,
    pub(crate) last_separator: u16,
}

/// A placeholder of queries or a parameter of an action: a name and a type.
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
    /// The parameters that the command depends on, by position.
    pub(crate) named: Vec<usize>,
    /// The template as literals and names of parameters, if it has nothing else.
    pub(crate) pieces: Option<Vec<Piece>>,
}

/// A piece of a command.
pub(crate) enum Piece {
    Literal(u32),
    /// The name of the object of a parameter.
    Name(usize),
}

/// A rule of a non-terminal: a text that applies if the condition holds.
pub(crate) struct Rule {
    pub(crate) condition: Option<Query>,
    pub(crate) symbols: Vec<Symbol>,
}

/// A symbol of a text.
pub(crate) enum Symbol {
    Literal(u32),
    NonTerminal(u16),
    /// The body, once for each answer of the query.
    Each(Each),
    /// A list with one item for each answer of the query.
    List(Each),
}

/// A body and its query; a body without a query is written once.
pub(crate) struct Each {
    pub(crate) body: Body,
    pub(crate) query: Option<Query>,
}

/// The text for one answer of a query.
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
    /// The distinct placeholders.
    pub(crate) slots: Vec<u16>,
}

/// An atom of a query.
pub(crate) struct QueryAtom {
    /// `None` if the domain does not declare the predicate; then nothing matches.
    pub(crate) predicate: Option<PredicateId>,
    /// `true` if it matches facts that an action made false.
    pub(crate) denied: bool,
    pub(crate) slots: Vec<u16>,
    /// The signatures that the arguments may have, in the order in which they are tried.
    pub(crate) signatures: Signatures,
}

/// Type signatures: one list of argument types per signature.
pub(crate) type Signatures = Arc<[Vec<TypeId>]>;

/// The inputs of a command.
#[derive(Default)]
struct Inputs {
    variables: Vec<u16>,
    slots: Vec<u16>,
    /// The first fluent predicate.
    fluent: Option<PredicateId>,
}

impl Grammar {
    /// Checks that no chain of nested non-terminals is recursive or longer than `limit`.
    ///
    /// # Errors
    /// Returns the names along a chain that is.
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

    /// Collects the non-terminals in `rules`.
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

    /// Finds the parameters that the command of an action depends on.
    ///
    /// # Errors
    /// Returns the name of a fluent predicate if the command depends on one.
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
        // An answer of a query differs from every parameter, so a free placeholder depends on all.
        let free = inputs.slots.iter().any(|slot| !action.params.contains(slot));
        let named = |slot: &u16| {
            free || inputs.slots.contains(slot)
                || inputs.variables.contains(&self.slots[usize::from(*slot)].variable)
        };
        Ok((0..action.params.len()).filter(|&i| named(&action.params[i])).collect())
    }

    /// Splits a template into literals and names of parameters, if it has nothing else.
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
                    if let Some(query) = &each.query {
                        inputs.add_query(query, domain);
                    }
                    inputs.add_variables(&each.body);
                    each.non_terminal()
                }
            };
            let Some(id) = below else { continue };
            if std::mem::replace(&mut seen[usize::from(id)], true) {
                continue;
            }
            for rule in &self.rules[usize::from(id)] {
                if let Some(query) = &rule.condition {
                    inputs.add_query(query, domain);
                }
                self.collect(&rule.symbols, domain, inputs, seen);
            }
        }
    }
}

impl Inputs {
    fn add_query(&mut self, query: &Query, domain: &Domain) {
        self.slots.extend(&query.slots);
        let mut predicates = query.atoms.iter().filter_map(|atom| atom.predicate);
        let fluent = |id: &PredicateId| domain.predicates.is_fluent(*id);
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
