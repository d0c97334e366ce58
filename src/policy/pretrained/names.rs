//! The names of stored parameters, without what training frameworks add to them.

/// Parts that wrappers of modules add anywhere in a name.
const WRAPPERS: &[&str] =
    &["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// Parts that may stand before a decoder's own names.
const OUTER: &[&str] = &["base_model", "language_model", "model", "module"];

/// Hugging Face's name of a stored parameter: `model.norm.weight` for `norm.weight`,
/// `_orig_mod.model.norm.weight`, `module.model.model.norm.weight` and the like. Other names stay
/// as they are.
pub(crate) fn standard_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let outer = parts.iter().take_while(|part| OUTER.contains(part)).count();
    let inner = parts[outer..].join(".");
    match parts.get(outer) {
        Some(&"embed_tokens" | &"layers" | &"norm") => format!("model.{inner}"),
        Some(&"lm_head") => inner,
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_prefixes_are_removed_and_other_names_kept() {
        for (stored, standard) in [
            ("model.norm.weight", "model.norm.weight"),
            ("norm.weight", "model.norm.weight"),
            ("model.model.norm.weight", "model.norm.weight"),
            ("_orig_mod.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("model.layers.0._orig_mod.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("module._orig_mod.layers.3.x", "model.layers.3.x"),
            ("base_model.model.model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("module.lm_head.weight", "lm_head.weight"),
            ("model.visual.norm.weight", "model.visual.norm.weight"),
            ("transformer.h.0.weight", "transformer.h.0.weight"),
            ("model", "model"),
            ("", ""),
        ] {
            assert_eq!(standard_name(stored), standard);
            assert_eq!(standard_name(standard), standard);
        }
    }
}
