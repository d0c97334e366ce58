//! The facts of a game, indexed for the queries of its grammar.
//!
//! The order of the facts is the order of TextWorld's answers, and with it the order of lists in
//! observations.

use crate::env::alfworld::engine::bits::Rows;
use crate::env::alfworld::engine::facts::Facts;
use crate::env::alfworld::pddl::atom::ObjectId;
use crate::env::alfworld::pddl::types::TypeId;

/// The relations of each predicate that queries use.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    predicates: Vec<Vec<Relation>>,
}

/// The facts of one predicate with the same types of arguments.
#[derive(Debug)]
pub(crate) struct Relation {
    pub(crate) types: Vec<TypeId>,
    /// The facts, sorted by the names of their arguments.
    all: Vec<u32>,
    /// For each argument, the facts by the object there, in the order of `all`.
    by_argument: Vec<Rows<u32>>,
}

impl Relations {
    /// Indexes the facts of the `queried` predicates.
    pub(crate) fn new(queried: &[bool], facts: &Facts, object_types: &[TypeId]) -> Self {
        let relations = |(predicate, &queried): (usize, &bool)| {
            let mut relations: Vec<Relation> = Vec::new();
            let known = queried.then(|| facts.of(predicate as u16));
            for fact in known.into_iter().flatten() {
                let types = || facts.args(fact).iter().map(|&arg| object_types[usize::from(arg)]);
                let has_types = |known: &&mut Relation| known.types.iter().copied().eq(types());
                match relations.iter_mut().find(has_types) {
                    Some(relation) => relation.all.push(fact),
                    None => relations.push(Relation {
                        types: types().collect(),
                        all: vec![fact],
                        by_argument: Vec::new(),
                    }),
                }
            }
            for relation in &mut relations {
                relation.sort(facts, object_types.len());
            }
            relations
        };
        Self { predicates: queried.iter().enumerate().map(relations).collect() }
    }

    /// The relations of a predicate.
    pub(crate) fn of(&self, predicate: u16) -> &[Relation] {
        self.predicates.get(usize::from(predicate)).map_or(&[], Vec::as_slice)
    }
}

impl Relation {
    /// Sorts the facts, then indexes them by each argument.
    fn sort(&mut self, facts: &Facts, objects: usize) {
        self.all.sort_unstable_by(|&one, &other| facts.args(one).cmp(facts.args(other)));
        let by = |i: usize| {
            let object = |&fact: &u32| (u32::from(facts.arg(fact, i as u16)), fact);
            Rows::group(objects, self.all.iter().map(object))
        };
        self.by_argument = (0..self.types.len()).map(by).collect();
    }

    /// Returns the facts with `object` as argument `i`.
    pub(crate) fn with(&self, i: usize, object: ObjectId) -> &[u32] {
        let rows = &self.by_argument[i];
        if usize::from(object) < rows.len() {
            rows.row(usize::from(object))
        } else {
            &[]
        }
    }

    /// Returns all facts.
    pub(crate) fn all(&self) -> &[u32] {
        &self.all
    }
}
