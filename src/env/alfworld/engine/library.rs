//! Loading games, with the domains and grammars that they share parsed once.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::env::alfworld::engine::fields::{unescape, Fields};
use crate::env::alfworld::engine::game::{Game, RawGame};
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::grammar::rules::Grammar;
use crate::env::alfworld::grammar::symbols::is_plain;
use crate::env::alfworld::pddl::domain::Domain;

/// The name of a game file.
pub(crate) const GAME_FILE: &str = "game.tw-pddl";
/// The largest accepted game file, in bytes; ALFWorld's have up to 140 kB.
const MAX_FILE: u64 = 4 << 20;
/// How many pairs of domain and grammar are kept.
const MAX_LOGICS: usize = 16;

/// A domain and a grammar, parsed, and their texts.
pub(crate) struct Logic {
    domain_text: String,
    grammar_text: String,
    written: Written,
    pub(crate) domain: Arc<Domain>,
    pub(crate) grammar: Grammar,
}

/// A domain's and a grammar's texts as a game file has them.
#[derive(Default)]
struct Written {
    domain: String,
    grammar: String,
    /// As [`Grammar::plain`], by the bytes of `grammar` here.
    plain: Vec<(Range<usize>, u32)>,
}

/// The literal of a shared grammar that is a game's own, and its text there.
pub(crate) type OwnText = Option<(u32, String)>;

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
        let fields = Fields::parse(text);
        let known =
            fields.as_ref().and_then(|fields| Some((RawGame::read(fields)?, self.known(fields)?)));
        let (raw, logic) = match known {
            Some(known) => known,
            None => {
                let raw = RawGame::parse(name, text)?;
                let logic = self.logic(name, &raw, fields.as_ref())?;
                (raw, logic)
            }
        };
        Game::new(name, raw, logic, shuffle).map(Arc::new)
    }

    /// As [`Library::logic`], if the domain and the grammar are known as they are written.
    fn known(&self, fields: &Fields) -> Option<(Arc<Logic>, OwnText)> {
        let known = self.logics.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|logic| {
            let Written { domain, grammar, plain } = &logic.written;
            let own =
                (domain == fields.domain).then(|| difference(grammar, plain, fields.grammar))??;
            Some((logic.clone(), own))
        })
    }

    fn read(&self, path: &Path, shuffle: Option<u64>) -> Result<Arc<Game>> {
        let inside = path.join(GAME_FILE);
        let path = if path.is_dir() { &inside } else { path };
        let name = path.to_string_lossy();
        self.parse(&name, &read_file(path, &name)?, shuffle)
    }

    /// A parsed domain and grammar, and the literal in which this grammar differs from the parsed one.
    fn logic(
        &self,
        name: &str,
        raw: &RawGame,
        fields: Option<&Fields>,
    ) -> Result<(Arc<Logic>, OwnText)> {
        let (domain, grammar) = (&*raw.pddl_domain, &*raw.grammar);
        let known = self.logics.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut same_domain = known.iter().filter(|logic| logic.domain_text == domain);
        let own =
            |logic: &Arc<Logic>| difference(&logic.grammar_text, &logic.grammar.plain, grammar);
        let own = same_domain.clone().find_map(|logic| Some((logic.clone(), own(logic)?)));
        if let Some(found) = own {
            return Ok(found);
        }
        let domain_text = domain.to_owned();
        let domain = match same_domain.next_back() {
            Some(logic) => logic.domain.clone(),
            None => Arc::new(Domain::parse(name, domain)?),
        };
        let compiled = Grammar::parse(name, grammar, &domain)?;
        let written =
            fields.map(|fields| Written::new(fields, grammar, &compiled)).unwrap_or_default();
        let grammar_text = grammar.to_owned();
        let logic =
            Arc::new(Logic { domain_text, grammar_text, written, domain, grammar: compiled });
        let mut logics = self.logics.write().unwrap_or_else(PoisonError::into_inner);
        if logics.len() == MAX_LOGICS {
            logics.remove(0);
        }
        logics.push(logic.clone());
        Ok((logic, None))
    }
}

impl Written {
    fn new(fields: &Fields, grammar_text: &str, grammar: &Grammar) -> Self {
        let written = |(span, literal): &(Range<usize>, u32)| {
            let text = &grammar_text[span.clone()];
            let before = |start| unescape(&format!("{}\"", &fields.grammar[..start]));
            let is_there =
                |start: &usize| before(*start).is_some_and(|before| before.len() == span.start);
            let start =
                fields.grammar.match_indices(text).map(|(start, _)| start).find(is_there)?;
            Some((start..start + text.len(), *literal))
        };
        let plain = grammar.plain.iter().filter_map(written).collect();
        Self { domain: fields.domain.to_owned(), grammar: fields.grammar.to_owned(), plain }
    }
}

/// The literal of the grammar `known` for which `text` has another plain text, and that one, if `text` otherwise is the
/// same; `Some(None)` if it is all the same. `plain` has the places of such literals.
fn difference(known: &str, plain: &[(Range<usize>, u32)], text: &str) -> Option<OwnText> {
    if text == known {
        return Some(None);
    }
    let first = text.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
    let (span, literal) =
        plain.iter().find(|(span, _)| span.start <= first && first <= span.end)?;
    let own = text.get(span.start..)?.strip_suffix(&known[span.end..])?;
    is_plain(own).then(|| Some((*literal, own.to_owned())))
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
