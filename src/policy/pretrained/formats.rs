//! Advice for folders that hold a model in another form than this crate reads.

use crate::policy::source::Source;
use crate::{Error, Result};
use std::path::Path;

/// The configuration of a LoRA adapter in PEFT's layout.
const ADAPTER: &str = "adapter_config.json";

/// Refuses a source that holds a LoRA adapter: transformers would load its base model instead.
pub(crate) fn refuse_adapter(source: &Source) -> Result<()> {
    let Some(path) = source.optional_file(ADAPTER)? else { return Ok(()) };
    let field = "base_model_name_or_path";
    let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
    let base = match json[field].as_str() {
        Some(base) => format!(" ({base:?})"),
        None => String::new(),
    };
    let reason = format!(
        "this is a LoRA adapter, not a model: open its base model{base} and add the adapter with \
         Parameters::load_adapter, or merge both with PEFT's merge_and_unload() and \
         save_pretrained()"
    );
    Err(Error::file(path, field, reason))
}

/// The error for a source without `wanted`, with advice if it has the model in another form.
pub(crate) fn missing(source: &Source, wanted: &str) -> Error {
    let advice = match source {
        Source::Folder(folder) => advice(folder),
        Source::Gguf(_) => None,
        #[cfg(feature = "hub")]
        Source::Hub(_) => None,
    };
    let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
    Error::setting("model.source", source, format!("has no {wanted}{advice}"))
}

/// Advice for a folder with other files.
fn advice(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let find = |fits: &dyn Fn(&str) -> bool| names.iter().find(|name| fits(name.as_str()));
    if let Some(name) = find(&|name| name.ends_with(".gguf")) {
        let path = folder.join(name);
        return Some(format!("name the GGUF file itself: {}", path.display()));
    }
    let other = |name: &str| {
        let torch = name.starts_with("pytorch_model") && name.ends_with(".bin");
        torch || name == "tf_model.h5" || name == "flax_model.msgpack"
    };
    if let Some(name) = find(&other) {
        return Some(format!(
            "{name} is not safetensors: convert the folder in Python with \
             AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT)"
        ));
    }
    if let Some(name) = find(&|name| name.starts_with("consolidated") || name.ends_with(".pth")) {
        return Some(format!(
            "{name} has the layout of the model's authors: convert it with transformers, or use \
             the model's release in Hugging Face's layout"
        ));
    }
    if let Some(name) = find(&|name| name.ends_with(".safetensors")) {
        return Some(format!(
            "it has {name}, which must be called model.safetensors or be listed in \
             model.safetensors.index.json"
        ));
    }
    let inner = find(&|name| folder.join(name).join("config.json").exists());
    let snapshot = || {
        let snapshots = std::fs::read_dir(folder.join("snapshots")).ok()?.flatten().next()?;
        Some(format!("snapshots/{}", snapshots.file_name().to_string_lossy()))
    };
    let inner = inner.cloned().or_else(snapshot)?;
    Some(format!("the model may be in its folder {inner}"))
}
