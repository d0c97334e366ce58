//! Rows of matrices on a device: looked up, and added up in f32 in a fixed order.

use crate::kernels::autograd::gradient_sink::{offer_rows, RowGradient};
use crate::kernels::gpu::launch::{
    element_groups, size, start_of, Argument, DeviceStorage, Launch, View,
};
use crate::kernels::gpu::operator::{forward_on_devices, update_on_devices};
use candle_core::backend::BackendDevice;
use candle_core::{CustomOp1, DType, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Computes y: row i is row `index[i]` of x `[m, h]`.
pub(crate) fn gather_rows(x: &Tensor, index: &Arc<[u32]>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(GatherRows { index: index.clone() })
}

/// The places of every number of a list, one list after another.
struct Places {
    /// Where the list of each row begins in `order`, and the end of the last.
    start: Vec<u32>,
    order: Vec<u32>,
}

impl Places {
    /// The places of the numbers 0..`rows` in `index`, ascending.
    fn of(index: &[u32], rows: usize) -> Self {
        let mut start = vec![0; rows + 1];
        for &row in index {
            start[row as usize + 1] += 1;
        }
        for row in 0..rows {
            start[row + 1] += start[row];
        }
        let mut next = start.clone();
        let mut order = vec![0; index.len()];
        for (place, &row) in index.iter().enumerate() {
            let at = &mut next[row as usize];
            order[*at as usize] = place as u32;
            *at += 1;
        }
        Self { start, order }
    }
}

struct GatherRows {
    index: Arc<[u32]>,
}

impl GatherRows {
    fn forward<S: DeviceStorage>(&self, x: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (_, h) = layout.shape().dims2()?;
        let n = self.index.len();
        let device = x.device();
        let index = device.storage_from_slice::<u32>(&self.index)?;
        let mut y = S::unfilled(device, n * h, x.dtype())?;
        let arguments = vec![
            Argument::In(x, start_of(layout)?),
            Argument::In(&index, 0),
            Argument::Out(&mut y, 0),
            size(n)?,
            size(h)?,
        ];
        let launch = Launch { kernel: "gather_rows", dtype: x.dtype(), groups: n, arguments };
        S::launch(device, launch)?;
        Ok((y, (n, h).into()))
    }
}

impl CustomOp1 for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    forward_on_devices!(x layout);

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let sums = SumRows { index: self.index.clone(), count: x.dim(0)? };
        grad.contiguous()?.apply_op1_no_bwd(&sums).map(Some)
    }
}

/// Adds each row i of x `[n, h]` to row `index[i]` of `[count, h]`.
pub(crate) fn sum_rows(x: &Tensor, index: &Arc<[u32]>, count: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op1(SumRows { index: index.clone(), count })
}

struct SumRows {
    index: Arc<[u32]>,
    count: usize,
}

impl SumRows {
    fn forward<S: DeviceStorage>(&self, x: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (_, h) = layout.shape().dims2()?;
        let device = x.device();
        let Places { start, order } = Places::of(&self.index, self.count);
        let start = device.storage_from_slice::<u32>(&start)?;
        let order = device.storage_from_slice::<u32>(&order)?;
        let mut y = S::unfilled(device, self.count * h, x.dtype())?;
        let arguments = vec![
            Argument::In(x, start_of(layout)?),
            Argument::In(&start, 0),
            Argument::In(&order, 0),
            Argument::Out(&mut y, 0),
            size(self.count)?,
            size(h)?,
        ];
        let groups = self.count;
        S::launch(device, Launch { kernel: "sum_rows", dtype: x.dtype(), groups, arguments })?;
        Ok((y, (self.count, h).into()))
    }
}

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    forward_on_devices!(x layout);

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let copies = GatherRows { index: self.index.clone() };
        grad.contiguous()?.apply_op1_no_bwd(&copies).map(Some)
    }
}

/// Looks up rows `ids` of an embedding table `[v, h]`; the gradient can remain a list of rows.
pub(crate) fn embedding(table: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
    table.contiguous()?.apply_op1(Embedding(GatherRows { index: ids.clone() }))
}

struct Embedding(GatherRows);

