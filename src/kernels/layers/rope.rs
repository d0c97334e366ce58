//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face
//! checkpoints.

use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::composed;
use crate::kernels::layers::rope_table::{rotate_rows, RopeTable, TableFloat};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// Rotates the halves (a, b) of every head of x `[n, heads·d]` to (a cos − b sin, b cos + a sin),
/// with the angles of position `positions[i]` for row i.
///
/// Backward: the rotation by the opposite angles.
///
/// # Errors
/// A position outside the table, or mismatched shapes.
pub fn rope(x: &Tensor, table: &Arc<RopeTable>, positions: &Arc<[u32]>) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    if n != positions.len() || width % table.head_dim() != 0 {
        candle_core::bail!(
            "rope: mismatched shapes: x {:?}, {} positions, heads of {}",
            x.shape(),
            positions.len(),
            table.head_dim()
        );
    }
    table.check(positions)?;
    on_device!(x => {
        let positions = Tensor::from_slice(positions, n, x.device())?;
        crate::kernels::gpu::rope::rope(x, table.on(x.device())?, positions)
    });
    if !on_cpu(x) {
        return composed::rope(x, table, positions);
    }
    let op = Rope { table: table.clone(), positions: positions.clone(), inverse: false };
    x.contiguous()?.apply_op1(op)
}

struct Rope {
    table: Arc<RopeTable>,
    positions: Arc<[u32]>,
    inverse: bool,
}

impl Rope {
    fn apply<T: TableFloat>(&self, x: &[T]) -> Vec<T> {
        let mut y = x.to_vec();
        rotate_rows(&self.table, &self.positions, &mut y, self.inverse);
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = with_float!(BackendStorage::dtype(x), "rope", T => {
            Ok(candle_core::WithDType::to_cpu_storage_owned(self.apply::<T>(slice_of(x, layout)?)))
        })?;
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let inverse =
            Rope { table: self.table.clone(), positions: self.positions.clone(), inverse: true };
        let dx = with_float!(grad.dtype(), "rope", T => with_slice::<T, _>(grad, |g| {
            Tensor::from_vec(inverse.apply(g), grad.shape(), grad.device())
        }))?;
        Ok(Some(dx))
    }
}
