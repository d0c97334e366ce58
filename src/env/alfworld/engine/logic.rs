//! The part of a game that it shares with others: its domain and its grammar.
//!
//! ALFWorld repeats one domain and one grammar in every game file. Only the sentence of the task,
//! which is one literal of the grammar, differs. A game therefore keeps its own text of that
//! literal and shares everything else.

use std::ops::Range;
use std::sync::Arc;

use crate::env::alfworld::grammar::rules::Grammar;
use crate::env::alfworld::grammar::symbols::is_plain;
use crate::env::alfworld::pddl::domain::Domain;

/// A parsed domain and a compiled grammar, with the texts that they were made from.
pub(crate) struct Logic {
    pub(crate) domain_text: String,
    pub(crate) grammar_text: String,
    pub(crate) domain: Arc<Domain>,
    pub(crate) grammar: Grammar,
}

/// The literal of a shared grammar that a game replaces, and the text that it puts there.
pub(crate) type OwnText = Option<(u32, String)>;

impl Logic {
    /// Compares another grammar with this one.
    ///
    /// Returns the one literal that differs, or `Some(None)` if the texts are equal. Returns
    /// `None` if the grammars differ in anything else.
    pub(crate) fn difference(&self, grammar: &str) -> Option<OwnText> {
        let known = &self.grammar_text;
        if grammar == known {
            return Some(None);
        }
        let equal = grammar.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
        let holds = |span: &Range<usize>| span.start <= equal && equal <= span.end;
        let (span, literal) = self.grammar.plain.iter().find(|(span, _)| holds(span))?;
        let own = grammar.get(span.start..)?.strip_suffix(&known[span.end..])?;
        is_plain(own).then(|| Some((*literal, own.to_owned())))
    }
}
