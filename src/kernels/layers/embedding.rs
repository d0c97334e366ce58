//! Rows of a table by index, whose gradient can stay a list of rows.

use crate::kernels::autograd::collect;
use crate::kernels::cpu::real::{on_cpu, slice_of, with_real, with_slice, Real};
use candle_core::{
    CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor, TensorId, WithDType,
};
use rayon::prelude::*;
use std::sync::Arc;

/// yₙ = row idₙ of E, for E `[v, h]`; y `[n, h]`.
///
/// Backward: gₙ is added to row idₙ of dE, in the order of n. A plain `backward` makes dE a dense `[v, h]`; under
/// [`MicroGradients::of`](crate::policy::MicroGradients::of) it stays the list (ids, g) until the sum over
/// micro-batches is taken.
///
/// # Errors
/// A table that is not a matrix, or an id outside it.
pub fn embedding(table: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
    let (v, _) = table.dims2()?;
    if let Some((i, id)) = ids.iter().enumerate().find(|(_, &id)| id as usize >= v) {
        candle_core::bail!("embedding: ids[{i}] = {id} outside the table of {v} rows");
    }
    if !on_cpu(table) {
        return table.index_select(&Tensor::new(&ids[..], table.device())?, 0);
    }
    table.contiguous()?.apply_op1(Embedding { ids: ids.clone() })
}

struct Embedding {
    ids: Arc<[u32]>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let h = layout.shape().dims2()?.1;
        let y = with_real!(candle_core::backend::BackendStorage::dtype(table), "embedding", T => {
            let table = slice_of::<T>(table, layout)?;
            let rows = self.ids.par_iter().with_min_len(64).flat_map_iter(|&id| &table[id as usize * h..][..h]);
            Ok(T::to_cpu_storage_owned(rows.copied().collect()))
        })?;
        Ok((y, (self.ids.len(), h).into()))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let rows =
            RowGradient { table: table.id(), ids: self.ids.clone(), rows: grad.contiguous()? };
        match if table.is_variable() { collect::offer_rows(rows) } else { Some(rows) } {
            Some(rows) => rows.add_to(table.zeros_like()?).map(Some),
            None => Ok(None),
        }
    }
}

/// A gradient that is zero outside some rows of a table.
pub(crate) struct RowGradient {
    /// The table.
    pub(crate) table: TensorId,
    ids: Arc<[u32]>,
    rows: Tensor,
}

impl RowGradient {
    /// `dense` with gₙ added to its row idₙ, in place on the CPU.
    pub(crate) fn add_to(&self, dense: Tensor) -> Result<Tensor> {
        if !on_cpu(&dense) {
            return dense.index_add(&Tensor::new(&self.ids[..], dense.device())?, &self.rows, 0);
        }
        dense.inplace_op1(self)?;
        Ok(dense)
    }
}

impl InplaceOp1 for RowGradient {
    fn name(&self) -> &'static str {
        "add_rows"
    }

    fn cpu_fwd(&self, dense: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let h = layout.shape().dims2()?.1;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("add_rows: a contiguous table is required");
        };
        match dense {
            CpuStorage::F32(dense) => add_rows(&mut dense[start..end], h, &self.ids, &self.rows),
            CpuStorage::F64(dense) => add_rows(&mut dense[start..end], h, &self.ids, &self.rows),
            _ => candle_core::bail!("add_rows: a float table is required"),
        }
    }
}

fn add_rows<T: Real>(dense: &mut [T], h: usize, ids: &[u32], rows: &Tensor) -> Result<()> {
    with_slice::<T, _>(rows, |rows| {
        for (&id, row) in ids.iter().zip(rows.chunks_exact(h)) {
            dense[id as usize * h..][..h].iter_mut().zip(row).for_each(|(d, &r)| *d += r);
        }
        Ok(())
    })
}
