//! The predicates that a domain declares.

use crate::env::alfworld::error::Result;
use crate::env::alfworld::pddl::atom::PredicateId;
use crate::env::alfworld::pddl::sexpr::{Items, Node};
use crate::env::alfworld::pddl::types::typed_list;

/// The largest number of arguments of a predicate.
pub(crate) const MAX_ARITY: usize = 7;
const MAX_PREDICATES: usize = 1024;

/// The predicates of a domain.
#[derive(Default)]
pub(crate) struct Predicates {
    pub(crate) list: Vec<Predicate>,
}

/// A predicate: its name, how many arguments it has, and whether an action can change it.
pub(crate) struct Predicate {
    pub(crate) name: String,
    pub(crate) arity: usize,
    pub(crate) fluent: bool,
}

impl Predicates {
    /// The predicate called `name`, if there is one.
    pub(crate) fn get(&self, name: &str) -> Option<PredicateId> {
        self.list.iter().position(|known| known.name == name).map(|id| id as PredicateId)
    }

    /// The predicate called `name`, which stands in `node`.
    pub(crate) fn find(&self, node: Node, name: &str) -> Result<PredicateId> {
        self.get(name).ok_or_else(|| node.error(format!("the predicate `{name}` is not declared")))
    }

    /// Refuses an atom with a wrong number of arguments.
    pub(crate) fn check_arity(&self, node: Node, id: PredicateId, got: usize) -> Result<()> {
        let Predicate { name, arity, .. } = &self.list[usize::from(id)];
        if got == *arity {
            Ok(())
        } else {
            Err(node.error(format!("`{name}` has {got} arguments, it is declared with {arity}")))
        }
    }

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
}
