//! The command that a player types for each operator.

use rustc_hash::FxHashMap;

use crate::env::alfworld::engine::key::Key;
use crate::env::alfworld::engine::operators::Operators;
use crate::env::alfworld::engine::text::Writer;
use crate::env::alfworld::error::Result;
use crate::env::alfworld::grammar::rules::Grammar;

/// The distinct commands of a game.
#[derive(Default)]
pub(crate) struct Commands {
    pub(crate) texts: Vec<Box<str>>,
    /// The command of each operator, as an index into `texts`.
    pub(crate) of: Vec<u32>,
}

impl Commands {
    /// Writes the command of every operator.
    ///
    /// Operators of one action that agree in the parameters named by its template share a command.
    pub(crate) fn write(
        writer: &mut Writer,
        grammar: &Grammar,
        operators: &Operators,
    ) -> Result<Self> {
        let mut of = Vec::with_capacity(operators.len());
        let mut by_inputs: FxHashMap<Key, u32> = FxHashMap::default();
        let mut by_text: FxHashMap<Box<str>, u32> = FxHashMap::default();
        for (args, &action) in operators.args.rows().zip(&operators.actions) {
            let texts = &grammar.actions[usize::from(action)];
            let inputs = Key::new(action, texts.named.iter().map(|&i| args[i]));
            let command = match by_inputs.get(&inputs) {
                Some(&known) => known,
                None => {
                    let command = number(&mut by_text, writer.write_command(texts, args)?);
                    by_inputs.insert(inputs, command);
                    command
                }
            };
            of.push(command);
        }
        let mut texts = vec![Box::default(); by_text.len()];
        for (text, command) in by_text {
            texts[command as usize] = text;
        }
        Ok(Self { texts, of })
    }
}

/// Returns the number of a text, adding it if it is new.
fn number(by_text: &mut FxHashMap<Box<str>, u32>, text: &str) -> u32 {
    if let Some(&known) = by_text.get(text) {
        return known;
    }
    let next = by_text.len() as u32;
    by_text.insert(text.into(), next);
    next
}
