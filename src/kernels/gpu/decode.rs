//! Decoding on a device: writing rows into the cache, attention over its pages, and sampling.

use crate::kernels::decode::paged::{Draws, PagedQueries, PAGE};
use crate::kernels::gpu::launch::{size, start_of, Argument, DeviceStorage, Launch, View};
use crate::kernels::gpu::operator::{update_on_devices, with_storage};
use crate::kernels::layers::attention_rows::AttentionShape;
use candle_core::backend::BackendStorage;
use candle_core::{DType, InplaceOp2, Layout, Result, Tensor};

/// Row `index[i]` of `into` becomes row i of x, in its memory; the indices (u32) differ.
pub(crate) fn scatter_rows(x: &Tensor, index: &Tensor, into: &Tensor) -> Result<()> {
    if x.dtype() != into.dtype() || x.dim(1)? != into.dim(1)? {
        candle_core::bail!("scatter_rows: {:?} into {:?}", x.shape(), into.shape());
    }
    into.inplace_op2(&x.contiguous()?, &ScatterRows { index: index.clone() })
}

struct ScatterRows {
    index: Tensor,
}

impl ScatterRows {
    fn update<S: DeviceStorage>(
        &self,
        into: &mut S,
        layout: &Layout,
        x: &S,
        lx: &Layout,
    ) -> Result<()> {
        let (n, h) = lx.shape().dims2()?;
        let device = into.device().clone();
        let index = View::of(&self.index)?;
        let arguments = vec![
            Argument::In(x, start_of(lx)?),
            index.argument()?,
            Argument::Out(into, start_of(layout)?),
            size(n)?,
            size(h)?,
        ];
        S::launch(
            &device,
            Launch { kernel: "scatter_rows", dtype: x.dtype(), groups: n, arguments },
        )
    }
}

impl InplaceOp2 for ScatterRows {
    fn name(&self) -> &'static str {
        "scatter_rows"
    }

    update_on_devices!(x lx);
}

/// Query heads of a group.
const HEADS: usize = 4;

/// Groups that keep a device busy.
const BUSY: usize = 512;

/// Positions of a split, at least.
const LEAST: usize = if cfg!(test) { 3 } else { 256 };

/// Computes the attention of q `[n, H·d]` over the pages of `[keys, values]`.
pub(crate) fn attend_pages(
    q: &Tensor,
    [keys, values]: &[Tensor; 2],
    queries: &PagedQueries,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim: d, .. } = *shape;
    let n = q.dim(0)?;
    let per_lane = if q.dtype() == DType::F32 { 4 } else { 8 };
    if d > 32 * per_lane {
        candle_core::bail!("decoding on a GPU: heads of at most {} features", 32 * per_lane);
    }
    const { assert!(PAGE == 16, "decode.inc says so") };
    let groups = n * kv_heads * (heads / kv_heads).div_ceil(HEADS);
    let splits = BUSY.div_ceil(groups).min(queries.longest.div_ceil(LEAST)).max(1);
    let views = [
        View::of(q)?,
        View::of(keys)?,
        View::of(values)?,
        View::of(&queries.tables)?,
        View::of(&queries.rows)?,
        View::of(&queries.positions)?,
    ];
    with_storage!(q, S => {
        let device = views[0].get::<S>()?.device();
        let mut partial = S::unfilled(device, n * heads * splits * (2 + d), DType::F32)?;
        let mut arguments = views.iter().map(View::argument).collect::<Result<Vec<_>>>()?;
        arguments.push(Argument::Out(&mut partial, 0));
        for value in [heads, kv_heads, d, queries.width, splits] {
            arguments.push(size(value)?);
        }
        arguments.push(Argument::F32(1.0 / (d as f32).sqrt()));
        let dtype = q.dtype();
        let groups = groups * splits;
        S::launch(device, Launch { kernel: "attend_pages", dtype, groups, arguments })?;
        let mut out = S::unfilled(device, n * heads * d, dtype)?;
        let arguments = vec![
            Argument::In(&partial, 0),
            Argument::Out(&mut out, 0),
            size(n * heads)?,
            size(splits)?,
            size(d)?,
        ];
        let groups = n * heads;
        S::launch(device, Launch { kernel: "combine_splits", dtype, groups, arguments })?;
        Ok(out.tensor((n, heads * d)))
    })
}

/// Samples a token of every row of logits f32 `[n, v]`; see [`Draws`].
pub(crate) fn sample_rows(logits: &Tensor, draws: &Draws) -> Result<Vec<[f32; 3]>> {
    let (n, v) = logits.dims2()?;
    if logits.dtype() != DType::F32 || draws.uniform.len() != n {
        candle_core::bail!("sample_rows: {:?} for {} draws", logits.shape(), draws.uniform.len());
    }
    let device = logits.device();
    let upload = |list: &[u32]| Tensor::from_slice(list, list.len(), device);
    let allowed = if draws.allowed.is_empty() { &[0][..] } else { &draws.allowed[..] };
    let lists = [upload(&draws.start)?, upload(&draws.count)?, upload(allowed)?];
    let uniform = Tensor::from_slice(&draws.uniform, n, device)?;
    let [start, count, allowed] = &lists;
    let views = [
        View::of(logits)?,
        View::of(start)?,
        View::of(count)?,
        View::of(allowed)?,
        View::of(&uniform)?,
    ];
    let out = with_storage!(logits, S => {
        let device = views[0].get::<S>()?.device();
        let mut out = S::unfilled(device, 3 * n, DType::F32)?;
        let mut arguments = views.iter().map(View::argument).collect::<Result<Vec<_>>>()?;
        arguments.extend([
            Argument::Out(&mut out, 0),
            size(v)?,
            Argument::F32(draws.inverse_temperature),
        ]);
        let dtype = DType::F32;
        S::launch(device, Launch { kernel: "sample_rows", dtype, groups: n, arguments })?;
        Ok::<_, candle_core::Error>(out.tensor((n, 3)))
    })?;
    Ok(out.flatten_all()?.to_vec1::<f32>()?.as_chunks::<3>().0.to_vec())
}
