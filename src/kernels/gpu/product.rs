//! Matrix products of tensors on a device, in the factors' type or in f32.

use crate::kernels::gpu::launch::{
    start_of, DeviceStorage, Matrices, MatricesMut, Multiplication, View,
};
use crate::kernels::gpu::operator::{update_on_devices, with_storage};
use candle_core::backend::BackendStorage;
use candle_core::{DType, InplaceOp1, Layout, Result, Tensor};

/// A matrix as a factor, as it is or transposed.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    matrix: &'a Tensor,
    transposed: bool,
}

impl<'a> Factor<'a> {
    pub(crate) fn of(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: false }
    }

    pub(crate) fn transpose_of(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: true }
    }

    /// (rows, columns)
    fn dims(&self) -> Result<(usize, usize)> {
        let (rows, columns) = self.matrix.dims2()?;
        Ok(if self.transposed { (columns, rows) } else { (rows, columns) })
    }

    fn matrices<'v, S: DeviceStorage>(&self, view: &'v View<'_>) -> Result<Matrices<'v, S>> {
        let stride = self.matrix.dim(1)?;
        let storage = view.get()?;
        Ok(Matrices { storage, start: view.start, stride, batch: 0, transposed: self.transposed })
    }
}

fn size_of(a: Factor<'_>, b: Factor<'_>, alpha: f64) -> Result<Multiplication> {
    let (rows, terms) = a.dims()?;
    let (inner, columns) = b.dims()?;
    if terms != inner {
        candle_core::bail!("product: [{rows}, {terms}] and [{inner}, {columns}] do not fit");
    }
    let alpha = alpha as f32;
    Ok(Multiplication { rows, columns, terms, count: 1, alpha, accumulate: false })
}

/// Computes α a b in the type `dtype`: that of the factors, or f32.
pub(crate) fn product(a: Factor<'_>, b: Factor<'_>, alpha: f64, dtype: DType) -> Result<Tensor> {
    let size = size_of(a, b, alpha)?;
    let views = [View::of(a.matrix)?, View::of(b.matrix)?];
    with_storage!(a.matrix, S => {
        let device = views[0].get::<S>()?.device();
        let mut out = S::unfilled(device, size.rows * size.columns, dtype)?;
        let place = MatricesMut { storage: &mut out, start: 0, batch: 0 };
        S::multiply(device, place, a.matrices(&views[0])?, b.matrices(&views[1])?, size)?;
        Ok(out.tensor((size.rows, size.columns)))
    })
}

/// Adds α a b to a matrix, in its memory.
pub(crate) fn add_product(sum: &Tensor, a: Factor<'_>, b: Factor<'_>, alpha: f64) -> Result<()> {
    let size = Multiplication { accumulate: true, ..size_of(a, b, alpha)? };
    if sum.dims() != [size.rows, size.columns] {
        candle_core::bail!("product: {size:?} into {:?}", sum.dims());
    }
    sum.inplace_op1(&AddProduct { a, b, size })
}

struct AddProduct<'a> {
    a: Factor<'a>,
    b: Factor<'a>,
    size: Multiplication,
}

impl AddProduct<'_> {
    fn update<S: DeviceStorage>(&self, sum: &mut S, layout: &Layout) -> Result<()> {
        let views = [View::of(self.a.matrix)?, View::of(self.b.matrix)?];
        let device = sum.device().clone();
        let out = MatricesMut { storage: sum, start: start_of(layout)?, batch: 0 };
        let a = self.a.matrices(&views[0])?;
        S::multiply(&device, out, a, self.b.matrices(&views[1])?, self.size)
    }
}

impl InplaceOp1 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "add_product"
    }

    update_on_devices!();
}
