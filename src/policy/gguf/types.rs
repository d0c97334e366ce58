//! The element types of tensors in GGUF files.

use candle_core::quantized::GgmlDType;

/// Ids and names of all types, with candle's type for those that it reads.
pub(crate) const TYPES: &[(u32, &str, Option<GgmlDType>)] = &[
    (0, "F32", Some(GgmlDType::F32)),
    (1, "F16", Some(GgmlDType::F16)),
    (2, "Q4_0", Some(GgmlDType::Q4_0)),
    (3, "Q4_1", Some(GgmlDType::Q4_1)),
    (6, "Q5_0", Some(GgmlDType::Q5_0)),
    (7, "Q5_1", Some(GgmlDType::Q5_1)),
    (8, "Q8_0", Some(GgmlDType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(GgmlDType::Q2K)),
    (11, "Q3_K", Some(GgmlDType::Q3K)),
    (12, "Q4_K", Some(GgmlDType::Q4K)),
    (13, "Q5_K", Some(GgmlDType::Q5K)),
    (14, "Q6_K", Some(GgmlDType::Q6K)),
    (15, "Q8_K", Some(GgmlDType::Q8K)),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(GgmlDType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
];

/// The type with this id.
///
/// # Errors
/// A type that is not read, by its name.
pub(crate) fn tensor_type(id: u32) -> Result<GgmlDType, String> {
    let known = TYPES.iter().find(|(known, ..)| *known == id);
    if let Some((.., Some(dtype))) = known {
        return Ok(*dtype);
    }
    let name = known.map_or("unknown", |(_, name, _)| name);
    let names: Vec<&str> =
        TYPES.iter().filter(|(.., dtype)| dtype.is_some()).map(|(_, name, _)| *name).collect();
    Err(format!("has type {id} ({name}); these are read: {}", names.join(", ")))
}
