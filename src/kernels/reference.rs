//! Naive double-precision definitions, one row at a time. Every kernel is tested against them.

/// Log-probability of `id` and entropy (nats) of softmax(logits / τ), straight from the definition.
///
/// log p = z_id − ln Σ eᶻ, H = −Σ p ln p with 0 ln 0 = 0; a row of −∞ gives (−∞, 0).
pub fn logprob_entropy(logits: &[f64], id: usize, temperature: f64) -> (f64, f64) {
    let z: Vec<f64> = logits.iter().map(|x| x / temperature).collect();
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return (f64::NEG_INFINITY, 0.0);
    }
    let lse = max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    let entropy =
        z.iter().map(|x| x - lse).filter(|lp| lp.is_finite()).map(|lp| -lp.exp() * lp).sum();
    (z[id] - lse, entropy)
}

/// Gradient of g · log p(id) + h · H with respect to the logits.
///
/// (1/τ) [ g (1_id − p) − h p (ln p + H) ]; zero for a row of −∞.
pub fn logprob_entropy_gradient(
    logits: &[f64],
    id: usize,
    temperature: f64,
    g: f64,
    h: f64,
) -> Vec<f64> {
    let (_, entropy) = logprob_entropy(logits, id, temperature);
    (0..logits.len())
        .map(|j| {
            let (log_p, _) = logprob_entropy(logits, j, temperature);
            if log_p == f64::NEG_INFINITY {
                return if j == id && logits.iter().any(|x| x.is_finite()) {
                    g / temperature
                } else {
                    0.0
                };
            }
            let indicator = if j == id { 1.0 } else { 0.0 };
            (g * (indicator - log_p.exp()) - h * log_p.exp() * (log_p + entropy)) / temperature
        })
        .collect()
}
