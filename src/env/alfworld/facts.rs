//! Ground atoms, numbered in the order in which they become possible.

use rustc_hash::FxHashMap;

use super::domain::{PredicateId, Predicates, MAX_ARITY};

/// An object by its number: the rank of its name.
pub(super) type ObjectId = u16;
/// An object that the game does not have: no fact is about it.
pub(super) const UNKNOWN: ObjectId = ObjectId::MAX;
/// How many objects a game may have.
pub(super) const MAX_OBJECTS: usize = 20_000;
/// How many ground atoms a game may have.
pub(super) const MAX_FACTS: usize = 1 << 20;
/// How many lists of facts a game may need.
pub(super) const MAX_LISTS: usize = 1 << 24;

/// The ground atoms of a game, with lists by predicate, argument and object while it is being loaded.
pub(super) struct Facts {
    predicates: Vec<PredicateId>,
    starts: Vec<u32>,
    args: Vec<ObjectId>,
    ids: FxHashMap<Key, u32>,
    objects: usize,
    /// Where each predicate's lists begin in `heads`.
    bases: Vec<u32>,
    /// The last fact of each list plus 1, or 0.
    heads: Vec<u32>,
    /// For each fact and list that it is in: the fact before it plus 1, or 0.
    links: Vec<u32>,
}

/// A list of facts: all of a predicate, or those with one object in one argument.
#[derive(Clone, Copy)]
pub(super) struct List {
    head: usize,
    link: usize,
}

impl Facts {
    /// No facts yet; `None` when so many predicates and objects are more than is accepted.
    pub(super) fn new(predicates: &Predicates, objects: usize) -> Option<Self> {
        let mut bases = Vec::with_capacity(predicates.list.len());
        let mut lists = 0;
        for predicate in &predicates.list {
            bases.push(lists as u32);
            lists += 1 + predicate.arity * objects;
        }
        (lists <= MAX_LISTS).then(|| Self {
            predicates: Vec::new(),
            starts: vec![0],
            args: Vec::new(),
            ids: FxHashMap::default(),
            objects,
            bases,
            heads: vec![0; lists],
            links: Vec::new(),
        })
    }

    /// Makes room for `count` facts.
    pub(super) fn reserve(&mut self, count: usize) {
        self.ids.reserve(count);
        self.args.reserve(2 * count);
        self.links.reserve(3 * count);
    }

    /// How many facts there are.
    pub(super) fn len(&self) -> usize {
        self.predicates.len()
    }

    /// The number of a fact, new or known.
    pub(super) fn insert(&mut self, predicate: PredicateId, args: &[ObjectId]) -> u32 {
        let id = self.len() as u32;
        match self.ids.entry(key(predicate, args)) {
            std::collections::hash_map::Entry::Occupied(known) => return *known.get(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(id),
        };
        self.predicates.push(predicate);
        self.args.extend_from_slice(args);
        self.starts.push(self.args.len() as u32);
        let base = self.bases[usize::from(predicate)] as usize;
        let arguments = args.iter().enumerate().map(|(i, &arg)| 1 + i * self.objects + usize::from(arg));
        for list in std::iter::once(0).chain(arguments) {
            self.links.push(std::mem::replace(&mut self.heads[base + list], id + 1));
        }
        id
    }

    /// The number of a known fact.
    pub(super) fn get(&self, predicate: PredicateId, args: &[ObjectId]) -> Option<u32> {
        self.ids.get(&key(predicate, args)).copied()
    }

    /// The predicate of a fact.
    pub(super) fn predicate(&self, id: u32) -> PredicateId {
        self.predicates[id as usize]
    }

    /// The arguments of a fact.
    pub(super) fn args(&self, id: u32) -> &[ObjectId] {
        let id = id as usize;
        &self.args[self.starts[id] as usize..self.starts[id + 1] as usize]
    }

    /// The facts of a predicate with the `known` object in that argument; `None` if there cannot be any.
    pub(super) fn list(&self, predicate: PredicateId, known: Option<(usize, ObjectId)>) -> Option<List> {
        let (list, link) = match known {
            Some((_, UNKNOWN)) => return None,
            Some((i, object)) => (1 + i * self.objects + usize::from(object), i + 1),
            None => (0, 0),
        };
        Some(List { head: self.bases[usize::from(predicate)] as usize + list, link })
    }

    /// The latest fact of a list.
    pub(super) fn last(&self, list: List) -> Option<u32> {
        self.heads[list.head].checked_sub(1)
    }

    /// The fact before `id` in a list.
    pub(super) fn before(&self, list: List, id: u32) -> Option<u32> {
        let links = self.starts[id as usize] as usize + id as usize;
        self.links[links + list.link].checked_sub(1)
    }

    /// Every fact of one predicate.
    pub(super) fn of(&self, predicate: PredicateId) -> impl Iterator<Item = u32> + '_ {
        let list = List { head: self.bases[usize::from(predicate)] as usize, link: 0 };
        std::iter::successors(self.last(list), move |&id| self.before(list, id))
    }

    /// How many bytes the facts take, once frozen.
    pub(super) fn bytes(&self) -> usize {
        2 * self.predicates.len() + 4 * self.starts.len() + 2 * self.args.len()
    }

    /// Forgets what is only needed while a game is being loaded.
    pub(super) fn freeze(&mut self) {
        self.ids = FxHashMap::default();
        self.heads = Vec::new();
        self.links = Vec::new();
        self.bases = Vec::new();
    }
}

/// A fact as one number: 16 bits for the predicate and for each argument.
#[derive(PartialEq, Eq)]
pub(super) struct Key(u128);

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0 as u64);
        hasher.write_u64((self.0 >> 64) as u64);
    }
}

impl Key {
    /// A number and at most [`MAX_ARITY`] objects. The first is not 0, so that no two lists of different lengths
    /// are the same.
    pub(super) fn new(first: u16, objects: impl Iterator<Item = ObjectId>) -> Self {
        Self(objects.fold(u128::from(first) + 1, |key, object| key << 16 | u128::from(object)))
    }
}

fn key(predicate: PredicateId, args: &[ObjectId]) -> Key {
    debug_assert!(args.len() <= MAX_ARITY);
    Key::new(predicate, args.iter().copied())
}
