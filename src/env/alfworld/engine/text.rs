//! Deriving texts from a compiled grammar and the facts that hold.
//!
//! A non-terminal expands to its first rule whose condition holds; queries are answered by
//! backtracking over the facts.

use crate::env::alfworld::engine::bits::Bits;
use crate::env::alfworld::engine::facts::Facts;
use crate::env::alfworld::engine::relations::Relations;
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::grammar::rules::{
    ActionText, Body, Each, Grammar, Piece, Query, QueryAtom, Symbol, Term,
};
use crate::env::alfworld::grammar::value::Attribute;
use crate::env::alfworld::pddl::atom::ObjectId;
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::types::Types;

/// The largest number of symbols and facts that deriving one text may visit.
const MAX_WORK: usize = 1 << 22;

/// The parts of a game that texts are derived from and that do not change.
pub(crate) struct Words<'a> {
    pub(crate) file: &'a str,
    pub(crate) grammar: &'a Grammar,
    /// The literal of the grammar that the game replaces, and its text.
    pub(crate) own: Option<(u32, &'a str)>,
    pub(crate) types: &'a Types,
    pub(crate) objects: &'a Objects,
    pub(crate) facts: &'a Facts,
    pub(crate) first_fluent: u32,
    pub(crate) relations: &'a Relations,
}

/// The fluent facts that texts are derived from: those shown as true, and those made false.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) shown: &'a Bits,
    pub(crate) denied: &'a Bits,
}

/// Derives texts; the buffers are reused.
pub(crate) struct Writer<'a> {
    words: &'a Words<'a>,
    seen: Seen<'a>,
    /// The objects of slots, those of parameters first.
    frame: Vec<(u16, ObjectId)>,
    text: String,
    work: usize,
}

/// Marks the object of a parameter whose declared type is not the type of the object.
///
/// As in TextWorld, queries then treat it as a different object.
const OF_OTHER_TYPE: ObjectId = 1 << 15;

