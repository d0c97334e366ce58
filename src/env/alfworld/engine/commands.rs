//! What players type: a command for each operator.

use crate::env::alfworld::engine::index::{hash_text, Index, Key};
use crate::env::alfworld::engine::operators::Operators;
use crate::env::alfworld::error::Result;
use crate::env::alfworld::grammar::rules::Grammar;
use crate::env::alfworld::grammar::text::Writer;
use crate::env::alfworld::grammar::texts::Texts;

/// The commands of a game, each once.
#[derive(Default)]
pub(crate) struct Commands {
    pub(crate) texts: Texts,
    /// The command of each operator.
    pub(crate) of: Vec<u32>,
}

impl Commands {
    /// Writes the commands; those of operators in which the same objects stand are written once.
    pub(crate) fn write(
        writer: &mut Writer,
        grammar: &Grammar,
        operators: &Operators,
    ) -> Result<Self> {
        let count = operators.len();
        let mut commands =
            Self { texts: Texts::with_capacity(count, 24 * count), of: Vec::with_capacity(count) };
        let mut written: Vec<(Key, u32)> = Vec::with_capacity(count);
        let (mut by_inputs, mut by_text) =
            (Index::with_capacity(count), Index::with_capacity(count));
        for (args, &action) in operators.args.rows().zip(&operators.actions) {
            let texts = &grammar.actions[usize::from(action)];
            let inputs = Key::new(action, texts.named.iter().map(|&i| args[i]));
            let command = match by_inputs.find(inputs.hash(), |i| written[i as usize].0 == inputs) {
                Ok(known) => written[known as usize].1,
                Err(slot) => {
                    let command = commands.number(&mut by_text, writer.write_command(texts, args)?);
                    by_inputs.insert(slot, written.len() as u32, |i| written[i as usize].0.hash());
                    written.push((inputs, command));
                    command
                }
            };
            commands.of.push(command);
        }
        commands.texts.shrink();
        Ok(commands)
    }

    /// The number of a text, new or known.
    fn number(&mut self, by_text: &mut Index, text: &str) -> u32 {
        let texts = &self.texts;
        match by_text.find(hash_text(text), |command| texts.get(command as usize) == text) {
            Ok(known) => known,
            Err(slot) => {
                let command = texts.len() as u32;
                self.texts.push(text);
                by_text
                    .insert(slot, command, |command| hash_text(self.texts.get(command as usize)));
                command
            }
        }
    }

    /// How many bytes the commands take.
    pub(crate) fn bytes(&self) -> usize {
        self.texts.bytes() + 4 * self.of.len()
    }
}
