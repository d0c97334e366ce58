//! Tokenizers: byte-level BPE trained on an environment's text, or a model checkpoint's
//! `tokenizer.json`.
//!
//! An environment's text is untrusted: an observation that spells `<|im_end|>` must not end a turn.
//! Plain text therefore never encodes to a special token; only chat templates and explicit ids
//! place those.

use crate::files::atomic_write;
use crate::policy::added_tokens::{AddedTokens, Addition};
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::places::Spaces;
use crate::policy::source::{Source, SourceText};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::models::bpe::{BpeTrainerBuilder, BPE};
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// A tokenizer: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) trained here, or the
/// tokenizer of a Hugging Face `tokenizer.json`.
///
/// Encoded text never contains a special token. Special tokens are placed by id
/// ([`Tokenizer::special_id`]) or by a chat template. Added tokens that are not special, such as
/// Qwen's `<tool_call>`, are recognised in any text, as in Python.
///
/// Every text is encoded whole and always in the same way: truncation, padding and the dropout of
/// merges that a file was saved with are not applied, and nothing is put around a text.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    special_ids: BTreeSet<u32>,
    /// Special tokens that any text may hold.
    harmless_ids: BTreeSet<u32>,
    /// Ids that end a turn.
    end_ids: Vec<u32>,
    /// A copy that recognises special tokens in a text; created on first use.
    parsing: OnceLock<Box<tokenizers::Tokenizer>>,
    /// Found out on first use.
    pub(crate) spaces: OnceLock<Spaces>,
}

/// Parses a `tokenizer.json`; truncation and padding in a form that the library does not know are
/// no obstacle, since they are not applied.
fn parsed(json: &str) -> Result<tokenizers::Tokenizer, String> {
    let error = match json.parse::<tokenizers::Tokenizer>() {
        Ok(tokenizer) => return Ok(tokenizer),
        Err(error) => error.to_string(),
    };
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(json) else { return Err(error) };
    for unused in ["truncation", "padding"] {
        if value.get(unused).is_some() {
            value[unused] = serde_json::Value::Null;
        }
    }
    value.to_string().parse().map_err(|_| error)
}

/// An error of the `tokenizers` library in the operation `what`.
fn failed(what: &str, e: impl std::fmt::Display) -> Error {
    Error::setting("tokenizer", what, e.to_string())
}

