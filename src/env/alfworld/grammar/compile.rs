//! Compiling the text of a grammar against a domain.
//!
//! Names become numbers, queries become lists of slots and types, and every error that can be
//! found without playing is found here: unknown names, endless texts, commands that depend on
//! fluent facts.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::env::alfworld::error::{AlfworldError, Part, Result, Source};
use crate::env::alfworld::grammar::document::{Document, RawAction, RawRule};
use crate::env::alfworld::grammar::rules::{
    ActionText, Body, Each, Grammar, Lists, Query, QueryAtom, Rule, Signatures, Slot, Symbol, Term,
};
use crate::env::alfworld::grammar::symbols::{RawBody, RawEach, RawSymbol};
use crate::env::alfworld::grammar::{query, symbols, value};
use crate::env::alfworld::pddl::domain::Domain;
use crate::env::alfworld::pddl::predicates::MAX_ARITY;
use crate::env::alfworld::pddl::types::{TypeId, NO_TYPE};

/// The largest depth of nested non-terminals.
const MAX_DEPTH: usize = 64;
/// The largest numbers of non-terminals, of names and of literals.
const MAX_NAMES: usize = 10_000;
/// The largest number of type signatures of one atom of a query.
const MAX_SIGNATURES: usize = 4096;
/// The non-terminal of the first observation.
const INTRO: &str = "#intro#";

struct Compiler<'a> {
    source: Source<'a>,
    domain: &'a Domain,
    document: &'a Document<'a>,
    grammar: Grammar,
    ids: FxHashMap<&'a str, u16>,
    /// The reachable non-terminals whose rules are not compiled yet.
    open: Vec<&'a str>,
    /// The signatures computed so far, by the types in the query.
    signatures: FxHashMap<Vec<TypeId>, Signatures>,
}

impl Grammar {
    /// Compiles the rules that the first observation and the actions of the domain need.
    pub(crate) fn parse(file: &str, text: &str, domain: &Domain) -> Result<Self> {
        let source = Source { file, part: Part::Grammar, text };
        let document = Document::parse(source)?;
        let grammar =
            Grammar { queried: vec![false; domain.predicates.list.len()], ..Self::default() };
        let mut compiler = Compiler {
            source,
            domain,
            document: &document,
            grammar,
            ids: FxHashMap::default(),
            open: Vec::new(),
            signatures: FxHashMap::default(),
        };
        compiler.grammar.intro = compiler.symbols(INTRO)?;
        for action in &domain.actions {
            let Some(raw) = document.actions.get(&action.name) else {
                let reason = "the domain's action has no texts here";
                return Err(source.error_about(&action.name, reason));
            };
            let text = compiler.action(raw, &action.params, &action.vars)?;
            compiler.grammar.actions.push(text);
        }
        compiler.rules()?;
        compiler.check()?;
        Ok(compiler.grammar)
    }
}

impl<'a> Compiler<'a> {
    fn action(
        &mut self,
        raw: &RawAction<'a>,
        params: &[String],
        types: &[TypeId],
    ) -> Result<ActionText> {
        let slots = params.iter().zip(types).map(|(name, &kind)| self.slot(name, kind));
        Ok(ActionText {
            params: slots.collect::<Result<_>>()?,
            template: self.symbols(raw.template)?,
            feedback: self.symbols(raw.feedback)?,
            named: Vec::new(),
            pieces: None,
        })
    }

    /// Compiles the rules of every non-terminal that is reachable.
    fn rules(&mut self) -> Result<()> {
        while let Some(name) = self.open.pop() {
            let id = usize::from(self.ids[name]);
            for raw in &self.document.rules[name] {
                let rule = self.rule(raw)?;
                self.grammar.rules[id].push(rule);
            }
        }
        Ok(())
    }

    fn rule(&mut self, raw: &'a RawRule<'a>) -> Result<Rule> {
        let condition =
            if raw.condition.is_empty() { None } else { Some(self.query(&raw.condition)?) };
        let symbols = self.symbols(&raw.rhs)?;
        if let (Cow::Borrowed(rhs), [Symbol::Literal(id)]) = (&raw.rhs, &symbols[..]) {
            if symbols::is_plain(rhs) {
                let start = rhs.as_ptr() as usize - self.source.text.as_ptr() as usize;
                self.grammar.plain.push((start..start + rhs.len(), *id));
            }
        }
        Ok(Rule { condition, symbols })
    }

    /// Checks the whole grammar: no endless texts, and no command that depends on fluent facts.
    fn check(&mut self) -> Result<()> {
        if let Err(path) = self.grammar.check_depth(MAX_DEPTH) {
            let reason = match path.split_last() {
                Some((last, before)) if before.contains(last) => "this non-terminal derives itself",
                _ => "too many non-terminals stand above each other",
            };
            let chain = path.join(" → ");
            let last = path.last().copied().unwrap_or_default();
            return Err(self.about(&format!("#{last}#"), &format!("{reason}: {chain}")));
        }
        for i in 0..self.grammar.actions.len() {
            let inputs = self.grammar.command_inputs(&self.grammar.actions[i], self.domain);
            let name = &self.domain.actions[i].name;
            let named = inputs.map_err(|predicate| {
                let reason =
                    format!("the template must not depend on `{predicate}`, which actions change");
                self.about(name, &reason)
            })?;
            if named.len() > MAX_ARITY {
                let reason = format!("the template depends on more than {MAX_ARITY} parameters");
                return Err(self.about(name, &reason));
            }
            self.grammar.actions[i].named = named;
            self.grammar.actions[i].pieces = self.grammar.pieces(&self.grammar.actions[i]);
        }
        Ok(())
    }

