//! PDDL domains: types, predicates and actions, with the join plans that ground the actions.

use crate::env::alfworld::error::{Part, Result, Source};
use crate::env::alfworld::pddl::condition::{Case, Names, Scope};
use crate::env::alfworld::pddl::effect::{read_effects, Effect};
use crate::env::alfworld::pddl::join::Join;
use crate::env::alfworld::pddl::predicates::Predicates;
use crate::env::alfworld::pddl::sexpr::{Items, Node, Sexpr};
use crate::env::alfworld::pddl::types::{typed_list, TypeId, Types};

/// The largest number of actions of a domain.
const MAX_ACTIONS: usize = 1024;
/// The accepted requirements. Parts of `:adl` that are not supported are errors where they occur.
const REQUIREMENTS: [&str; 9] = [
    ":strips",
    ":typing",
    ":adl",
    ":action-costs",
    ":equality",
    ":negative-preconditions",
    ":disjunctive-preconditions",
    ":existential-preconditions",
    ":conditional-effects",
];

/// A parsed domain.
pub(crate) struct Domain {
    pub(crate) types: Types,
    pub(crate) predicates: Predicates,
    /// Name and type of the objects that every problem has.
    pub(crate) constants: Vec<(String, TypeId)>,
    /// The objects named in actions.
    pub(crate) names: Names,
    pub(crate) actions: Vec<Action>,
    /// For each predicate, the plans that a new fact of it triggers.
    pub(crate) triggers: Vec<Vec<Trigger>>,
}

/// The position of a plan: the action, the disjunct of its precondition, the plan's index there.
#[derive(Clone, Copy)]
pub(crate) struct Trigger {
    pub(crate) action: u16,
    pub(crate) join: u16,
    pub(crate) plan: u16,
}

/// An action schema: its parameters are not bound to objects.
pub(crate) struct Action {
    pub(crate) name: String,
    /// The names of the parameters, without `?`; parameters are the first variables.
    pub(crate) params: Vec<String>,
    /// The types of the variables.
    pub(crate) vars: Vec<TypeId>,
    /// The disjuncts of the precondition.
    pub(crate) joins: Vec<Join>,
    /// The effects, add effects first.
    pub(crate) effects: Vec<Effect>,
    /// The number of add effects.
    pub(crate) adds: usize,
}

/// The sections of `(define (domain …) …)`.
#[derive(Default)]
struct Sections<'s> {
    types: Option<Items<'s>>,
    predicates: Option<Items<'s>>,
    constants: Option<Items<'s>>,
    actions: Vec<Node<'s>>,
}

impl<'s> Sections<'s> {
    fn parse(root: Node<'s>) -> Result<Self> {
        let mut sections = Self::default();
        for section in definition(root, "domain")? {
            let (head, items) = section.headed()?;
            match head {
                ":requirements" => check_requirements(items)?,
                ":types" => sections.types = Some(items),
                ":predicates" => sections.predicates = Some(items),
                ":constants" => sections.constants = Some(items),
                ":functions" => {} // Costs do not matter to a player.
                ":action" if sections.actions.len() < MAX_ACTIONS => sections.actions.push(section),
                ":action" => return Err(section.error(format!("more than {MAX_ACTIONS} actions"))),
                _ => return Err(section.error(format!("section `{head}` is not supported"))),
            }
        }
        Ok(sections)
    }
}

