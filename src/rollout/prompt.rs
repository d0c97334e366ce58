//! Prompts as token ids, in a small policy's markup or as a chat, and demonstrations in the same
//! form.

use crate::env::{Demonstration, Start};
use crate::policy::places::Place;
use crate::policy::sampling::StopStrings;
use crate::policy::tokenizer::Tokenizer;
use crate::policy::trie::TokenTrie;
use crate::rollout::action::{Action, ActionFormat, TAGS};
use crate::rollout::layout::KeepsSpace;
use crate::rollout::rows::{DemonstrationRow, Row};
use crate::{Error, Result};

/// The tokens that structure a prompt, in the order of their ids: padding, goal, observation,
/// action, end of action. Text from an environment never encodes to them.
pub const SPECIAL_TOKENS: [&str; 5] =
    ["<|pad|>", "<|goal|>", "<|observation|>", "<|action|>", "<|end|>"];

/// Converts texts into prompt ids, and sampled ids into action text.
///
/// A small policy's prompt ([`Prompter::new`]) is `goal, text, observation, text, action` in the
/// first turn and `observation, text, action` in later ones. A model checkpoint's prompt follows
/// its chat template ([`Prompter::chat`]). The policy responds with the action's tokens and `end`.
/// Sampled tokens are never tokenised again.
#[derive(Debug, Clone)]
pub struct Prompter {
    tokenizer: Tokenizer,
    frame: Frame,
    format: ActionFormat,
    max_observation_tokens: usize,
    /// Ids that end an action, that of the frame first.
    end_ids: Vec<u32>,
    /// Tags of the format that are special tokens, with their ids.
    tags: Vec<(&'static str, u32)>,
}

/// The fixed ids around the texts of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    /// Before the goal.
    pub(crate) goal: Vec<u32>,
    /// Between the goal and the first observation.
    pub(crate) first: Vec<u32>,
    /// Before a later observation.
    pub(crate) later: Vec<u32>,
    /// After an observation: the start of the policy's turn.
    pub(crate) action: Vec<u32>,
    /// After an action that did not end with `end`: `end`, and what the template writes before it.
    pub(crate) closing: Vec<u32>,
    /// End of the policy's turn.
    pub(crate) end: u32,
    /// Append `closing` to an action that was cut off.
    pub(crate) closes: bool,
    /// The text at the end of a prompt that belongs to the answer.
    pub(crate) opening: String,
    /// White space before the texts of a prompt.
    pub(crate) leads: Leads,
    /// Where white space stays.
    pub(crate) keeps_space: KeepsSpace,
    /// Where the texts of a prompt stand.
    pub(crate) places: Places,
}

/// White space of the template before the texts of a prompt, tokenised together with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Leads {
    pub(crate) goal: String,
    pub(crate) observation: String,
    /// Before an action of a demonstration or a list; a policy samples it.
    pub(crate) answer: String,
}

/// Where the texts of a prompt stand, for tokenizers that begin a text with a space.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Places {
    pub(crate) goal: Place,
    pub(crate) observation: Place,
    pub(crate) answer: Place,
}

impl Prompter {
    /// Creates a small policy's prompter, which keeps the first `max_observation_tokens` tokens of
    /// each observation.
    ///
    /// # Errors
    /// The tokenizer lacks one of [`SPECIAL_TOKENS`], or the limit is 0.
    pub fn new(tokenizer: Tokenizer, max_observation_tokens: usize) -> Result<Self> {
        let [_, goal, observation, action, end] =
            SPECIAL_TOKENS.map(|token| tokenizer.special_id(token));
        let observation = observation?;
        let end = end?;
        let frame = Frame {
            goal: vec![goal?],
            first: vec![observation],
            later: vec![observation],
            action: vec![action?],
            closing: vec![end],
            end,
            closes: false,
            opening: String::new(),
            leads: Leads::default(),
            keeps_space: KeepsSpace::ALL,
            places: Places { goal: Place::Start, observation: Place::Start, answer: Place::Start },
        };
        Self::framed(tokenizer, frame, ActionFormat::Plain, max_observation_tokens)
    }

    pub(crate) fn framed(
        tokenizer: Tokenizer,
        frame: Frame,
        format: ActionFormat,
        max_observation_tokens: usize,
    ) -> Result<Self> {
        if max_observation_tokens == 0 {
            return Err(Error::setting("rollout.max_observation_tokens", 0, "must be at least 1"));
        }
        let mut end_ids = vec![frame.end];
        end_ids.extend(tokenizer.end_ids().iter().filter(|&&id| id != frame.end));
        let special = |tag: &'static str| Some((tag, tokenizer.special_id(tag).ok()?));
        let tags = TAGS.into_iter().filter_map(special).collect();
        Ok(Self { tokenizer, frame, format, max_observation_tokens, end_ids, tags })
    }

