//! Conditions of actions and goals, in disjunctive normal form.

use crate::env::alfworld::error::Result;
use crate::env::alfworld::pddl::atom::{Atom, Term, MAX_VARS};
use crate::env::alfworld::pddl::predicates::Predicates;
use crate::env::alfworld::pddl::sexpr::{Items, Node};
use crate::env::alfworld::pddl::types::{typed_list, TypeId, Types, NO_TYPE};

/// The largest number of disjuncts of one condition.
const MAX_CASES: usize = 1024;
/// The largest number of atoms in one disjunct.
pub(crate) const MAX_ATOMS: usize = 64;
/// The largest number of objects named in the conditions and effects of one text.
const MAX_NAMES: usize = 4096;

/// One disjunct of a condition: a conjunction of literals and equalities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) positive: Vec<Atom>,
    pub(crate) negative: Vec<Atom>,
    /// Pairs of terms that must be equal (`true`) or different (`false`).
    pub(crate) equal: Vec<(Term, Term, bool)>,
    /// The variables that an enclosing `exists` declares.
    pub(crate) exists: Vec<u16>,
}

/// The objects named in a text, each listed once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) list: Vec<String>,
}

impl Names {
    fn intern(&mut self, node: Node) -> Result<u16> {
        let name = node.word()?;
        if let Some(known) = self.list.iter().position(|known| known == name) {
            return Ok(known as u16);
        }
        check(node, self.list.len() + 1, MAX_NAMES, "objects named in conditions and effects")?;
        self.list.push(name.to_owned());
        Ok(self.list.len() as u16 - 1)
    }
}

/// The names that are known while a condition is read.
pub(crate) struct Scope<'d, 's> {
    pub(crate) types: &'d Types,
    pub(crate) predicates: &'d Predicates,
    pub(crate) names: &'d mut Names,
    /// The type of each variable.
    pub(crate) vars: Vec<TypeId>,
    /// The variables in scope, the innermost last.
    visible: Vec<(&'s str, u16)>,
}

impl<'d, 's> Scope<'d, 's> {
    pub(crate) fn new(types: &'d Types, predicates: &'d Predicates, names: &'d mut Names) -> Self {
        Self { types, predicates, names, vars: Vec::new(), visible: Vec::new() }
    }

    /// Declares the variables of a typed list and returns the number of the first one.
    pub(crate) fn declare(&mut self, items: Items<'s>) -> Result<u16> {
        let first = self.vars.len();
        for (name, kind) in typed_list(items)? {
            if self.vars.len() == MAX_VARS {
                return Err(name.error(format!("more than {MAX_VARS} variables")));
            }
            let word = name.word()?;
            if !word.starts_with('?') {
                return Err(name.error("a variable begins with `?`"));
            }
            self.visible.push((word, self.vars.len() as u16));
            // Unlike the type of an object, the type of a variable may be undeclared. No object
            // has such a type.
            let kind = kind.map_or(Ok("object"), Node::word)?;
            self.vars.push(self.types.get(kind));
        }
        Ok(first as u16)
    }

    /// Returns the disjuncts of `node` (`holds` is `true`) or of its negation.
    pub(crate) fn cases(&mut self, node: Node<'s>, holds: bool) -> Result<Vec<Case>> {
        if node.items()?.next().is_none() {
            return Ok(if holds { vec![Case::default()] } else { Vec::new() });
        }
        let (head, mut items) = node.headed()?;
        match head {
            "and" if holds => self.all(node, items, holds),
            "or" if !holds => self.all(node, items, holds),
            "and" | "or" => self.any(node, items, holds),
            "not" => {
                let inner = only(node, &mut items)?;
                self.cases(inner, !holds)
            }
            "exists" if holds => self.exists(node, items),
            "forall" | "imply" | "when" | "exists" => {
                Err(node.error(format!("`{head}` is not supported here")))
            }
            "=" => self.equal(node, holds),
            _ => self.literal(node, holds),
        }
    }

