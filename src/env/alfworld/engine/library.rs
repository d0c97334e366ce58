//! Loading games; the domains and grammars that games share are parsed once.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::env::alfworld::engine::fields::{read_file, Fields, GAME_FILE};
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::logic::{Logic, OwnText};
use crate::env::alfworld::error::Result;
use crate::env::alfworld::grammar::rules::Grammar;
use crate::env::alfworld::pddl::domain::Domain;

/// The number of pairs of domain and grammar that are kept.
const MAX_LOGICS: usize = 16;

/// Loads games and keeps what they share: the parsed domain and the compiled grammar.
///
/// Games whose grammars differ only in the sentence of the task share one compiled grammar.
#[derive(Default)]
pub struct Library {
    logics: RwLock<Vec<Arc<Logic>>>,
}

impl Library {
    /// Creates an empty library.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a game from its file, or from the folder that holds it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is too large, if it is not a game, or if the
    /// game cannot be won.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Arc<Game>> {
        let path = path.as_ref();
        let inside = path.join(GAME_FILE);
        let path = if path.is_dir() { &inside } else { path };
        let name = path.to_string_lossy();
        self.parse(&name, &read_file(path, &name)?)
    }

    /// Parses the text of a game file; `name` names the file in errors.
    ///
    /// # Errors
    /// Returns an error if the text is not a game, or if the game cannot be won.
    pub fn parse(&self, name: &str, text: &str) -> Result<Arc<Game>> {
        let fields = Fields::parse(name, text)?;
        let logic = self.logic(name, &fields)?;
        Game::new(name, fields, logic).map(Arc::new)
    }

    /// Finds or parses a domain and a grammar.
    fn logic(&self, name: &str, fields: &Fields) -> Result<(Arc<Logic>, OwnText)> {
        let known = self.logics.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut same_domain = known.iter().filter(|logic| logic.domain_text == fields.pddl_domain);
        for logic in same_domain.clone() {
            if let Some(own) = logic.difference(&fields.grammar) {
                return Ok((logic.clone(), own));
            }
        }
        let domain = match same_domain.next_back() {
            Some(logic) => logic.domain.clone(),
            None => Arc::new(Domain::parse(name, &fields.pddl_domain)?),
        };
        let logic = Arc::new(Logic {
            grammar: Grammar::parse(name, &fields.grammar, &domain)?,
            domain,
            domain_text: fields.pddl_domain.clone(),
            grammar_text: fields.grammar.clone(),
        });
        let mut logics = self.logics.write().unwrap_or_else(PoisonError::into_inner);
        if logics.len() == MAX_LOGICS {
            logics.remove(0);
        }
        logics.push(logic.clone());
        Ok((logic, None))
    }
}