    /// The ids of the first turn's prompt.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn start(&self, start: &Start) -> Result<Vec<u32>> {
        let Frame { goal, first, leads, keeps_space, places, closes, .. } = &self.frame;
        let observation = self.trimmed_end(&start.observation);
        let mut text = &*start.goal;
        if !keeps_space.goal {
            text = text.trim_start();
        }
        let mut first = &first[..];
        if observation.is_empty() && !keeps_space.trailing {
            // The message ends with the goal.
            text = text.trim_end();
            first = &[];
        }
        let text = self.tokenizer.encode_at(&format!("{}{text}", leads.goal), places.goal)?;
        // In a chat the first observation is in the goal's message.
        let place = if *closes { Place::Inside } else { places.observation };
        let observation = self.observed(first, observation, place)?;
        Ok([&goal[..], &text, &observation].concat())
    }

    /// The ids of a later turn's prompt: the environment's response.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn observation(&self, text: &str) -> Result<Vec<u32>> {
        let Frame { later, leads, keeps_space, places, .. } = &self.frame;
        let text = self.trimmed_end(text);
        let text = if keeps_space.leading { text } else { text.trim_start() };
        self.observed(later, &format!("{}{text}", leads.observation), places.observation)
    }

    /// A text without the white space that the template takes from its end.
    fn trimmed_end<'t>(&self, text: &'t str) -> &'t str {
        if self.frame.keeps_space.trailing {
            text
        } else {
            text.trim_end()
        }
    }

    /// [`Prompter::observation`] after a sampled action. If the action was cut off, or ended with
    /// another token than the one that ends a message, that one precedes it.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn after_action(&self, action: &[u32], text: &str) -> Result<Vec<u32>> {
        let ids = self.observation(text)?;
        if self.frame.closes && action.last() != Some(&self.frame.end) {
            return Ok([&self.frame.closing[..], &ids].concat());
        }
        Ok(ids)
    }

    fn observed(&self, before: &[u32], text: &str, place: Place) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode_at(text, place)?;
        ids.truncate(self.max_observation_tokens);
        Ok([before, &ids, &self.frame.action].concat())
    }

    /// The ids with which a policy takes `action` after a prompt, and ends its turn.
    fn answer(&self, action: &str) -> Result<Vec<u32>> {
        let Frame { opening, leads, .. } = &self.frame;
        let text = format!("{}{}", leads.answer, self.format.written_after(opening, action));
        let mut ids = Vec::new();
        let mut rest = &*text;
        let mut place = self.frame.places.answer;
        loop {
            let found = self.tags.iter().filter_map(|&(tag, id)| Some((rest.find(tag)?, tag, id)));
            let Some((at, tag, id)) = found.min_by_key(|&(at, ..)| at) else { break };
            if at > 0 {
                ids.extend(self.tokenizer.encode_at(&rest[..at], place)?);
            }
            ids.push(id);
            rest = &rest[at + tag.len()..];
            place = Place::AfterToken;
        }
        ids.extend(self.tokenizer.encode_at(rest, place)?);
        ids.extend(&self.frame.closing);
        Ok(ids)
    }

    /// The token sequences of `actions`, each with its end token.
    ///
    /// # Errors
    /// The tokenizer failed, or there is no action.
    pub fn choices(&self, actions: &[String]) -> Result<TokenTrie> {
        let sequences = actions.iter().map(|action| self.answer(action));
        TokenTrie::new(sequences.collect::<Result<Vec<_>>>()?)
    }

    /// The action in the sampled ids up to the first end token; ids unknown to the tokenizer are
    /// skipped.
    ///
    /// If the template's prompt has begun the answer, as with `<think>`, the two are judged
    /// together.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn action(&self, ids: &[u32]) -> Result<Action> {
        let n = ids.iter().position(|id| self.end_ids.contains(id)).unwrap_or(ids.len());
        let mut text = String::new();
        // Special tokens are not part of a text, except the format's own tags.
        let is_tag = |id: &u32| self.tags.iter().find(|(_, tag)| tag == id);
        for piece in ids[..n].split_inclusive(|id| is_tag(id).is_some()) {
            let known = piece.iter().copied().filter(|&id| self.tokenizer.has(id));
            text += &self.tokenizer.decode(&known.collect::<Vec<_>>())?;
            text += piece.last().and_then(is_tag).map_or("", |(tag, _)| tag);
        }
        Ok(self.format.read_after(&self.frame.opening, &text))
    }

    /// The texts that end an action, besides its end token.
    ///
    /// # Errors
    /// An empty stop text; no format has one.
    pub fn stop_strings(&self) -> Result<Option<StopStrings>> {
        match self.format.stop_strings() {
            [] => Ok(None),
            strings => StopStrings::new(self.tokenizer.token_bytes().into(), strings).map(Some),
        }
    }

    /// The training row of a demonstration: all its tokens, with those of the imitated actions and
    /// their end tokens marked.
    ///
    /// # Errors
    /// The tokenizer failed, or the demonstration has no action to imitate.
    pub fn demonstration(
        &self,
        demo: &Demonstration,
        trajectory: usize,
    ) -> Result<DemonstrationRow> {
        let mut ids = self.start(&demo.start)?;
        let mut imitated = Vec::new();
        let mut turns = Vec::new();
        for (i, turn) in demo.turns.iter().enumerate() {
            if i > 0 {
                ids.extend(self.observation(&demo.turns[i - 1].step.observation)?);
            }
            imitated.resize(ids.len(), false);
            ids.extend(self.answer(&turn.action)?);
            imitated.resize(ids.len(), turn.imitated);
            turns.resize(ids.len(), i as u32);
        }
        if !imitated.contains(&true) {
            let at = format!("{} has no action to imitate", demo.task);
            return Err(Error::EmptyMask { name: "demonstration", at });
        }
        let positions = (1..ids.len() as u32).collect();
        let turns = turns.split_off(1);
        let row = Row { ids, positions, turns, trajectory, ..Row::default() };
        Ok(DemonstrationRow { row, imitated: imitated.split_off(1) })
    }

    /// The id that ends an action in prompts and demonstrations.
    pub fn end_id(&self) -> u32 {
        self.frame.end
    }

    /// All ids that end an action when they are sampled, [`Prompter::end_id`] first.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The tokenizer in use.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// All texts of a demonstration that occur in prompts or actions, to train a tokenizer on.
pub fn demonstration_texts(demo: &Demonstration) -> impl Iterator<Item = &str> {
    let turns = demo.turns.iter().flat_map(|t| [t.action.as_str(), t.step.observation.as_str()]);
    [demo.start.goal.as_str(), demo.start.observation.as_str()].into_iter().chain(turns)
}