    fn all(&mut self, node: Node<'s>, items: Items<'s>, holds: bool) -> Result<Vec<Case>> {
        let mut product = vec![Case::default()];
        for item in items {
            let cases = self.cases(item, holds)?;
            check(node, product.len() * cases.len(), MAX_CASES, "disjuncts")?;
            let pairs =
                product.iter().flat_map(|left| cases.iter().map(move |right| left.and(right)));
            product = pairs.collect();
            let atoms = product.iter().map(Case::size).max().unwrap_or(0);
            check(node, atoms, MAX_ATOMS, "atoms in one disjunct")?;
        }
        Ok(product)
    }

    fn any(&mut self, node: Node<'s>, items: Items<'s>, holds: bool) -> Result<Vec<Case>> {
        let mut union = Vec::new();
        for item in items {
            union.extend(self.cases(item, holds)?);
            check(node, union.len(), MAX_CASES, "disjuncts")?;
        }
        Ok(union)
    }

    fn exists(&mut self, node: Node<'s>, mut items: Items<'s>) -> Result<Vec<Case>> {
        let outer = self.visible.len();
        let vars = items.next().ok_or_else(|| node.error("no variables"))?;
        let first = self.declare(vars.items()?)?;
        let declared = first..self.vars.len() as u16;
        let inner = only(node, &mut items)?;
        let mut cases = self.cases(inner, true)?;
        self.visible.truncate(outer);
        for case in &mut cases {
            case.exists.extend(declared.clone());
        }
        Ok(cases)
    }

    fn equal(&mut self, node: Node<'s>, holds: bool) -> Result<Vec<Case>> {
        let (_, mut items) = node.headed()?;
        let (Some(left), Some(right), None) = (items.next(), items.next(), items.next()) else {
            return Err(node.error("`=` takes two terms"));
        };
        let equal = vec![(self.term(left)?, self.term(right)?, holds)];
        Ok(vec![Case { equal, ..Case::default() }])
    }

    fn literal(&mut self, node: Node<'s>, holds: bool) -> Result<Vec<Case>> {
        let mut case = Case::default();
        let atom = self.atom(node)?;
        if holds {
            case.positive.push(atom);
        } else {
            case.negative.push(atom);
        }
        Ok(vec![case])
    }

    /// Reads `(predicate term …)`.
    pub(crate) fn atom(&mut self, node: Node<'s>) -> Result<Atom> {
        let (head, items) = node.headed()?;
        let predicate = self.predicates.find(node, head)?;
        self.predicates.check_arity(node, predicate, items.clone().count())?;
        let terms = items.map(|item| self.term(item)).collect::<Result<_>>()?;
        Ok(Atom { predicate, terms })
    }

    fn term(&mut self, node: Node<'s>) -> Result<Term> {
        let word = node.word()?;
        if !word.starts_with('?') {
            return self.names.intern(node).map(Term::name);
        }
        let known = self.visible.iter().rev().find(|(name, _)| *name == word);
        let term = known.map(|&(_, var)| Term::var(var));
        term.ok_or_else(|| node.error("this variable is not declared"))
    }
}

impl Case {
    fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.positive.extend_from_slice(&other.positive);
        both.negative.extend_from_slice(&other.negative);
        both.equal.extend_from_slice(&other.equal);
        both.exists.extend_from_slice(&other.exists);
        both
    }

    fn size(&self) -> usize {
        self.positive.len() + self.negative.len() + self.equal.len()
    }

    /// Tests if the disjunct can never hold because a variable has an undeclared type.
    pub(crate) fn is_empty(&self, vars: &[TypeId]) -> bool {
        self.exists.iter().any(|&var| vars[usize::from(var)] == NO_TYPE)
    }
}

/// Returns the only remaining item.
fn only<'s>(node: Node<'s>, items: &mut Items<'s>) -> Result<Node<'s>> {
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(node.error("expected exactly one condition here")),
    }
}

fn check(node: Node, count: usize, limit: usize, what: &str) -> Result<()> {
    if count <= limit {
        Ok(())
    } else {
        Err(node.error(format!("more than {limit} {what}")))
    }
}
