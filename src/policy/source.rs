//! Sources of model checkpoints: folders, GGUF files, published models by name, and repositories on
//! the Hugging Face Hub.

use crate::policy::files::check_content;
use crate::policy::gguf::file::GgufFile;
use crate::policy::gguf::texts;
#[cfg(feature = "hub")]
use crate::policy::hub::Hub;
use crate::policy::named;
use crate::{Error, Result};
#[cfg(feature = "text")]
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::{Path, PathBuf};

/// The place a model checkpoint is read from: a folder, a GGUF file or, with the feature `hub`, a
/// repository on the Hugging Face Hub.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(GgufFile),
    /// A repository on the Hub.
    #[cfg(feature = "hub")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
    Hub(Hub),
}

impl Source {
    /// The folder or GGUF file called `name`; or else, with the feature `models`, the published
    /// model of that name, which is downloaded once; or else, with the feature `hub`, the
    /// repository `owner/name`.
    ///
    /// # Errors
    /// A name that is none of these; a file that is not GGUF or damaged; a published model that
    /// cannot be downloaded.
    pub fn open(name: &str) -> Result<Self> {
        let mut path = PathBuf::from(name);
        if !path.exists() {
            path = named::file(name)?.unwrap_or(path);
        }
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if GgufFile::is_one(&path) {
            return GgufFile::open(path).map(Self::Gguf);
        }
        if path.exists() {
            let reason = "is a file, but not GGUF: give the folder that holds the model checkpoint";
            return Err(Error::setting("model.source", name, reason));
        }
        #[cfg(feature = "hub")]
        if Hub::is_repository_name(name) {
            return Ok(Self::Hub(Hub::new(name)));
        }
        Err(Error::setting(
            "model.source",
            name,
            format!("no such folder or file; {}", known(name)),
        ))
    }

    /// Returns the path of an optional file, or `None` if the source does not have it. A GGUF file
    /// has no other files.
    ///
    /// # Errors
    /// A Hub that cannot be reached; a file of a folder that is a broken link, a pointer of Git LFS
    /// or a web page.
    pub fn optional_file(&self, name: &str) -> Result<Option<PathBuf>> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                if path.is_file() {
                    check_content(&path)?;
                    return Ok(Some(path));
                }
                match path.read_link() {
                    Ok(target) => {
                        let reason = format!("is a link to {target:?}, where there is no file");
                        Err(Error::file(path, "link", reason))
                    }
                    Err(_) => Ok(None),
                }
            }
            Self::Gguf(_) => Ok(None),
            #[cfg(feature = "hub")]
            Self::Hub(hub) => {
                let path = hub.get(name)?;
                path.as_deref().map_or(Ok(()), check_content)?;
                Ok(path)
            }
        }
    }

    /// Reads an optional text file. Those of a GGUF file are made from its metadata.
    ///
    /// # Errors
    /// As [`Source::optional_file`]; metadata that is missing, malformed or not supported.
    #[cfg(feature = "text")]
    pub(crate) fn text(&self, name: &str) -> Result<Option<SourceText>> {
        if let Self::Gguf(file) = self {
            let path = file.path().to_path_buf();
            return Ok(texts::text(&file.header, name)?.map(|text| SourceText { path, text }));
        }
        self.optional_file(name)?.map(SourceText::read).transpose()
    }

    /// Reads a required text file.
    ///
    /// # Errors
    /// As [`Source::text`], and a missing file.
    #[cfg(feature = "text")]
    pub(crate) fn required_text(&self, name: &str) -> Result<SourceText> {
        match self.text(name)? {
            Some(text) => Ok(text),
            None => self.file(name).and_then(SourceText::read),
        }
    }

    /// Names and texts of the chat templates in `additional_chat_templates`, sorted by name. Of a
    /// repository on the Hub only `tool_use` is read, the one that transformers chooses by itself.
    ///
    /// # Errors
    /// A folder that cannot be listed, or a Hub that cannot be reached.
    pub(crate) fn additional_templates(&self) -> Result<Vec<(String, SourceText)>> {
        let paths = match self {
            Self::Folder(folder) => jinja_files(&folder.join(TEMPLATES))?,
            Self::Gguf(file) => {
                let templates = texts::additional_templates(&file.header)?.into_iter();
                let path = file.path();
                let named = |(name, text)| (name, SourceText { path: path.to_path_buf(), text });
                return Ok(templates.map(named).collect());
            }
            #[cfg(feature = "hub")]
            Self::Hub(hub) => {
                let path = hub.get(&format!("{TEMPLATES}/tool_use.jinja"))?;
                path.into_iter().map(|path| ("tool_use".to_owned(), path)).collect()
            }
        };
        paths.into_iter().map(|(name, path)| Ok((name, SourceText::read(path)?))).collect()
    }

    /// Returns the path of a required file.
    ///
    /// # Errors
    /// A missing file, or a Hub that cannot be reached.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        match (self.optional_file(name)?, self) {
            (Some(path), _) => Ok(path),
            (None, Self::Folder(folder)) => {
                Err(Error::io(folder.join(name), std::io::ErrorKind::NotFound.into()))
            }
            (None, Self::Gguf(file)) => Err(Error::file(file.path(), name, "is not in the file")),
            #[cfg(feature = "hub")]
            (None, Self::Hub(hub)) => Err(hub.missing(name)),
        }
    }
}

/// A text of a source.
#[derive(Debug, Clone)]
pub(crate) struct SourceText {
    /// The file that it is in, for errors.
    #[cfg_attr(not(feature = "text"), allow(dead_code))]
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl SourceText {
    fn read(path: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self { path, text })
    }

    /// Parses the text as JSON.
    ///
    /// # Errors
    /// The file and the place of the first error.
    #[cfg(feature = "text")]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.text).map_err(|e| Error::file(&self.path, "json", e.to_string()))
    }
}

/// The names that would be known in the place of `name`: a repository has a slash, a published
/// model has none.
fn known(name: &str) -> String {
    match (name.contains('/'), cfg!(feature = "hub")) {
        (true, true) => "a repository of the Hub has the form owner/name".to_owned(),
        (true, false) => "downloads from the Hub need the feature `hub`".to_owned(),
        (false, _) => named::known(),
    }
}

/// Folder of the chat templates for special uses.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// Stems and paths of the `.jinja` files in a folder that may not exist.
fn jinja_files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        match stem {
            Some(stem) if path.extension().is_some_and(|end| end == "jinja") => {
                files.push((stem, path));
            }
            _ => {}
        }
    }
    files.sort();
    Ok(files)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Gguf(file) => file.path().display().fmt(f),
            #[cfg(feature = "hub")]
            Self::Hub(hub) => write!(f, "{} at {}", hub.repo, hub.revision),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(folder: P) -> Self {
        Self::Folder(folder.into())
    }
}

impl From<GgufFile> for Source {
    fn from(file: GgufFile) -> Self {
        Self::Gguf(file)
    }
}

#[cfg(feature = "hub")]
impl From<Hub> for Source {
    fn from(hub: Hub) -> Self {
        Self::Hub(hub)
    }
}