impl Embedding {
    fn forward<S: DeviceStorage>(&self, table: &S, layout: &Layout) -> Result<(S, Shape)> {
        self.0.forward(table, layout)
    }
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    forward_on_devices!(table layout);

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let ids = self.0.index.clone();
        let rows = RowGradient { table: table.id(), ids, rows: grad.contiguous()? };
        match if table.is_variable() { offer_rows(rows) } else { Some(rows) } {
            Some(rows) => {
                let zeros = Tensor::zeros(table.shape(), DType::F32, table.device())?;
                rows.add_to(zeros)?.to_dtype(table.dtype()).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// Adds row i of `rows` to row `ids[i]` of `dense` f32 `[v, h]`, in its memory.
pub(crate) fn add_rows(dense: &Tensor, ids: &[u32], rows: &Tensor) -> Result<()> {
    let mut lists = BTreeMap::<u32, Vec<u32>>::new();
    for (place, &id) in ids.iter().enumerate() {
        lists.entry(id).or_default().push(place as u32);
    }
    let targets: Vec<u32> = lists.keys().copied().collect();
    let mut order = Vec::new();
    let mut start = vec![0];
    for list in lists.into_values() {
        order.extend(list);
        start.push(order.len() as u32);
    }
    if dense.dtype() != DType::F32 {
        candle_core::bail!("add_rows: the sum must be f32, got {:?}", dense.dtype());
    }
    dense.inplace_op2(&rows.contiguous()?, &AddRows { start, order, targets })
}

/// The places in `order` of the rows to add to each target.
struct AddRows {
    start: Vec<u32>,
    order: Vec<u32>,
    targets: Vec<u32>,
}

impl AddRows {
    fn update<S: DeviceStorage>(
        &self,
        dense: &mut S,
        layout: &Layout,
        rows: &S,
        lr: &Layout,
    ) -> Result<()> {
        let (_, h) = layout.shape().dims2()?;
        let n = self.targets.len();
        let device = dense.device().clone();
        let start = device.storage_from_slice::<u32>(&self.start)?;
        let order = device.storage_from_slice::<u32>(&self.order)?;
        let targets = device.storage_from_slice::<u32>(&self.targets)?;
        let arguments = vec![
            Argument::In(rows, start_of(lr)?),
            Argument::In(&start, 0),
            Argument::In(&order, 0),
            Argument::In(&targets, 0),
            Argument::Out(dense, start_of(layout)?),
            size(n)?,
            size(h)?,
        ];
        let launch = Launch { kernel: "add_rows", dtype: rows.dtype(), groups: n, arguments };
        S::launch(&device, launch)
    }
}

impl InplaceOp2 for AddRows {
    fn name(&self) -> &'static str {
        "add_rows"
    }

    update_on_devices!(rows lr);
}

/// Adds a tensor of the same type to `sum`, in its memory.
pub(crate) fn add_to(sum: &Tensor, part: &Tensor) -> Result<()> {
    if sum.shape() != part.shape() || sum.dtype() != part.dtype() {
        candle_core::bail!("add_to: {:?} to {:?}", part.shape(), sum.shape());
    }
    sum.inplace_op2(&part.contiguous()?, &AddTo)
}

struct AddTo;

impl AddTo {
    fn update<S: DeviceStorage>(
        &self,
        sum: &mut S,
        layout: &Layout,
        part: &S,
        lp: &Layout,
    ) -> Result<()> {
        let count = layout.shape().elem_count();
        let device = sum.device().clone();
        let arguments = vec![
            Argument::Out(sum, start_of(layout)?),
            Argument::In(part, start_of(lp)?),
            size(count)?,
        ];
        let groups = element_groups(count);
        S::launch(&device, Launch { kernel: "add_to", dtype: part.dtype(), groups, arguments })
    }
}

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add_to"
    }

    update_on_devices!(part lp);
}

/// Maximum number of partial sums per tensor of [`sums_of_squares`].
const GROUPS: usize = 256;

/// Computes Σ x² of each tensor, all on one device, with one wait: partial sums are f32, their sums
/// f64.
pub(crate) fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else { return Ok(vec![]) };
    let groups: Vec<usize> =
        tensors.iter().map(|x| element_groups(x.elem_count()).min(GROUPS)).collect();
    let count: usize = groups.iter().sum();
    let partial = Tensor::zeros(count, DType::F32, first.device())?;
    let mut start = 0;
    for (x, &groups) in tensors.iter().zip(&groups) {
        partial.inplace_op1(&SumSquares {
            x: x.to_dtype(DType::F32)?.contiguous()?,
            start,
            groups,
        })?;
        start += groups;
    }
    let partial = partial.to_vec1::<f32>()?;
    let mut rest = &partial[..];
    let sum =
        |groups| rest.split_off(..groups).map(|part| part.iter().map(|&x| f64::from(x)).sum());
    Ok(groups.into_iter().filter_map(sum).collect())
}

/// Writes the partial sums of x.
struct SumSquares {
    x: Tensor,
    start: usize,
    groups: usize,
}

impl SumSquares {
    fn update<S: DeviceStorage>(&self, partial: &mut S, _: &Layout) -> Result<()> {
        let view = View::of(&self.x)?;
        let device = partial.device().clone();
        let arguments =
            vec![view.argument()?, Argument::Out(partial, self.start), size(self.x.elem_count())?];
        let launch =
            Launch { kernel: "sum_squares", dtype: DType::F32, groups: self.groups, arguments };
        S::launch(&device, launch)
    }
}

impl InplaceOp1 for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    update_on_devices!();
}
