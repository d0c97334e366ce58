//! The pieces of work that all sides do.

/// A piece of work, the same for all sides.
pub(crate) struct Task {
    pub(crate) word: &'static str,
    pub(crate) rows: usize,
    pub(crate) prompt: usize,
    /// New tokens per row; 0 for an update.
    pub(crate) new: usize,
}

impl Task {
    pub(crate) fn is_update(&self) -> bool {
        self.new == 0
    }

    /// A shorter task of the same kind.
    pub(crate) fn trial(&self) -> Self {
        if self.is_update() {
            Self { rows: 1, ..*self }
        } else {
            Self { prompt: 64, new: 8, ..*self }
        }
    }

    pub(crate) fn title(&self) -> String {
        let Self { word, rows, prompt, new } = self;
        match *new {
            0 => format!("{word}, {rows} rows of {prompt} tokens"),
            1 => format!("{word}, {rows} prompts of {prompt} tokens"),
            _ => format!("{word}, {rows} sequences of {prompt} + {new} tokens"),
        }
    }

    /// The tokens that count for tokens per second.
    pub(crate) fn tokens(&self) -> usize {
        self.rows * if self.new > 1 { self.new } else { self.prompt }
    }
}

pub(crate) const SAMPLING: [Task; 3] = [
    Task { word: "decode", rows: 16, prompt: 64, new: 64 },
    Task { word: "decode", rows: 16, prompt: 256, new: 64 },
    Task { word: "prefill", rows: 16, prompt: 512, new: 1 },
];
pub(crate) const UPDATE: [Task; 1] = [Task { word: "update", rows: 8, prompt: 1024, new: 0 }];
/// The longest sequence of a task.
pub(crate) const CONTEXT: usize = 1024;
