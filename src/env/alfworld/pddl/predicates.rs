//! The predicates that a domain declares.

use crate::env::alfworld::error::Result;
use crate::env::alfworld::pddl::atom::PredicateId;
use crate::env::alfworld::pddl::sexpr::{Items, Node};
use crate::env::alfworld::pddl::types::typed_list;

/// The largest number of arguments of a predicate.
pub(crate) const MAX_ARITY: usize = 7;
/// The largest number of predicates of a domain.
const MAX_PREDICATES: usize = 1024;

/// The predicates of a domain.
#[derive(Default)]
pub(crate) struct Predicates {
    pub(crate) list: Vec<Predicate>,
}

/// A declared predicate.
pub(crate) struct Predicate {
    pub(crate) name: String,
    /// The number of arguments.
    pub(crate) arity: usize,
    /// `true` if some action changes it; a predicate that none changes is static.
    pub(crate) fluent: bool,
}

impl Predicates {
    /// Reads the items of `(:predicates …)`.
    pub(crate) fn parse(items: Items) -> Result<Self> {
        let mut predicates = Self::default();
        for item in items {
            let (name, params) = item.headed()?;
            let arity = typed_list(params)?.len();
            if arity > MAX_ARITY || predicates.list.len() == MAX_PREDICATES {
                let limits =
                    format!("at most {MAX_PREDICATES} predicates of {MAX_ARITY} arguments");
                return Err(item.error(limits));
            }
            if predicates.get(name).is_some() || name.starts_with("not_") || name == "=" {
                return Err(item.error(format!("`{name}` is declared twice, or reserved")));
            }
            predicates.list.push(Predicate { name: name.to_owned(), arity, fluent: false });
        }
        Ok(predicates)
    }

    /// Returns the predicate called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<PredicateId> {
        self.list.iter().position(|known| known.name == name).map(|id| id as PredicateId)
    }

    /// Returns the predicate called `name`, or an error at `node`.
    pub(crate) fn find(&self, node: Node, name: &str) -> Result<PredicateId> {
        self.get(name).ok_or_else(|| node.error(format!("the predicate `{name}` is not declared")))
    }

    /// Tests if some action changes a predicate.
    pub(crate) fn is_fluent(&self, id: PredicateId) -> bool {
        self.list[usize::from(id)].fluent
    }

    /// Rejects an atom with a wrong number of arguments.
    pub(crate) fn check_arity(&self, node: Node, id: PredicateId, got: usize) -> Result<()> {
        let Predicate { name, arity, .. } = &self.list[usize::from(id)];
        if got == *arity {
            Ok(())
        } else {
            Err(node.error(format!("`{name}` has {got} arguments, it is declared with {arity}")))
        }
    }
}
