//! The programs that this crate is compared with.

use anyhow::{bail, Context, Result};

use crate::common::python_of;
use crate::contestant::{Contestant, Variables};
use crate::format::Format;
use crate::models::Models;

/// A program that this crate is compared with.
pub(crate) struct Rival {
    script: &'static str,
    /// The variable that names its interpreter.
    interpreter: &'static str,
    /// Its counterpart of a format.
    format: fn(Format) -> &'static str,
    /// It reads a GGUF file.
    gguf: bool,
}

pub(crate) const SAMPLERS: [Rival; 3] = [
    Rival {
        script: "llm_llamacpp.py",
        interpreter: "EPO_PYTHON_LLAMA",
        format: Format::of_llama,
        gguf: true,
    },
    Rival {
        script: "llm_vllm.py",
        interpreter: "EPO_PYTHON_VLLM",
        format: Format::of_torch,
        gguf: false,
    },
    Rival {
        script: "llm_transformers.py",
        interpreter: "EPO_PYTHON",
        format: Format::of_torch,
        gguf: false,
    },
];
pub(crate) const TRAINERS: [Rival; 1] = [Rival {
    script: "llm_peft.py",
    interpreter: "EPO_PYTHON",
    format: Format::of_torch,
    gguf: false,
}];

impl Rival {
    /// Names the script and the variable of its interpreter.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.script, self.interpreter)
    }

    /// Starts the rival.
    pub(crate) fn start(
        &self,
        variables: &Variables,
        setting: &str,
        format: Format,
        models: &Models,
    ) -> Result<Contestant> {
        let model = match &models.gguf {
            Some(gguf) if self.gguf => gguf,
            None if self.gguf => bail!("EPO_BENCH_MODEL is not a GGUF file"),
            _ => &models.folder,
        };
        let log = models.temporary.join("stderr");
        let mut command = python_of(self.interpreter, self.script);
        command.arg(model).arg((self.format)(format)).envs(variables.iter().copied());
        command.stderr(std::fs::File::create(&log)?);
        Contestant::start(&mut command, setting).with_context(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.lines().last().unwrap_or("no message").to_owned()
        })
    }
}
