//! The facts of a game as grammar queries look for them: by predicate and types, in the order of their arguments.

use crate::env::alfworld::engine::bits::Rows;
use crate::env::alfworld::engine::facts::Facts;
use crate::env::alfworld::pddl::atom::ObjectId;
use crate::env::alfworld::pddl::types::TypeId;

/// For each predicate that queries ask about, its facts.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    predicates: Vec<Vec<Relation>>,
}

/// The facts of one predicate whose arguments have the same types.
#[derive(Debug)]
pub(crate) struct Relation {
    pub(crate) types: Vec<TypeId>,
    /// The facts, sorted by the names of their arguments.
    all: Vec<u32>,
    /// For each argument: the facts by the object that stands there, sorted alike.
    by_argument: Vec<Rows<u32>>,
}

impl Relations {
    /// Lists the facts of the `queried` predicates.
    pub(crate) fn new(queried: &[bool], facts: &Facts, object_types: &[TypeId]) -> Self {
        let relations = |(predicate, &queried): (usize, &bool)| {
            let mut relations: Vec<Relation> = Vec::new();
            let known = queried.then(|| facts.of(predicate as u16));
            for fact in known.into_iter().flatten() {
                let types = || facts.args(fact).iter().map(|&arg| object_types[usize::from(arg)]);
                match relations
                    .iter_mut()
                    .find(|relation| relation.types.iter().copied().eq(types()))
                {
                    Some(relation) => relation.all.push(fact),
                    None => {
                        let (types, by_argument) = (types().collect(), Vec::new());
                        relations.push(Relation { types, all: vec![fact], by_argument });
                    }
                }
            }
            relations.iter_mut().for_each(|relation| relation.sort(facts, object_types.len()));
            relations
        };
        Self { predicates: queried.iter().enumerate().map(relations).collect() }
    }

    /// The facts of a predicate, by the types of their arguments.
    pub(crate) fn of(&self, predicate: u16) -> &[Relation] {
        self.predicates.get(usize::from(predicate)).map_or(&[], Vec::as_slice)
    }
}

impl Relation {
    /// Sorts from the last argument to the first, each time keeping the order there was.
    fn sort(&mut self, facts: &Facts, objects: usize) {
        let by = |list: &[u32], i: usize| {
            Rows::group(
                objects,
                list.iter().map(|&fact| (u32::from(facts.arg(fact, i as u16)), fact)),
            )
        };
        let mut by_first = None;
        for i in (0..self.types.len()).rev() {
            let rows = by(&self.all, i);
            self.all = rows.items().to_vec();
            by_first = Some(rows);
        }
        self.by_argument.extend(by_first);
        self.by_argument.extend((1..self.types.len()).map(|i| by(&self.all, i)));
    }

    /// The facts with `object` as argument `i`.
    pub(crate) fn with(&self, i: usize, object: ObjectId) -> &[u32] {
        let rows = &self.by_argument[i];
        if usize::from(object) < rows.len() {
            rows.row(usize::from(object))
        } else {
            &[]
        }
    }

    /// Every fact.
    pub(crate) fn all(&self) -> &[u32] {
        &self.all
    }
}
