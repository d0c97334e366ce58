//! Estimators with one value per token.

use crate::advantage::centre::Centre;
use crate::advantage::{check_finite, check_len};
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// Returns generalised advantage estimates of one row: Aₜ = δₜ + γλ·Aₜ₊₁ with δₜ = rₜ + γVₜ₊₁ − Vₜ
/// and zero beyond the row (GAE, Schulman 2016; verl `compute_gae_advantage_return` before
/// whitening).
///
/// The results are the advantages and the returns A + V. As in the authors' code the recursion also
/// runs over padding: padded rewards and values must be zero. Apply [`masked_whiten`] to the whole
/// batch afterwards.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::NonFinite`].
pub fn gae(
    rewards: &[f64],
    values: &[f64],
    gamma: f64,
    lambda: f64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    check_len("values", values.len(), rewards.len())?;
    check_finite("rewards", rewards)?;
    check_finite("values", values)?;
    let mut advantages = vec![0.0; rewards.len()];
    let mut next_value = 0.0;
    let mut next_advantage = 0.0;
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[t];
        advantages[t] = next_advantage;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    Ok((advantages, returns))
}

/// Returns (x − mean)/√(var + 10⁻⁸) with the mean and unbiased variance of the masked-in values
/// (verl `masked_whiten`). Masked-out values are transformed alike.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::EmptyMask`] if fewer than two values are masked
/// in (no variance), [`Error::NonFinite`].
pub fn masked_whiten(values: &[f64], mask: &[bool]) -> Result<Vec<f64>> {
    check_len("mask", mask.len(), values.len())?;
    check_finite("values", values)?;
    let count = mask.iter().filter(|&&m| m).count() as f64;
    if count < 2.0 {
        let at = format!("{count} values are masked in, a variance needs two");
        return Err(Error::EmptyMask { name: "mask", at });
    }
    let masked_mean = |of: &dyn Fn(f64) -> f64| {
        let total: f64 = values.iter().zip(mask).filter(|(_, &m)| m).map(|(&v, _)| of(v)).sum();
        total / count
    };
    let mean = masked_mean(&|v| v);
    let variance = masked_mean(&|v| (v - mean) * (v - mean)) * count / (count - 1.0);
    let counted = values.iter().zip(mask).filter(|(_, &m)| m).map(|(&v, _)| v);
    let centre = Centre::new(counted, mean);
    Ok(values.iter().map(|&v| centre.difference(v) / (variance + 1e-8).sqrt()).collect())
}

/// Returns REINFORCE++ advantages: whitened discounted returns Rₜ = rₜ + γRₜ₊₁, restarted at each
/// masked-out token (arXiv 2501.03262; verl `compute_reinforce_plus_plus_outcome_advantage`).
///
/// `rewards` is row-major [B·T]; the results are the advantages (zero where masked out) and the
/// returns.
///
/// # Errors
/// As [`masked_whiten`].
pub fn reinforce_pp(
    rewards: &[f64],
    layout: &TokenLayout,
    gamma: f64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mask = layout.mask();
    check_len("rewards", rewards.len(), mask.len())?;
    let mut returns = vec![0.0; rewards.len()];
    for row in 0..layout.rows() {
        let mut running = 0.0;
        for i in (row * layout.tokens()..(row + 1) * layout.tokens()).rev() {
            returns[i] = rewards[i] + gamma * running;
            running = if mask[i] { returns[i] } else { 0.0 };
        }
    }
    let mut advantages = masked_whiten(&returns, mask)?;
    zero_masked(&mut advantages, mask);
    Ok((advantages, returns))
}

/// Spreads one value per row `[B]` over its generated tokens, row-major [B·T], zero where masked
/// out.
///
/// # Errors
/// [`Error::Shape`] if there are not B values.
pub fn broadcast(per_row: &[f64], layout: &TokenLayout) -> Result<Vec<f64>> {
    check_len("per_row", per_row.len(), layout.rows())?;
    let value = |(i, &m): (usize, &bool)| if m { per_row[i / layout.tokens()] } else { 0.0 };
    Ok(layout.mask().iter().enumerate().map(value).collect())
}

pub(crate) fn zero_masked(values: &mut [f64], mask: &[bool]) {
    for (value, &counts) in values.iter_mut().zip(mask) {
        if !counts {
            *value = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gae_without_discount_is_return_minus_value() {
        let (advantages, returns) = gae(&[0.0, 1.0, 2.0], &[0.5, 0.25, 1.0], 1.0, 1.0).unwrap();
        assert_eq!(returns, [3.0, 3.0, 2.0]);
        assert_eq!(advantages, [2.5, 2.75, 1.0]);
        let (one_step, _) = gae(&[0.0, 1.0, 2.0], &[0.5, 0.25, 1.0], 0.5, 0.0).unwrap();
        assert_eq!(one_step, [-0.375, 1.25, 1.0]);
        assert!(matches!(gae(&[0.0], &[], 1.0, 1.0), Err(Error::Shape { name: "values", .. })));
        assert!(matches!(gae(&[f64::NAN], &[0.0], 1.0, 1.0), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn whitening_ignores_what_is_masked_out_and_needs_two_values() {
        let mask = [true, true, false];
        let a = masked_whiten(&[1.0, 3.0, 0.0], &mask).unwrap();
        let b = masked_whiten(&[1.0, 3.0, 99.0], &mask).unwrap();
        assert_eq!(a[..2], b[..2]);
        assert!((a[1] - 0.5f64.sqrt()).abs() < 1e-7 && (a[0] + a[1]).abs() < 1e-7);
        let one = masked_whiten(&[1.0, 3.0, 0.0], &[true, false, false]);
        assert!(matches!(one, Err(Error::EmptyMask { .. })));
    }
}
