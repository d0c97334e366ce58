//! Whitening over a batch.

use crate::advantage::centre::Centre;
use crate::advantage::token::masked_whiten;
use crate::advantage::token::zero_masked;
use crate::advantage::{check_finite, check_len};
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// Whitens the tokens of a whole batch ([`masked_whiten`]), with zeros where masked out; row-major
/// [B·T].
///
/// # Errors
/// As [`masked_whiten`].
pub fn whiten_tokens(values: &[f64], layout: &TokenLayout) -> Result<Vec<f64>> {
    let mut whitened = masked_whiten(values, layout.mask())?;
    zero_masked(&mut whitened, layout.mask());
    Ok(whitened)
}

/// Whitens values that each stand for `counts` equal tokens: (x − m)/√(v + 10⁻⁸) with m = Σ n·x/N
/// and v = Σ n·(x − m)²/(N − 1), N = Σ n. A value that stands for no token is transformed alike.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::EmptyMask`] if N < 2, [`Error::NonFinite`].
pub fn whiten_counted(values: &[f64], counts: &[usize]) -> Result<Vec<f64>> {
    check_len("counts", counts.len(), values.len())?;
    check_finite("values", values)?;
    let total = counts.iter().sum::<usize>() as f64;
    if total < 2.0 {
        let at = format!("{total} tokens, a variance needs two");
        return Err(Error::EmptyMask { name: "counts", at });
    }
    let sum = |of: &dyn Fn(f64) -> f64| -> f64 {
        values.iter().zip(counts).map(|(&x, &n)| n as f64 * of(x)).sum()
    };
    let mean = sum(&|x| x) / total;
    let variance = sum(&|x| (x - mean) * (x - mean)) / (total - 1.0);
    let counted = values.iter().zip(counts).filter(|(_, &n)| n > 0).map(|(&x, _)| x);
    let centre = Centre::new(counted, mean);
    Ok(values.iter().map(|&x| centre.difference(x) / (variance + 1e-8).sqrt()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_value_is_that_many_tokens() {
        let mask = vec![true, true, true, false, true, false];
        let layout = TokenLayout::per_turn(3, mask, &[0, 1], vec![0, 0]).unwrap();
        let tokens = whiten_tokens(&[2.0, 2.0, 2.0, f64::MAX, 5.0, 7.0], &layout).unwrap();
        let turns = whiten_counted(&[2.0, 5.0], &[3, 1]).unwrap();
        // Mean 2.75, variance (3·0.5625 + 5.0625)/3 = 2.25.
        assert!((turns[0] + 0.5).abs() < 1e-8 && (turns[1] - 1.5).abs() < 1e-8);
        assert_eq!([tokens[3], tokens[5]], [0.0; 2]);
        assert!((tokens[0] - turns[0]).abs() < 1e-12 && (tokens[4] - turns[1]).abs() < 1e-12);
        assert!(matches!(whiten_counted(&[1.0, 2.0], &[1, 0]), Err(Error::EmptyMask { .. })));
        assert!(matches!(
            whiten_counted(&[1.0], &[1, 1]),
            Err(Error::Shape { name: "counts", .. })
        ));
        assert!(matches!(whiten_counted(&[f64::NAN; 2], &[1, 1]), Err(Error::NonFinite { .. })));
    }
}
