//! Loading games, with the domains and grammars that they share parsed once.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::domain::Domain;
use super::error::{AlfworldError, Result};
use super::game::{Game, RawGame};
use super::grammar::Grammar;
use super::symbols::is_plain;

/// The name of a game file.
pub(super) const GAME_FILE: &str = "game.tw-pddl";
/// The largest accepted game file, in bytes; ALFWorld's have up to 140 kB.
const MAX_FILE: u64 = 4 << 20;
/// How many pairs of domain and grammar are kept.
const MAX_LOGICS: usize = 16;

/// A domain and a grammar, parsed, and their texts.
pub(super) struct Logic {
    domain_text: String,
    grammar_text: String,
    pub(super) domain: Arc<Domain>,
    pub(super) grammar: Grammar,
}

/// The literal of a shared grammar that is a game's own, and its text there.
pub(super) type OwnText = Option<(u32, String)>;

/// Loads games and keeps what they share: the parsed domain, and the compiled grammar apart from the one
/// sentence in which games differ.
#[derive(Default)]
pub struct Library {
    logics: RwLock<Vec<Arc<Logic>>>,
}

impl Library {
    /// A library that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a game from its file, or from the folder that holds it.
    ///
    /// # Errors
    /// An unreadable or too large file, one that is not a game, and a game that cannot be won.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Arc<Game>> {
        self.read(path.as_ref(), None)
    }

    /// As [`Library::load`], with the objects of a kind numbered in a random order that `seed` fixes: ALFWorld's
    /// domain randomisation.
    ///
    /// # Errors
    /// As [`Library::load`].
    pub fn load_shuffled(&self, path: impl AsRef<Path>, seed: u64) -> Result<Arc<Game>> {
        self.read(path.as_ref(), Some(seed))
    }

    /// Parses a game file's text; `name` stands for the file in errors, and `shuffle` is as the seed of
    /// [`Library::load_shuffled`].
    ///
    /// # Errors
    /// A text that is not a game, and a game that cannot be won.
    pub fn parse(&self, name: &str, text: &str, shuffle: Option<u64>) -> Result<Arc<Game>> {
        let raw = RawGame::parse(name, text)?;
        let logic = self.logic(name, &raw.pddl_domain, &raw.grammar)?;
        Game::new(name, raw, logic, shuffle).map(Arc::new)
    }

    fn read(&self, path: &Path, shuffle: Option<u64>) -> Result<Arc<Game>> {
        let inside = path.join(GAME_FILE);
        let path = if path.is_dir() { &inside } else { path };
        let name = path.to_string_lossy();
        self.parse(&name, &read_file(path, &name)?, shuffle)
    }

    /// A parsed domain and grammar, and the literal in which this grammar differs from the parsed one.
    fn logic(&self, name: &str, domain: &str, grammar: &str) -> Result<(Arc<Logic>, OwnText)> {
        let known = self.logics.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut same_domain = known.iter().filter(|logic| logic.domain_text == domain);
        let own = same_domain.clone().find_map(|logic| Some((logic.clone(), logic.difference(grammar)?)));
        if let Some(found) = own {
            return Ok(found);
        }
        let domain_text = domain.to_owned();
        let domain = match same_domain.next_back() {
            Some(logic) => logic.domain.clone(),
            None => Arc::new(Domain::parse(name, domain)?),
        };
        let compiled = Grammar::parse(name, grammar, &domain)?;
        let logic = Logic { domain_text, grammar_text: grammar.to_owned(), domain, grammar: compiled };
        let logic = Arc::new(logic);
        let mut logics = self.logics.write().unwrap_or_else(PoisonError::into_inner);
        if logics.len() == MAX_LOGICS {
            logics.remove(0);
        }
        logics.push(logic.clone());
        Ok((logic, None))
    }
}

impl Logic {
    /// The literal of the parsed grammar for which `text` has another plain text, and that one, if `text`
    /// otherwise is the same; `Some(None)` if it is all the same.
    fn difference(&self, text: &str) -> Option<OwnText> {
        let known = &self.grammar_text;
        if text == known {
            return Some(None);
        }
        let first = text.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
        let (span, literal) =
            self.grammar.plain.iter().find(|(span, _)| span.start <= first && first <= span.end)?;
        let own = text.get(span.start..)?.strip_suffix(&known[span.end..])?;
        is_plain(own).then(|| Some((*literal, own.to_owned())))
    }
}

fn read_file(path: &Path, name: &str) -> Result<String> {
    let io = |source| AlfworldError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > MAX_FILE {
        return Err(AlfworldError::FileSize { file: name.to_owned(), size, limit: MAX_FILE });
    }
    let mut text = String::with_capacity(size as usize + 1);
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}
