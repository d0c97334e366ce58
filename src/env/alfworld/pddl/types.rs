//! PDDL types and typed lists.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use crate::env::alfworld::error::Result;
use crate::env::alfworld::pddl::sexpr::{Items, Node};

/// A type of a domain, by its position.
pub(crate) type TypeId = u16;
/// The id of an undeclared type; no object has it.
pub(crate) const NO_TYPE: TypeId = TypeId::MAX;
/// The root of the type hierarchy.
const OBJECT: &str = "object";
/// The largest number of types of a domain.
const MAX_TYPES: usize = 256;

/// The type hierarchy of a domain.
pub(crate) struct Types {
    names: Vec<String>,
    /// The proper supertypes of each type, nearest first.
    above: Vec<Vec<TypeId>>,
    /// The proper subtypes of each type, sorted by name.
    below: Vec<Vec<TypeId>>,
}

impl Types {
    /// The hierarchy that has only `object`.
    pub(crate) fn new() -> Self {
        Self { names: vec![OBJECT.to_owned()], above: vec![Vec::new()], below: vec![Vec::new()] }
    }

    /// Reads the items of `(:types …)`.
    pub(crate) fn parse(items: Items) -> Result<Self> {
        let mut types = Self::new();
        let declared = typed_list(items)?;
        for (name, _) in &declared {
            if types.names.len() == MAX_TYPES {
                return Err(name.error(format!("more than {MAX_TYPES} types")));
            }
            if types.get(name.word()?) == NO_TYPE {
                types.names.push(name.word()?.to_owned());
            }
        }
        let mut parents = vec![Vec::new(); types.names.len()];
        for (name, parent) in &declared {
            let id = types.get(name.word()?);
            let parent = match parent {
                Some(parent) => types.declared(*parent)?,
                None => 0,
            };
            parents[usize::from(id)].push(parent);
        }
        types.above = (0..types.names.len()).map(|id| closure(id as TypeId, &parents)).collect();
        types.below = (0..types.names.len()).map(|id| types.find_below(id as TypeId)).collect();
        Ok(types)
    }

    fn find_below(&self, above: TypeId) -> Vec<TypeId> {
        let mut below: Vec<TypeId> = (0..self.names.len() as TypeId)
            .filter(|&id| id != above && self.is(id, above))
            .collect();
        below.sort_by_key(|&id| &self.names[usize::from(id)]);
        below
    }

    /// Returns the type called `name`, or [`NO_TYPE`].
    pub(crate) fn get(&self, name: &str) -> TypeId {
        self.names.iter().position(|known| known == name).map_or(NO_TYPE, |id| id as TypeId)
    }

    /// Returns the type that `node` names, or an error if it is not declared.
    pub(crate) fn declared(&self, node: Node) -> Result<TypeId> {
        match self.get(node.word()?) {
            NO_TYPE => Err(node.error("this type is not declared")),
            id => Ok(id),
        }
    }

    /// The number of types.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The name of a type.
    pub(crate) fn name(&self, id: TypeId) -> &str {
        self.names.get(usize::from(id)).map_or("", String::as_str)
    }

    /// Tests if `id` equals `above` or is a subtype of it.
    pub(crate) fn is(&self, id: TypeId, above: TypeId) -> bool {
        id == above || self.above.get(usize::from(id)).is_some_and(|types| types.contains(&above))
    }

    /// The number of ways to replace each of `types` by itself or one of its subtypes.
    pub(crate) fn signature_count(&self, types: &[TypeId]) -> usize {
        let ways =
            |&id: &TypeId| self.below.get(usize::from(id)).map_or(1, |below| below.len() + 1);
        types.iter().map(ways).fold(1, usize::saturating_mul)
    }

    /// Returns `types` and every way to replace some of them by subtypes, in TextWorld's order.
    ///
    /// The order is breadth-first; signatures found in the first round may come again later.
    pub(crate) fn signatures(&self, types: &[TypeId]) -> Vec<Vec<TypeId>> {
        let mut found = vec![types.to_vec()];
        let mut queue: VecDeque<Vec<TypeId>> = self.replacements(types).into();
        let mut seen = FxHashSet::default();
        while let Some(signature) = queue.pop_front() {
            let next = self.replacements(&signature);
            found.push(signature);
            queue.extend(next.into_iter().filter(|types| seen.insert(types.clone())));
        }
        found
    }

    fn replacements(&self, types: &[TypeId]) -> Vec<Vec<TypeId>> {
        let mut found = Vec::new();
        for (i, &id) in types.iter().enumerate() {
            for &below in self.below.get(usize::from(id)).into_iter().flatten() {
                let mut replaced = types.to_vec();
                replaced[i] = below;
                found.push(replaced);
            }
        }
        found
    }
}

/// Collects the types reachable from `id` over `parents`, without `id`.
fn closure(id: TypeId, parents: &[Vec<TypeId>]) -> Vec<TypeId> {
    let mut found = Vec::new();
    let mut open = vec![id];
    while let Some(current) = open.pop() {
        for &parent in &parents[usize::from(current)] {
            if parent != id && !found.contains(&parent) {
                found.push(parent);
                open.push(parent);
            }
        }
    }
    found
}

/// Reads a typed list such as `a b - t c`: each name with its type, if it has one.
pub(crate) fn typed_list<'s>(items: Items<'s>) -> Result<Vec<(Node<'s>, Option<Node<'s>>)>> {
    let mut list: Vec<(Node, Option<Node>)> = Vec::new();
    let mut untyped = 0;
    let mut items = items;
    while let Some(item) = items.next() {
        if item.word()? != "-" {
            list.push((item, None));
            continue;
        }
        let kind = items.next().ok_or_else(|| item.error("no type follows"))?;
        kind.word()?;
        for entry in &mut list[untyped..] {
            entry.1 = Some(kind);
        }
        untyped = list.len();
    }
    Ok(list)
}
