//! Angles of rotary position embeddings, and the rotation of rows by them.

use crate::kernels::cpu::float::{vectorised, Float};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// Table of cos and sin of position · frequency, for every position below a limit. The frequencies
/// are base^(−2j/d) unless others are given.
#[derive(Debug, Clone)]
pub struct RopeTable {
    head_dim: usize,
    double: Angles<f64>,
    single: Angles<f32>,
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    uploaded: std::sync::OnceLock<Tensor>,
}

/// cos and sin `[positions · d/2]`.
#[derive(Debug, Clone)]
pub(crate) struct Angles<T> {
    cos: Vec<T>,
    sin: Vec<T>,
}

impl RopeTable {
    /// Creates the table for heads of `head_dim` features (even), positions 0..`positions`, and
    /// base θ.
    pub fn new(head_dim: usize, positions: usize, theta: f64) -> Self {
        let frequency = |j: usize| theta.powf(-2.0 * j as f64 / head_dim as f64);
        Self::of_frequencies(&(0..head_dim / 2).map(frequency).collect::<Vec<_>>(), positions)
    }

    /// Creates the table of the angles position · frequency for positions 0..`positions` and
    /// frequencies `[d/2]`, in radians per position, one per pair of features.
    pub fn of_frequencies(frequencies: &[f64], positions: usize) -> Self {
        let half = frequencies.len();
        let head_dim = 2 * half;
        let angle = |i: usize| (i / half) as f64 * frequencies[i % half];
        let (sin, cos): (Vec<f64>, Vec<f64>) =
            (0..positions * half).into_par_iter().map(|i| angle(i).sin_cos()).unzip();
        let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect();
        Self {
            head_dim,
            single: Angles { cos: single(&cos), sin: single(&sin) },
            double: Angles { cos, sin },
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            uploaded: std::sync::OnceLock::new(),
        }
    }

    /// Returns cos over sin `[2, positions, d/2]` in f32 on a device; the tensor of the first
    /// device is kept.
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    pub(crate) fn on(&self, device: &Device) -> Result<Tensor> {
        if let Some(tensor) =
            self.uploaded.get().filter(|tensor| tensor.device().same_device(device))
        {
            return Ok(tensor.clone());
        }
        let values = [self.single.cos.as_slice(), &self.single.sin].concat();
        let tensor = Tensor::from_vec(values, (2, self.positions(), self.head_dim / 2), device)?;
        self.uploaded.get_or_init(|| tensor.clone());
        Ok(tensor)
    }

    /// Returns the number of features per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Returns the number of positions in the table.
    pub fn positions(&self) -> usize {
        2 * self.double.cos.len() / self.head_dim
    }

    /// Returns the cos and sin rows of `positions` as two `[n, 1, 1, d/2]` tensors.
    ///
    /// # Errors
    /// A position outside the table.
    pub fn tensors(
        &self,
        positions: &[u32],
        dtype: DType,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        self.check(positions)?;
        let half = self.head_dim / 2;
        let gather = |table: &[f64]| {
            let rows: Vec<f64> = positions
                .iter()
                .flat_map(|&p| &table[p as usize * half..(p as usize + 1) * half])
                .copied()
                .collect();
            Tensor::from_vec(rows, (positions.len(), 1, 1, half), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        Ok((gather(&self.double.cos)?, gather(&self.double.sin)?))
    }

    /// Checks that every position is in the table.
    pub(crate) fn check(&self, positions: &[u32]) -> Result<()> {
        match positions.iter().find(|&&p| p as usize >= self.positions()) {
            Some(p) => {
                candle_core::bail!("rope: position {p} outside the table of {}", self.positions())
            }
            None => Ok(()),
        }
    }

    /// Rotates one row (`[heads·d]`) in place by its position's angles, backwards if `inverse`.
    pub(crate) fn rotate<T: TableFloat>(&self, row: &mut [T], position: usize, inverse: bool) {
        let half = self.head_dim / 2;
        let range = position * half..(position + 1) * half;
        let angles = T::angles(self);
        let sign = T::from_f64(if inverse { -1.0 } else { 1.0 });
        rotate_row(row, &angles.cos[range.clone()], &angles.sin[range], sign);
    }
}

vectorised! {
    /// (a, b) ← (a cos − b sin, b cos + a sin) for every head of a row, with sin of the given sign.
    fn rotate_row<T>(row: &mut [T], cos: &[T], sin: &[T], sign: T) {
        for head in row.chunks_exact_mut(2 * cos.len()) {
            let (first, second) = head.split_at_mut(cos.len());
            for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let x = *a;
                let y = *b;
                let s = sign * s;
                *a = x * c - y * s;
                *b = y * c + x * s;
            }
        }
    }
}

/// An element type with its own table.
pub(crate) trait TableFloat: Float {
    /// Returns the angles in this type.
    fn angles(table: &RopeTable) -> &Angles<Self>;
}

impl TableFloat for f32 {
    fn angles(table: &RopeTable) -> &Angles<f32> {
        &table.single
    }
}

impl TableFloat for f64 {
    fn angles(table: &RopeTable) -> &Angles<f64> {
        &table.double
    }
}

/// Rotates the rows of `data` in place by the angles of their positions, backwards if `inverse`.
pub(crate) fn rotate_rows<T: TableFloat>(
    table: &RopeTable,
    positions: &[u32],
    data: &mut [T],
    inverse: bool,
) {
    let width = data.len() / positions.len().max(1);
    let rows = data.par_chunks_mut(width.max(1)).zip(positions).with_min_len(64);
    rows.for_each(|(row, &p)| table.rotate(row, p as usize, inverse));
}
