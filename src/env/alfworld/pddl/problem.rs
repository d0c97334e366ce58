//! PDDL problems: objects, initial facts, goal.

use rustc_hash::FxHashMap;

use crate::env::alfworld::error::{AlfworldError, Part, Result, Source};
use crate::env::alfworld::pddl::atom::{ObjectId, PredicateId, MAX_OBJECTS};
use crate::env::alfworld::pddl::condition::{Case, Names, Scope};
use crate::env::alfworld::pddl::domain::{definition, typed_objects, Domain};
use crate::env::alfworld::pddl::join::Join;
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::predicates::MAX_ARITY;
use crate::env::alfworld::pddl::sexpr::{Items, Node, Sexpr};
use crate::env::alfworld::pddl::types::TypeId;

/// A parsed problem.
pub(crate) struct Problem {
    pub(crate) objects: Objects,
    pub(crate) start: Start,
    pub(crate) goal: Goal,
}

/// The initial facts: the predicate of each, and the arguments of all in one list.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) facts: Vec<PredicateId>,
    pub(crate) args: Vec<ObjectId>,
}

/// The objects of a problem by their names.
type ByName<'a> = FxHashMap<&'a str, ObjectId>;

/// The goal of a problem.
pub(crate) struct Goal {
    /// The disjuncts of each conjunct.
    pub(crate) parts: Vec<Vec<Join>>,
    /// The types of the variables.
    pub(crate) vars: Vec<TypeId>,
    /// The objects named in the goal.
    pub(crate) names: Names,
}

impl Problem {
    /// Parses the text of a problem.
    pub(crate) fn parse(file: &str, text: &str, domain: &Domain) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let source = Source { file, part: Part::Problem, text };
        let tree = Sexpr::parse(source, &lower)?;
        let mut objects = None;
        let mut init = None;
        let mut goal = None;
        for section in definition(tree.root(), "problem")? {
            let (head, items) = section.headed()?;
            match head {
                ":objects" => objects = Some(items),
                ":init" => init = Some(items),
                ":goal" => goal = Some((section, items)),
                ":domain" | ":requirements" | ":metric" => {}
                _ => return Err(section.error(format!("section `{head}` is not supported"))),
            }
        }
        let (Some(init), Some((section, mut goal))) = (init, goal) else {
            return Err(source.error(0, 0, "a problem needs :init and :goal"));
        };
        let Some(condition) = goal.next() else { return Err(section.error("an empty goal")) };
        let objects = read_objects(file, tree.root(), objects, domain)?;
        let goal = Goal::parse(condition, domain)?;
        let mut start = Start::default();
        let by_name: ByName = objects.ids.iter().map(AsRef::as_ref).zip(0..).collect();
        for fact in init {
            start.read(fact, domain, &by_name)?;
        }
        Ok(Self { objects, start, goal })
    }
}

impl Start {
    /// Reads `(predicate object …)`.
    fn read(&mut self, fact: Node, domain: &Domain, by_name: &ByName) -> Result<()> {
        let (head, items) = fact.headed()?;
        if matches!(head, "=" | "not") {
            return Ok(()); // A cost, or a fact that is false anyway because it is not listed.
        }
        let predicate = domain.predicates.find(fact, head)?;
        let mut arity = 0;
        for item in items {
            let object = by_name.get(item.word()?);
            let object = object.ok_or_else(|| item.error("this object is not declared"))?;
            arity += 1;
            if arity <= MAX_ARITY {
                self.args.push(*object);
            }
        }
        domain.predicates.check_arity(fact, predicate, arity)?;
        self.facts.push(predicate);
        Ok(())
    }
}

/// Reads the objects of the problem and the constants of the domain, sorted by name.
fn read_objects(file: &str, root: Node, items: Option<Items>, domain: &Domain) -> Result<Objects> {
    let constants = domain.constants.iter().map(|(name, kind)| (name.as_str(), *kind));
    let mut list: Vec<(&str, TypeId)> = constants.collect();
    if let Some(items) = items {
        list.extend(typed_objects(items, &domain.types)?);
    }
    if list.len() > MAX_OBJECTS {
        return Err(AlfworldError::TooMany {
            file: file.to_owned(),
            what: "objects",
            limit: MAX_OBJECTS,
        });
    }
    list.sort_unstable_by_key(|(name, _)| *name);
    if let Some(pair) = list.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(root.error(format!("the object `{}` is declared twice", pair[0].0)));
    }
    let ids = list.iter().map(|(name, _)| (*name).into()).collect();
    let types = list.iter().map(|(_, kind)| *kind).collect();
    Ok(Objects { ids, types, names: Vec::new() })
}

impl Goal {
    fn parse(condition: Node, domain: &Domain) -> Result<Self> {
        let mut names = Names::default();
        let mut scope = Scope::new(&domain.types, &domain.predicates, &mut names);
        let mut conjuncts = Vec::new();
        split(condition, &mut conjuncts)?;
        let parts = conjuncts
            .into_iter()
            .map(|part| scope.cases(part, true))
            .collect::<Result<Vec<_>>>()?;
        let vars = scope.vars;
        let plan = |case| Join::plan(case, 0, &vars, &domain.predicates);
        let possible = |cases: Vec<Case>| cases.into_iter().filter(|case| !case.is_empty(&vars));
        let parts = parts.into_iter().map(|cases| possible(cases).map(plan).collect()).collect();
        Ok(Self { parts, vars, names })
    }
}

/// Flattens nested conjunctions.
fn split<'s>(node: Node<'s>, parts: &mut Vec<Node<'s>>) -> Result<()> {
    let mut items = node.items()?;
    if items.next().and_then(Node::as_word) == Some("and") {
        return items.try_for_each(|item| split(item, parts));
    }
    parts.push(node);
    Ok(())
}
