//! Ground atoms, numbered in the order in which they become possible.

use rustc_hash::FxHashMap;

use crate::env::alfworld::engine::key::Key;
use crate::env::alfworld::pddl::atom::{Atom, ObjectId, PredicateId, UNKNOWN};
use crate::env::alfworld::pddl::predicates::Predicates;

/// How many ground atoms a game may have.
pub(crate) const MAX_FACTS: usize = 1 << 20;
/// How many lists of facts a game may need.
pub(crate) const MAX_LISTS: usize = 1 << 24;

/// The ground atoms of a game, with lists by predicate, argument and object while it is being loaded.
pub(crate) struct Facts {
    predicates: Vec<PredicateId>,
    /// How many arguments each predicate has, and the most that one has.
    arities: Vec<u8>,
    stride: usize,
    /// `stride` objects for each fact: its arguments, then [`UNKNOWN`].
    args: Vec<ObjectId>,
    objects: usize,
    ids: FxHashMap<Key, u32>,
    /// Where each predicate's lists begin in `heads`.
    bases: Vec<u32>,
    /// The last fact of each list plus 1, or 0.
    heads: Vec<u32>,
    /// `stride` + 1 for each fact: the fact before it plus 1, or 0, in its predicate's list and in its arguments'.
    links: Vec<u32>,
}

/// A list of facts: all of a predicate, or those with one object in one argument.
#[derive(Clone, Copy)]
pub(crate) struct List {
    head: usize,
    link: usize,
}

impl Facts {
    /// No facts yet, with room for `count`; `None` when so many predicates and objects are more than is accepted.
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

    /// How many facts there are.
    pub(crate) fn len(&self) -> usize {
        self.predicates.len()
    }

    /// The number of a fact, new or known; `None` if it is new and about an object that there is not.
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

    /// The number of a known fact: `atom` with the objects that its terms stand for.
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

    /// The facts of a predicate with the `known` object in that argument; `None` if there cannot be any.
    #[inline]
    pub(crate) fn list(
        &self,
        predicate: PredicateId,
        known: Option<(u16, ObjectId)>,
    ) -> Option<List> {
        let (list, link) = match known {
            Some((_, UNKNOWN)) => return None,
            Some((i, object)) => {
                (1 + usize::from(i) * self.objects + usize::from(object), usize::from(i) + 1)
            }
            None => (0, 0),
        };
        Some(List { head: self.bases[usize::from(predicate)] as usize + list, link })
    }

    /// The latest fact of a list.
    #[inline]
    pub(crate) fn last(&self, list: List) -> Option<u32> {
        self.heads[list.head].checked_sub(1)
    }

    /// The fact before `id` in a list.
    #[inline]
    pub(crate) fn before(&self, list: List, id: u32) -> Option<u32> {
        self.links[id as usize * (self.stride + 1) + list.link].checked_sub(1)
    }

    /// Every fact of one predicate.
    pub(crate) fn of(&self, predicate: PredicateId) -> impl Iterator<Item = u32> + '_ {
        let list = List { head: self.bases[usize::from(predicate)] as usize, link: 0 };
        std::iter::successors(self.last(list), move |&id| self.before(list, id))
    }

    /// Forgets what is only needed while a game is being loaded.
    pub(crate) fn freeze(&mut self) {
        self.predicates.shrink_to_fit();
        self.args.shrink_to_fit();
        self.ids = FxHashMap::default();
        self.heads = Vec::new();
        self.links = Vec::new();
        self.bases = Vec::new();
    }
}