    fn symbols(&mut self, text: &'a str) -> Result<Vec<Symbol>> {
        let symbol = |raw: RawSymbol<'a>| {
            Ok(match raw {
                RawSymbol::Literal(text) => Symbol::Literal(self.literal(text)?),
                RawSymbol::NonTerminal(name) => Symbol::NonTerminal(self.non_terminal(name)?),
                RawSymbol::Each(each) => Symbol::Each(self.each(&each)?),
                RawSymbol::List(each) => {
                    self.need_lists()?;
                    Symbol::List(self.each(&each)?)
                }
            })
        };
        symbols::parse(text).into_iter().map(symbol).collect()
    }

    fn each(&mut self, raw: &RawEach<'a>) -> Result<Each> {
        let body = match raw.body {
            RawBody::NonTerminal(name) => Body::NonTerminal(self.non_terminal(name)?),
            RawBody::Value(text) => self.value(text)?,
        };
        Ok(Each { body, query: raw.query.map(|query| self.query(query)).transpose()? })
    }

    fn need_lists(&mut self) -> Result<()> {
        self.grammar.lists = Some(Lists {
            empty: self.non_terminal("list_empty")?,
            separator: self.non_terminal("list_separator")?,
            last_separator: self.non_terminal("list_last_separator")?,
        });
        Ok(())
    }

    fn non_terminal(&mut self, name: &'a str) -> Result<u16> {
        if let Some(&id) = self.ids.get(name) {
            return Ok(id);
        }
        if self.document.rules.get(name).is_none_or(Vec::is_empty) {
            return Err(self.about(&format!("#{name}#"), "this non-terminal has no rule"));
        }
        self.check_room(self.grammar.names.len(), name)?;
        let id = self.grammar.names.len() as u16;
        self.grammar.names.push(name.to_owned());
        self.grammar.rules.push(Vec::new());
        self.ids.insert(name, id);
        self.open.push(name);
        Ok(id)
    }

    fn value(&mut self, text: &str) -> Result<Body> {
        let parsed = value::parse(text).map_err(|reason| self.about(text, reason))?;
        let mut choices = Vec::new();
        for sum in parsed.choices {
            let terms = sum.into_iter().map(|term| {
                Ok(match term {
                    value::Term::Text(text) => Term::Text(self.literal(&text)?),
                    value::Term::Attribute(name, attribute) => {
                        Term::Attribute(self.variable(&name)?, attribute)
                    }
                })
            });
            choices.push(terms.collect::<Result<_>>()?);
        }
        Ok(Body::Value(choices))
    }

    fn query(&mut self, text: &str) -> Result<Query> {
        let raw = query::parse(text).map_err(|reason| self.about(text, reason))?;
        let mut query = Query { atoms: Vec::new(), slots: Vec::new() };
        for atom in raw {
            let atom = self.query_atom(text, &atom)?;
            for slot in &atom.slots {
                if !query.slots.contains(slot) {
                    query.slots.push(*slot);
                }
            }
            query.atoms.push(atom);
        }
        let variables: Vec<u16> = query
            .slots
            .iter()
            .map(|&slot| self.grammar.slots[usize::from(slot)].variable)
            .collect();
        match (0..variables.len()).find(|&i| variables[..i].contains(&variables[i])) {
            Some(_) => Err(self.about(text, "a placeholder has two types")),
            None => Ok(query),
        }
    }

    fn query_atom(&mut self, text: &str, raw: &query::RawAtom) -> Result<QueryAtom> {
        let mut types = Vec::new();
        let mut slots = Vec::new();
        for (name, kind) in &raw.placeholders {
            let id = self.domain.types.get(kind);
            if id == NO_TYPE {
                let reason = format!("the type `{kind}` is not declared in the domain");
                return Err(self.about(text, &reason));
            }
            types.push(id);
            slots.push(self.slot(name, id)?);
        }
        if self.domain.types.signature_count(&types) > MAX_SIGNATURES {
            return Err(self.about(text, "this asks for too many combinations of types"));
        }
        let arity = |id: &u16| self.domain.predicates.list[usize::from(*id)].arity == slots.len();
        let predicate = self.domain.predicates.get(raw.predicate).filter(arity);
        if let Some(id) = predicate {
            self.grammar.queried[usize::from(id)] = true;
        }
        let below = || self.domain.types.signatures(&types).into();
        let signatures = self.signatures.entry(types.clone()).or_insert_with(below).clone();
        Ok(QueryAtom { predicate, denied: raw.denied, slots, signatures })
    }

    fn literal(&mut self, text: &str) -> Result<u32> {
        self.check_room(self.grammar.literals.len(), text)?;
        self.grammar.literals.push(text.to_owned());
        Ok(self.grammar.literals.len() as u32 - 1)
    }

    fn variable(&mut self, name: &str) -> Result<u16> {
        let known = self.grammar.variables.iter().position(|known| known == name);
        if known.is_none() {
            self.check_room(self.grammar.variables.len(), name)?;
            self.grammar.variables.push(name.to_owned());
        }
        Ok(known.unwrap_or(self.grammar.variables.len() - 1) as u16)
    }

    fn slot(&mut self, name: &str, kind: TypeId) -> Result<u16> {
        let slot = Slot { variable: self.variable(name)?, kind };
        let known = self.grammar.slots.iter().position(|known| *known == slot);
        if known.is_none() {
            self.check_room(self.grammar.slots.len(), name)?;
            self.grammar.slots.push(slot);
        }
        Ok(known.unwrap_or(self.grammar.slots.len() - 1) as u16)
    }

    fn check_room(&self, len: usize, token: &str) -> Result<()> {
        if len < MAX_NAMES {
            Ok(())
        } else {
            Err(self.about(token, "the grammar is too large"))
        }
    }

    fn about(&self, token: &str, reason: &str) -> AlfworldError {
        self.source.error_about(token, reason)
    }
}
