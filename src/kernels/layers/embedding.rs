//! Embedding lookup, whose gradient can remain a list of rows.

use crate::kernels::autograd::gradient_sink::{offer_rows, RowGradient};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float};
use crate::kernels::dispatch::on_device;
use crate::kernels::quantized::weight::Weight;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;
use std::sync::Arc;

/// Looks up yₙ = row idₙ of E, for E `[v, h]`; y `[n, h]`.
///
/// Backward: gₙ is added to row idₙ of dE, in the order of n. A plain `backward` makes dE a dense
/// `[v, h]`. Under [`MicroGradients::of`](crate::policy::MicroGradients::of) it stays the list
/// (ids, g) until micro-batches are summed.
///
/// # Errors
/// A table that is not a matrix, or an id outside it.
pub fn embedding(table: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
    let (v, _) = table.dims2()?;
    check_ids(ids, v)?;
    on_device!(table => crate::kernels::gpu::rows::embedding(table, ids));
    if !on_cpu(table) {
        return table.index_select(&Tensor::new(&ids[..], table.device())?, 0);
    }
    table.contiguous()?.apply_op1(Embedding { ids: ids.clone() })
}

fn check_ids(ids: &[u32], v: usize) -> Result<()> {
    match ids.iter().enumerate().find(|(_, &id)| id as usize >= v) {
        Some((i, id)) => {
            candle_core::bail!("embedding: ids[{i}] = {id} outside the table of {v} rows")
        }
        None => Ok(()),
    }
}

/// [`embedding`] for a table that may be quantised; rows of such a one are f32 without gradient.
pub(crate) fn embedding_over(table: &Weight, ids: &Arc<[u32]>) -> Result<Tensor> {
    match table {
        Weight::Dense(table) => embedding(table, ids),
        Weight::Quantized(matrix) => {
            let (v, h) = matrix.dims();
            check_ids(ids, v)?;
            let mut rows = zeros(ids.len() * h);
            matrix.rows_of(ids, &mut rows);
            Tensor::from_vec(rows, (ids.len(), h), &Device::Cpu)
        }
    }
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
        let y = with_float!(BackendStorage::dtype(table), "embedding", T => {
            let table = slice_of::<T>(table, layout)?;
            let row = |&id: &u32| &table[id as usize * h..][..h];
            let rows = self.ids.par_iter().with_min_len(64).flat_map_iter(row);
            Ok(T::to_cpu_storage_owned(rows.copied().collect()))
        })?;
        Ok((y, (self.ids.len(), h).into()))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let rows =
            RowGradient { table: table.id(), ids: self.ids.clone(), rows: grad.contiguous()? };
        match if table.is_variable() { offer_rows(rows) } else { Some(rows) } {
            Some(rows) => rows.add_to(table.zeros_like()?).map(Some),
            None => Ok(None),
        }
    }
}