impl Words<'_> {
    fn literal(&self, id: u32) -> &str {
        match self.own {
            Some((own, text)) if own == id => text,
            _ => &self.grammar.literals[id as usize],
        }
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(words: &'a Words<'a>, seen: Seen<'a>) -> Self {
        Self {
            words,
            seen,
            frame: Vec::with_capacity(16),
            text: String::with_capacity(256),
            work: 0,
        }
    }

    /// Derives `symbols`, with `params` as the objects of `slots`.
    pub(crate) fn write(
        &mut self,
        slots: &[u16],
        params: &[ObjectId],
        symbols: &[Symbol],
    ) -> Result<&str> {
        let words = self.words;
        let typed = |(&slot, &object): (&u16, &ObjectId)| {
            let same = words.grammar.slots[usize::from(slot)].kind
                == words.objects.types[usize::from(object)];
            (slot, if same { object } else { object | OF_OTHER_TYPE })
        };
        self.frame.clear();
        self.frame.extend(slots.iter().zip(params).map(typed));
        self.text.clear();
        self.work = 0;
        self.symbols(symbols)?;
        Ok(&self.text)
    }

    /// Derives the command of an action with these parameters.
    pub(crate) fn write_command(
        &mut self,
        action: &ActionText,
        params: &[ObjectId],
    ) -> Result<&str> {
        let Some(pieces) = &action.pieces else {
            return self.write(&action.params, params, &action.template);
        };
        self.text.clear();
        self.work = 0;
        for piece in pieces {
            self.text.push_str(match piece {
                Piece::Literal(id) => self.words.literal(*id),
                Piece::Name(i) => &self.words.objects.names[usize::from(params[*i])],
            });
        }
        self.work(pieces.len())?;
        Ok(&self.text)
    }

    /// Returns the last text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn symbols(&mut self, symbols: &[Symbol]) -> Result<()> {
        for symbol in symbols {
            match symbol {
                Symbol::Literal(id) => {
                    self.text.push_str(self.words.literal(*id));
                    self.work(1)?;
                }
                Symbol::NonTerminal(id) => self.non_terminal(*id)?,
                Symbol::Each(Each { body, query: None }) => self.body(body)?,
                Symbol::Each(each) => {
                    let answers = self.answers(each)?;
                    for i in 0..answers.count {
                        self.answer(each, &answers, i)?;
                    }
                }
                Symbol::List(each) => self.list(each)?,
            }
        }
        Ok(())
    }

    /// Expands a non-terminal by its first rule whose condition holds.
    fn non_terminal(&mut self, id: u16) -> Result<()> {
        self.work(1)?;
        let words = self.words;
        for rule in &words.grammar.rules[usize::from(id)] {
            let holds = match &rule.condition {
                Some(query) => !self.matches(query, 0, &mut |_| true)?,
                None => true,
            };
            if holds {
                return self.symbols(&rule.symbols);
            }
        }
        Err(self.error(&words.grammar.names[usize::from(id)], "the condition of no rule holds"))
    }

    fn list(&mut self, each: &Each) -> Result<()> {
        let answers = self.answers(each)?;
        let Some(lists) = self.words.grammar.lists else { return Ok(()) };
        if answers.count == 0 {
            return self.non_terminal(lists.empty);
        }
        for i in 0..answers.count {
            if i > 0 {
                let is_last = i + 1 == answers.count;
                self.non_terminal(if is_last { lists.last_separator } else { lists.separator })?;
            }
            self.answer(each, &answers, i)?;
        }
        Ok(())
    }

    fn answer(&mut self, each: &Each, answers: &Answers, i: usize) -> Result<()> {
        let outside = self.frame.len();
        let answer = &answers.objects[i * answers.slots.len()..(i + 1) * answers.slots.len()];
        self.frame.extend(answers.slots.iter().copied().zip(answer.iter().copied()));
        self.body(&each.body)?;
        self.frame.truncate(outside);
        Ok(())
    }

    fn body(&mut self, body: &Body) -> Result<()> {
        match body {
            Body::NonTerminal(id) => self.non_terminal(*id),
            Body::Value(choices) => self.value(choices),
        }
    }

    fn value(&mut self, choices: &[Vec<Term>]) -> Result<()> {
        let start = self.text.len();
        for sum in choices {
            for term in sum {
                let text = match term {
                    Term::Text(id) => self.words.literal(*id),
                    Term::Attribute(variable, attribute) => {
                        self.attribute(*variable, *attribute)?
                    }
                };
                self.text.push_str(text);
            }
            if self.text.len() > start {
                break;
            }
        }
        self.work(1)
    }

    fn attribute(&self, variable: u16, attribute: Attribute) -> Result<&'a str> {
        let words = self.words;
        let named = |(slot, _): &&(u16, ObjectId)| {
            words.grammar.slots[usize::from(*slot)].variable == variable
        };
        let Some(&(_, object)) = self.frame.iter().rev().find(named) else {
            let name = &words.grammar.variables[usize::from(variable)];
            return Err(self.error(name, "this variable stands for nothing here"));
        };
        let object = usize::from(object & !OF_OTHER_TYPE);
        Ok(match attribute {
            Attribute::Name => &words.objects.names[object],
            Attribute::Id => &words.objects.ids[object],
            Attribute::Type => words.types.name(words.objects.types[object]),
            Attribute::Definite => "the",
            Attribute::Indefinite => "a",
        })
    }

    fn answers(&mut self, each: &Each) -> Result<Answers> {
        let Some(query) = &each.query else {
            return Ok(Answers { count: 1, slots: Vec::new(), objects: Vec::new() });
        };
        let free = |slot: &u16| self.object(*slot).is_none();
        let slots: Vec<u16> = query.slots.iter().copied().filter(free).collect();
        let mut count = 0;
        let mut objects = Vec::new();
        let outside = self.frame.len();
        self.matches(query, 0, &mut |frame| {
            count += 1;
            let bound = &frame[outside..];
            let object = |slot: &u16| {
                bound.iter().find(|(known, _)| known == slot).map(|(_, object)| *object)
            };
            objects.extend(slots.iter().filter_map(object));
            false
        })?;
        Ok(Answers { count, slots, objects })
    }

    fn object(&self, slot: u16) -> Option<ObjectId> {
        self.frame.iter().find(|(known, _)| *known == slot).map(|(_, object)| *object)
    }

    /// Calls `found` for each match of the atoms of a query from number `i` on.
    ///
    /// Returns `false` as soon as `found` returns `true`, which ends the search.
    fn matches(&mut self, query: &Query, i: usize, found: &mut Found) -> Result<bool> {
        let Some(atom) = query.atoms.get(i) else { return Ok(!found(&self.frame)) };
        let Some(predicate) = atom.predicate else { return Ok(true) };
        let words = self.words;
        let relations = words.relations.of(predicate);
        for types in atom.signatures.iter() {
            let Some(relation) = relations.iter().find(|relation| relation.types == *types) else {
                continue;
            };
            let bound =
                atom.slots.iter().enumerate().find_map(|(i, &slot)| Some((i, self.object(slot)?)));
            let facts = match bound {
                Some((i, object)) => relation.with(i, object),
                None => relation.all(),
            };
            for &fact in facts {
                let outside = self.frame.len();
                let go_on = !self.unify(atom, fact) || self.matches(query, i + 1, found)?;
                self.frame.truncate(outside);
                if !go_on {
                    return Ok(false);
                }
            }
            self.work(facts.len())?;
        }
        Ok(true)
    }

    /// Matches an atom with a fact: binds its free slots, or returns `false`.
    ///
    /// A free slot cannot take an object that another slot has.
    fn unify(&mut self, atom: &QueryAtom, fact: u32) -> bool {
        let args = self.words.facts.args(fact);
        self.sees(fact, atom.denied)
            && atom.slots.iter().zip(args).all(|(&slot, &arg)| match self.object(slot) {
                Some(object) => object == arg,
                None => {
                    let taken = self.frame.iter().any(|(_, object)| *object == arg);
                    self.frame.push((slot, arg));
                    !taken
                }
            })
    }

    fn sees(&self, fact: u32, denied: bool) -> bool {
        match fact.checked_sub(self.words.first_fluent) {
            Some(fact) if denied => self.seen.denied.get(fact),
            Some(fact) => self.seen.shown.get(fact),
            None => !denied,
        }
    }

    fn work(&mut self, amount: usize) -> Result<()> {
        self.work += amount;
        if self.work.max(self.text.len()) <= MAX_WORK {
            Ok(())
        } else {
            Err(self.error("", "the text would be endless"))
        }
    }

    fn error(&self, token: &str, reason: &str) -> AlfworldError {
        AlfworldError::Text {
            file: self.words.file.to_owned(),
            token: token.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Called for each match with the slots and their objects; returns `true` to end the search.
type Found<'a> = dyn FnMut(&[(u16, ObjectId)]) -> bool + 'a;

/// The answers of a query: the objects of its free slots, one answer after another.
struct Answers {
    count: usize,
    slots: Vec<u16>,
    objects: Vec<ObjectId>,
}