impl Tokenizer {
    /// Learns merges from `texts` until the vocabulary has `vocab_size` entries or no pair is left
    /// to merge.
    ///
    /// The vocabulary starts with the `special` tokens in the given order, then the 256 bytes. The
    /// result depends on the multiset of texts only, not on their order, the number of threads or
    /// hash seeds.
    ///
    /// # Errors
    /// A vocabulary too small for the bytes and the special tokens, or a special token that is
    /// empty, repeated, or an ordinary word that merges can produce (`<|name|>` never is one).
    pub fn train<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
        vocab_size: usize,
        special: &[&str],
    ) -> Result<Self> {
        let texts: Vec<S> = texts.into_iter().collect();
        Self::train_on(&texts.iter().map(AsRef::as_ref).collect::<Vec<_>>(), vocab_size, special)
    }

    fn train_on(texts: &[&str], vocab_size: usize, special: &[&str]) -> Result<Self> {
        let distinct: BTreeSet<_> = special.iter().collect();
        if distinct.len() != special.len() || special.contains(&"") {
            let reason = "must be distinct and not empty";
            return Err(Error::setting("special", format!("{special:?}"), reason));
        }
        let least = 256 + special.len();
        if vocab_size < least {
            let reason = format!("must be at least {least}, for the bytes and the special tokens");
            return Err(Error::setting("vocab_size", vocab_size, reason));
        }
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(special.iter().map(|s| AddedToken::from(*s, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let bytes = || ByteLevel::new(false, true, true);
        let mut inner = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::normalizers::NFC>)
            .with_pre_tokenizer(Some(bytes()))
            .with_post_processor(Some(bytes()))
            .with_decoder(Some(bytes()))
            .build()
            .map_err(|e| failed("build", e))?;
        inner.train(&mut trainer, texts.iter()).map_err(|e| failed("train", e))?;
        let json = inner.to_string(false).map_err(|e| failed("serialise", e))?;
        let tokenizer = Self::from_json(&json).map_err(|e| failed("rebuild", e))?;
        special.iter().try_for_each(|token| tokenizer.encode(token).map(drop))?;
        Ok(tokenizer)
    }

    fn from_json(json: &str) -> Result<Self, String> {
        let mut inner = parsed(json)?;
        // They were saved with the last call of a training script, and would cut or fill texts.
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(bpe) = inner.get_model() {
            if bpe.dropout.is_some() {
                let mut bpe = bpe.clone();
                bpe.dropout = None;
                inner.with_model(bpe);
            }
        }
        inner.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, t)| t.special).map(|(&id, _)| id).collect();
        Ok(Self {
            inner,
            special_ids,
            harmless_ids: BTreeSet::new(),
            end_ids: Vec::new(),
            parsing: OnceLock::new(),
            spaces: OnceLock::new(),
        })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// An unreadable or malformed file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::from_json(&json).map_err(|e| Error::file(path, "tokenizer", e))
    }

    /// Reads the tokenizer of a model checkpoint as Python's `AutoTokenizer` does: `tokenizer.json`
    /// and the tokens that `tokenizer_config.json` and, in older checkpoints,
    /// `special_tokens_map.json` and `added_tokens.json` add to it.
    ///
    /// The `eos_token` that they name is one of [`Tokenizer::end_ids`].
    ///
    /// # Errors
    /// An unreadable or malformed file, by its field; a token whose id is not the one that the
    /// files give it.
    pub fn open(source: &Source) -> Result<Self> {
        let SourceText { path, text } = source.required_text("tokenizer.json")?;
        let tokenizer = Self::from_json(&text);
        let mut tokenizer = tokenizer.map_err(|e| Error::file(path, "tokenizer", e))?;
        tokenizer.add(&AddedTokens::read(source)?)?;
        Ok(tokenizer)
    }

    /// Adds tokens in transformers' order.
    fn add(&mut self, added: &AddedTokens) -> Result<()> {
        let named = || added.named.iter().map(|(_, named)| named);
        let mut additions = added.listed.clone();
        for addition in &mut additions {
            let text = &addition.token.content;
            addition.token.special |= named().any(|named| named.token.content == *text);
            addition.token.special |= self.is_special(text);
        }
        let before = self.inner.get_added_tokens_decoder();
        for addition in named().chain(&added.extra) {
            let text = &addition.token.content;
            let known = before.values().any(|token| token.content == *text)
                || additions.iter().any(|other| other.token.content == *text);
            if !known {
                additions.push(addition.clone());
            }
        }
        let tokens = additions.iter().map(|addition| addition.token.clone());
        self.inner.add_tokens(tokens).map_err(|e| failed("add tokens", e))?;
        for addition in &additions {
            let id = self.inner.token_to_id(&addition.token.content);
            if let (Some(given), Some(id)) = (addition.id, id) {
                if given != id {
                    let reason = format!("the file gives it the id {given}, but it has {id}");
                    return Err(addition.error(&reason));
                }
            }
        }
        let special = named().chain(&added.extra).chain(&added.listed);
        let ids = special
            .filter(|addition| addition.token.special)
            .filter_map(|addition| self.inner.token_to_id(&addition.token.content));
        self.make_special(&ids.collect::<Vec<_>>())?;
        let eos = added.eos().and_then(|eos| self.inner.token_to_id(&eos.token.content));
        self.end_ids.extend(eos);
        self.find_harmless(added)
    }

    fn is_special(&self, token: &str) -> bool {
        self.inner.token_to_id(token).is_some_and(|id| self.special_ids.contains(&id))
    }

    /// Makes added tokens special; ids of other tokens stay what they are.
    fn make_special(&mut self, ids: &[u32]) -> Result<()> {
        let added = self.inner.get_added_tokens_decoder();
        let tokens: Vec<AddedToken> =
            ids.iter().filter_map(|id| added.get(id)).map(|t| t.clone().special(true)).collect();
        self.special_ids.extend(ids.iter().filter(|id| added.contains_key(id)));
        self.inner.add_tokens(tokens).map_err(|e| failed("add tokens", e))?;
        self.parsing = OnceLock::new();
        Ok(())
    }

    /// Finds the special tokens that any text may hold: the one of unknown characters, and padding
    /// that is an ordinary word, such as `!`.
    fn find_harmless(&mut self, added: &AddedTokens) -> Result<()> {
        for (name, Addition { token, .. }) in &added.named {
            let Some(id) = self.inner.token_to_id(&token.content) else { continue };
            if self.end_ids.contains(&id) || !added.is_filler(&token.content) {
                continue;
            }
            let text = &*token.content;
            let ids = self.inner.encode_fast(text, false).map_err(|e| failed("encode", e))?;
            if name == "unk_token" || ids.get_ids() == [id] {
                self.harmless_ids.insert(id);
            }
        }
        Ok(())
    }

    /// The same tokenizer, in which the tokens `ids` end a turn too.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn ending_at(mut self, ids: &[u32]) -> Result<Self> {
        self.make_special(ids)?;
        for &id in ids {
            self.harmless_ids.remove(&id);
            if !self.end_ids.contains(&id) {
                self.end_ids.push(id);
            }
        }
        Ok(self)
    }

    /// Ids that end a turn: that of the `eos_token`, and those of [`Tokenizer::ending_at`].
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Writes `tokenizer.json` atomically; equal tokenizers give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic_write(path, self.json()?.as_bytes())
    }

    /// The text of `tokenizer.json`.
    pub(crate) fn json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|e| failed("serialise", e))
    }

    /// Number of entries, including special tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Requires every id to be in the model's vocabulary.
    ///
    /// # Errors
    /// A vocabulary larger than the model's.
    pub fn check_fits(&self, config: &DecoderConfig) -> Result<()> {
        let vocabulary = self.inner.get_vocab(true);
        let Some((token, &id)) = vocabulary.iter().max_by_key(|(_, &id)| id) else { return Ok(()) };
        if (id as usize) < config.vocab_size {
            return Ok(());
        }
        let reason =
            format!("the tokenizer does not fit: its token `{token}` has the id {id}, the largest");
        Err(Error::setting("vocab_size", config.vocab_size, reason))
    }

    /// Returns the id of a special token.
    ///
    /// # Errors
    /// A token that is not special.
    pub fn special_id(&self, token: &str) -> Result<u32> {
        let id = self.inner.token_to_id(token).filter(|id| self.special_ids.contains(id));
        id.ok_or_else(|| Error::setting("token", token, "the tokenizer has no such special token"))
    }

    /// Encodes plain text; the name of a special token is encoded as ordinary characters.
    ///
    /// # Errors
    /// A vocabulary that lacks some byte, or merges that produce a special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| failed("encode", e))?;
        let special = |id: &&u32| self.special_ids.contains(id) && !self.harmless_ids.contains(id);
        match encoding.get_ids().iter().find(special) {
            Some(id) => {
                Err(Error::setting("text", text, format!("merges produce the special token {id}")))
            }
            None => Ok(encoding.get_ids().to_vec()),
        }
    }

    /// Names and ids of the added tokens that are special, or of the others; the longest first.
    pub(crate) fn added_tokens(&self, special: bool) -> Vec<(String, u32)> {
        let added = self.inner.get_added_tokens_decoder();
        let mut tokens: Vec<_> = (added.iter())
            .filter(|(id, _)| self.special_ids.contains(id) == special)
            .map(|(&id, token)| (token.content.clone(), id))
            .collect();
        tokens.sort_by_key(|(token, id)| (std::cmp::Reverse(token.len()), *id));
        tokens
    }

    /// Names of the special tokens, the longest first.
    pub(crate) fn special_tokens(&self) -> Vec<String> {
        let mut tokens: Vec<_> =
            self.special_ids.iter().filter_map(|&id| self.inner.id_to_token(id)).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        tokens
    }

    /// Encodes text in which names of special tokens become tokens: for rendered chat templates,
    /// never for the text of an environment.
    ///
    /// # Errors
    /// A vocabulary that lacks some byte.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        let parsing = self.parsing.get_or_init(|| {
            let mut parsing = Box::new(self.inner.clone());
            parsing.set_encode_special_tokens(false);
            parsing
        });
        let encoding = parsing.encode_fast(text, false).map_err(|e| failed("encode", e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes of every id's text, empty for unused ids; a special token's bytes are those of its
    /// name.
    pub fn token_bytes(&self) -> Vec<Vec<u8>> {
        let count = self.inner.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        let added = self.inner.get_added_tokens_decoder();
        let bytes = |id: u32| match (added.get(&id), self.inner.id_to_token(id)) {
            (Some(token), _) => token.content.clone().into_bytes(),
            (None, Some(piece)) => piece_bytes(&piece),
            (None, None) => Vec::new(),
        };
        (0..count).map(bytes).collect()
    }

    /// Returns true if a token has this id. Models often have more ids than their tokenizers.
    pub fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// Decodes token ids, skipping special tokens; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| !self.has(id)) {
            let reason = format!("the vocabulary has {} entries", self.vocab_size());
            return Err(Error::setting("id", id, reason));
        }
        self.inner.decode(ids, true).map_err(|e| failed("decode", e))
    }
}

/// The bytes of a vocabulary entry. Byte-level BPE writes every byte as a letter; SentencePiece
/// writes a space as `▁` and a single byte as `<0xNN>`.
fn piece_bytes(piece: &str) -> Vec<u8> {
    if let Some(bytes) = piece.chars().map(byte_of_letter).collect() {
        return bytes;
    }
    let byte = piece
        .strip_prefix("<0x")
        .and_then(|rest| u8::from_str_radix(rest.strip_suffix('>')?, 16).ok());
    byte.map_or_else(|| piece.replace('▁', " ").into_bytes(), |byte| vec![byte])
}

/// The byte that byte-level BPE writes as `letter`: printable bytes stand for themselves, the
/// others start at U+0100.
fn byte_of_letter(letter: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match u32::from(letter) {
        code @ 0..=255 => u8::try_from(code).ok().filter(|&b| printable(b)),
        code => (0..=255u8).filter(|&b| !printable(b)).nth((code - 256) as usize),
    }
}
