//! Texts that are tokenised alone but stand inside a longer one.
//!
//! A prompt is built of pieces, and an observation's tokens have to be those of the conversation as
//! a whole. Tokenizers after SentencePiece's manner write a space in front of a text, and some
//! added tokens take the white space around them; both depend on the place of a piece.

use crate::policy::tokenizer::Tokenizer;
use crate::Result;

/// The place of a text inside a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It begins the longer text.
    Start,
    /// After an added token.
    AfterToken,
    /// After other text.
    Inside,
}

/// Where a tokenizer begins a text with a space, as SentencePiece does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spaces {
    at_start: bool,
    /// After an added token too, if at the start.
    after_token: bool,
}

impl Tokenizer {
    /// Encodes plain text at a place of a longer text.
    ///
    /// # Errors
    /// See [`Tokenizer::encode`].
    pub(crate) fn encode_at(&self, text: &str, place: Place) -> Result<Vec<u32>> {
        self.without_space(text, place, |text| self.encode(text))
    }

    /// [`Tokenizer::encode_with_special`] at a place of a longer text.
    ///
    /// # Errors
    /// See [`Tokenizer::encode_with_special`].
    pub(crate) fn encode_template(&self, text: &str, place: Place) -> Result<Vec<u32>> {
        self.without_space(text, place, |text| self.encode_with_special(text))
    }

    /// Encodes a text without the space that some tokenizers begin a text with, unless they also
    /// write one at that place: after a line break, whose ids are removed again.
    fn without_space(
        &self,
        text: &str,
        place: Place,
        encode: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        let adds = match place {
            Place::Start => false,
            Place::AfterToken => self.spaces().at_start && !self.spaces().after_token,
            Place::Inside => self.spaces().at_start,
        };
        if !adds || text.is_empty() {
            return encode(text);
        }
        let line_break = encode("\n")?;
        let ids = encode(&format!("\n{text}"))?;
        match ids.strip_prefix(&line_break[..]) {
            Some(ids) => Ok(ids.to_vec()),
            None => encode(text),
        }
    }

    /// Finds out where the tokenizer begins a text with a space.
    fn spaces(&self) -> Spaces {
        *self.spaces.get_or_init(|| {
            let ids = |text: &str| self.encode_with_special(text).unwrap_or_default();
            let [alone, after_break, line_break] = ["a", "\na", "\n"].map(ids);
            let at_start = after_break.strip_prefix(&line_break[..]).is_some_and(|a| a != alone);
            let token = self.special_tokens().into_iter().next();
            let after_token =
                token.is_some_and(|token| ids(&format!("{token}a")).get(1..) == Some(&alone));
            Spaces { at_start, after_token }
        })
    }

    /// The place of a text that follows `before`.
    pub(crate) fn place_after(&self, before: &str) -> Place {
        let added = self.inner.get_added_tokens_decoder();
        if before.is_empty() {
            Place::Start
        } else if added.values().any(|token| before.ends_with(&token.content))
            || self.takes_space_after(before)
        {
            Place::AfterToken
        } else {
            Place::Inside
        }
    }

    /// Returns true if `before` ends with an added token that takes the white space after it.
    pub(crate) fn takes_space_after(&self, before: &str) -> bool {
        let before = before.trim_end();
        let added = self.inner.get_added_tokens_decoder();
        added.values().any(|token| token.rstrip && before.ends_with(&token.content))
    }

    /// Returns true if `after` begins with an added token that takes the white space before it.
    pub(crate) fn takes_space_before(&self, after: &str) -> bool {
        let after = after.trim_start();
        let added = self.inner.get_added_tokens_decoder();
        added.values().any(|token| token.lstrip && after.starts_with(&token.content))
    }
}