impl Domain {
    /// Parses the text of a domain.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let tree = Sexpr::parse(Source { file, part: Part::Domain, text }, &lower)?;
        let sections = Sections::parse(tree.root())?;
        let mut domain = Self {
            types: sections.types.map_or_else(|| Ok(Types::new()), Types::parse)?,
            predicates: sections
                .predicates
                .map_or_else(|| Ok(Predicates::default()), Predicates::parse)?,
            constants: Vec::new(),
            names: Names::default(),
            actions: Vec::new(),
            triggers: Vec::new(),
        };
        if let Some(items) = sections.constants {
            let constants = typed_objects(items, &domain.types)?;
            domain.constants =
                constants.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        }
        let mut drafts = Vec::new();
        for node in sections.actions {
            let draft = domain.draft(node)?;
            if drafts.iter().any(|known: &Draft| known.action.name == draft.action.name) {
                return Err(
                    node.error(format!("the action `{}` is declared twice", draft.action.name))
                );
            }
            drafts.push(draft);
        }
        domain.finish(drafts);
        Ok(domain)
    }

    /// Reads one `(:action …)`.
    fn draft(&mut self, node: Node) -> Result<Draft> {
        let fields = Fields::parse(node)?;
        let mut scope = Scope::new(&self.types, &self.predicates, &mut self.names);
        if let Some(params) = fields.parameters {
            scope.declare(params.items()?)?;
        }
        let params = match fields.parameters {
            Some(params) => typed_list(params.items()?)?,
            None => Vec::new(),
        };
        let params = params.iter().map(|(name, _)| Ok(name.word()?.trim_matches('?').to_owned()));
        let params = params.collect::<Result<Vec<_>>>()?;
        let cases = match fields.precondition {
            Some(condition) => scope.cases(condition, true)?,
            None => vec![Case::default()],
        };
        let mut effects = Vec::new();
        if let Some(effect) = fields.effect {
            read_effects(&mut scope, effect, None, &mut effects)?;
        }
        let vars = scope.vars;
        let name = fields.name.to_owned();
        Ok(Draft {
            action: Action { name, params, vars, joins: Vec::new(), effects, adds: 0 },
            cases,
        })
    }

    /// Marks the fluent predicates, then plans the joins of each action.
    fn finish(&mut self, drafts: Vec<Draft>) {
        for effect in drafts.iter().flat_map(|draft| &draft.action.effects) {
            self.predicates.list[usize::from(effect.atom.predicate)].fluent = true;
        }
        for Draft { mut action, cases } in drafts {
            let possible = cases.into_iter().filter(|case| !case.is_empty(&action.vars));
            let join = |case| Join::plan(case, action.params.len(), &action.vars, &self.predicates);
            action.joins = possible.map(join).collect();
            action.effects.sort_by_key(|effect| !effect.add);
            action.adds = action.effects.iter().filter(|effect| effect.add).count();
            for join in &mut action.joins {
                join.find_effects(&action.effects);
            }
            self.actions.push(action);
        }
        self.triggers = vec![Vec::new(); self.predicates.list.len()];
        for (action, declared) in self.actions.iter().enumerate() {
            for (join, planned) in declared.joins.iter().enumerate() {
                for (plan, &atom) in planned.fluents.iter().enumerate() {
                    let predicate = usize::from(planned.case.positive[atom].predicate);
                    let trigger =
                        Trigger { action: action as u16, join: join as u16, plan: plan as u16 };
                    self.triggers[predicate].push(trigger);
                }
            }
        }
    }
}

/// An action without its join plans.
struct Draft {
    action: Action,
    cases: Vec<Case>,
}

/// The fields of `(:action name …)`.
#[derive(Default)]
struct Fields<'s> {
    name: &'s str,
    parameters: Option<Node<'s>>,
    precondition: Option<Node<'s>>,
    effect: Option<Node<'s>>,
}

impl<'s> Fields<'s> {
    fn parse(action: Node<'s>) -> Result<Self> {
        let (_, mut items) = action.headed()?;
        let name = items.next().ok_or_else(|| action.error("an action without a name"))?;
        let mut fields = Self { name: name.word()?, ..Self::default() };
        while let Some(key) = items.next() {
            let field = match key.word()? {
                ":parameters" => &mut fields.parameters,
                ":precondition" => &mut fields.precondition,
                ":effect" => &mut fields.effect,
                _ => return Err(key.error("expected :parameters, :precondition or :effect")),
            };
            *field = Some(items.next().ok_or_else(|| key.error("nothing follows"))?);
        }
        Ok(fields)
    }
}

/// The sections of `(define (kind name) …)`.
pub(crate) fn definition<'s>(root: Node<'s>, kind: &str) -> Result<Items<'s>> {
    let (head, mut items) = root.headed()?;
    if head != "define" {
        return Err(root.error("expected (define …)"));
    }
    let title = items.next().ok_or_else(|| root.error("an empty definition"))?;
    if title.headed()?.0 == kind {
        Ok(items)
    } else {
        Err(title.error(format!("expected ({kind} …)")))
    }
}

/// Reads a typed list of objects.
pub(crate) fn typed_objects<'s>(items: Items<'s>, types: &Types) -> Result<Vec<(&'s str, TypeId)>> {
    let object = |(name, kind): (Node<'s>, Option<Node<'s>>)| {
        let kind = kind.map_or(Ok(0), |kind| types.declared(kind))?;
        Ok((name.word()?, kind))
    };
    typed_list(items)?.into_iter().map(object).collect()
}

fn check_requirements(mut items: Items) -> Result<()> {
    let unknown =
        items.find(|item| !item.as_word().is_some_and(|word| REQUIREMENTS.contains(&word)));
    match unknown {
        None => Ok(()),
        Some(item) => Err(item.error(format!(
            "this requirement is not supported; known: {}",
            REQUIREMENTS.join(" ")
        ))),
    }
}
