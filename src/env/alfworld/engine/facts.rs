//! The facts of a game: ground atoms, numbered in the order in which grounding finds them.

use rustc_hash::FxHashMap;

use crate::env::alfworld::engine::key::Key;
use crate::env::alfworld::pddl::atom::{Atom, ObjectId, PredicateId, UNKNOWN};
use crate::env::alfworld::pddl::predicates::Predicates;

/// The largest number of facts of a game.
pub(crate) const MAX_FACTS: usize = 1 << 20;
/// The largest number of lists of facts.
pub(crate) const MAX_LISTS: usize = 1 << 24;

/// The facts of a game.
///
/// While a game is loaded, facts are also indexed: by key, and in linked lists by predicate and by
/// the object of each argument. [`Facts::freeze`] drops the index.
pub(crate) struct Facts {
    predicates: Vec<PredicateId>,
    /// The number of arguments of each predicate.
    arities: Vec<u8>,
    /// The largest of `arities`.
    stride: usize,
    /// `stride` objects per fact: its arguments, padded with [`UNKNOWN`].
    args: Vec<ObjectId>,
    /// The number of objects.
    objects: usize,
    ids: FxHashMap<Key, u32>,
    /// The first list of each predicate in `heads`.
    bases: Vec<u32>,
    /// The latest fact of each list plus 1; 0 for an empty list.
    heads: Vec<u32>,
    /// `stride + 1` links per fact: in the list of its predicate and in those of its arguments,
    /// the preceding fact plus 1; 0 at the end of a list.
    links: Vec<u32>,
}

/// A list of facts: all facts of a predicate, or those with one object as one argument.
#[derive(Clone, Copy)]
pub(crate) struct List {
    head: usize,
    link: usize,
}

impl Facts {
    /// Creates an empty index with room for `count` facts.
    ///
    /// Returns `None` if the predicates and objects need more than [`MAX_LISTS`] lists.
    pub(crate) fn new(predicates: &Predicates, objects: usize, count: usize) -> Option<Self> {
        let arities: Vec<u8> =
            predicates.list.iter().map(|predicate| predicate.arity as u8).collect();
        let stride = usize::from(arities.iter().copied().max().unwrap_or(0));
        let mut bases = Vec::with_capacity(arities.len());
        let mut lists = 0;
        for &arity in &arities {
            bases.push(lists as u32);
            lists += 1 + usize::from(arity) * objects;
        }
        (lists <= MAX_LISTS).then(|| Self {
            predicates: Vec::with_capacity(count),
            arities,
            stride,
            args: Vec::with_capacity(count * stride),
            objects,
            ids: FxHashMap::with_capacity_and_hasher(count, Default::default()),
            bases,
            heads: vec![0; lists],
            links: Vec::with_capacity(count * (stride + 1)),
        })
    }

    /// The number of facts.
    pub(crate) fn len(&self) -> usize {
        self.predicates.len()
    }

    /// Returns the number of a fact, adding it if it is new.
    ///
    /// Returns `None` for a new fact about an object that the game does not have.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        predicate: PredicateId,
        args: impl Iterator<Item = ObjectId> + Clone,
    ) -> Option<u32> {
        let key = Key::new(predicate, args.clone());
        match self.ids.get(&key) {
            Some(&known) => Some(known),
            None if args.clone().any(|arg| arg == UNKNOWN) => None,
            None => Some(self.push(key, predicate, args)),
        }
    }

    fn push(
        &mut self,
        key: Key,
        predicate: PredicateId,
        args: impl Iterator<Item = ObjectId>,
    ) -> u32 {
        let id = self.len() as u32;
        self.ids.insert(key, id);
        self.predicates.push(predicate);
        let mut list = self.bases[usize::from(predicate)] as usize;
        self.links.push(std::mem::replace(&mut self.heads[list], id + 1));
        list += 1;
        let mut arity = 0;
        for arg in args {
            arity += 1;
            self.args.push(arg);
            self.links.push(std::mem::replace(&mut self.heads[list + usize::from(arg)], id + 1));
            list += self.objects;
        }
        for _ in arity..self.stride {
            self.args.push(UNKNOWN);
            self.links.push(0);
        }
        id
    }

    /// Returns the number of the fact that `atom` is with these objects for its terms.
    #[inline]
    pub(crate) fn get(&self, atom: &Atom, values: &[ObjectId]) -> Option<u32> {
        let key = Key::new(atom.predicate, atom.terms.iter().map(|term| term.of(values)));
        self.ids.get(&key).copied()
    }

    /// The predicate of a fact.
    pub(crate) fn predicate(&self, id: u32) -> PredicateId {
        self.predicates[id as usize]
    }

    /// The arguments of a fact.
    pub(crate) fn args(&self, id: u32) -> &[ObjectId] {
        let arity = usize::from(self.arities[usize::from(self.predicate(id))]);
        &self.args[id as usize * self.stride..][..arity]
    }

    /// An argument of a fact.
    #[inline]
    pub(crate) fn arg(&self, id: u32, i: u16) -> ObjectId {
        self.args[id as usize * self.stride + usize::from(i)]
    }

    /// Returns the list of a predicate, or of its facts with the `known` object as an argument.
    ///
    /// Returns `None` for an object that the game does not have.
    #[inline]
    pub(crate) fn list(
        &self,
        predicate: PredicateId,
        known: Option<(u16, ObjectId)>,
    ) -> Option<List> {
        let base = self.bases[usize::from(predicate)] as usize;
        match known {
            Some((_, UNKNOWN)) => None,
            Some((i, object)) => {
                let argument = usize::from(i);
                let head = base + 1 + argument * self.objects + usize::from(object);
                Some(List { head, link: argument + 1 })
            }
            None => Some(List { head: base, link: 0 }),
        }
    }

    /// The latest fact of a list.
    #[inline]
    pub(crate) fn last(&self, list: List) -> Option<u32> {
        self.heads[list.head].checked_sub(1)
    }

    /// The fact that precedes `id` in a list.
    #[inline]
    pub(crate) fn before(&self, list: List, id: u32) -> Option<u32> {
        self.links[id as usize * (self.stride + 1) + list.link].checked_sub(1)
    }

    /// Iterates over the facts of a predicate, latest first.
    pub(crate) fn of(&self, predicate: PredicateId) -> impl Iterator<Item = u32> + '_ {
        let list = List { head: self.bases[usize::from(predicate)] as usize, link: 0 };
        std::iter::successors(self.last(list), move |&id| self.before(list, id))
    }

    /// Drops the index, which only loading needs.
    pub(crate) fn freeze(&mut self) {
        self.predicates.shrink_to_fit();
        self.args.shrink_to_fit();
        self.ids = FxHashMap::default();
        self.heads = Vec::new();
        self.links = Vec::new();
        self.bases = Vec::new();
    }
}
