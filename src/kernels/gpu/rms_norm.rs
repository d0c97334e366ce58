//! [`crate::kernels::rms_norm()`] on a device.

use crate::kernels::gpu::launch::{size, start_of, Argument, DeviceStorage, Launch, View};
use crate::kernels::gpu::operator::{forward_on_devices, with_storage};
use candle_core::{CustomOp2, DType, Layout, Result, Shape, Tensor};

/// Computes y = x / √(mean x² + ε) · w for x `[n, h]`, w `[h]`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

struct RmsNorm {
    eps: f64,
}

/// Maximum number of partial sums of the weight's gradient: enough groups to fill a device, few
/// enough to add up cheaply.
const GROUPS: usize = 512;

impl RmsNorm {
    fn forward<S: DeviceStorage>(
        &self,
        x: &S,
        lx: &Layout,
        w: &S,
        lw: &Layout,
    ) -> Result<(S, Shape)> {
        let (n, h) = lx.shape().dims2()?;
        let mut y = S::unfilled(x.device(), n * h, x.dtype())?;
        let arguments = vec![
            Argument::In(x, start_of(lx)?),
            Argument::In(w, start_of(lw)?),
            Argument::Out(&mut y, 0),
            size(n)?,
            size(h)?,
            Argument::F32(self.eps as f32),
        ];
        let launch = Launch { kernel: "rms_norm", dtype: x.dtype(), groups: n, arguments };
        S::launch(x.device(), launch)?;
        Ok((y, lx.shape().clone()))
    }

    /// Computes (dx, partial sums `[groups, h]` of dw).
    fn gradient<S: DeviceStorage>(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (n, h) = x.dims2()?;
        let groups = n.min(GROUPS);
        let views = [View::of(x)?, View::of(w)?, View::of(dy)?];
        let device = views[0].get::<S>()?.device();
        let mut dx = S::unfilled(device, n * h, x.dtype())?;
        let mut partial = S::unfilled(device, groups * h, DType::F32)?;
        let mut arguments = views.iter().map(View::argument).collect::<Result<Vec<_>>>()?;
        arguments.extend([
            Argument::Out(&mut dx, 0),
            Argument::Out(&mut partial, 0),
            size(n)?,
            size(h)?,
            Argument::F32(self.eps as f32),
        ]);
        S::launch(
            device,
            Launch { kernel: "rms_norm_gradient", dtype: x.dtype(), groups, arguments },
        )?;
        Ok((dx.tensor((n, h)), partial.tensor((groups, h))))
    }
}

/// Columns per group of `sum_columns`.
const COLUMNS: usize = 32;

/// Adds the rows of partial sums, in the type of the result.
fn sum_columns<S: DeviceStorage>(partial: &Tensor, dtype: DType) -> Result<Tensor> {
    let (rows, h) = partial.dims2()?;
    let view = View::of(partial)?;
    let device = view.get::<S>()?.device();
    let mut sum = S::unfilled(device, h, dtype)?;
    let arguments = vec![view.argument()?, Argument::Out(&mut sum, 0), size(rows)?, size(h)?];
    let groups = h.div_ceil(COLUMNS);
    S::launch(device, Launch { kernel: "sum_columns", dtype, groups, arguments })?;
    Ok(sum.tensor(h))
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    forward_on_devices!(x lx, w lw);

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        with_storage!(x, S => {
            let (dx, partial) = self.gradient::<S>(x, w, &grad)?;
            let dw = w.track_op().then(|| sum_columns::<S>(&partial, w.dtype())).transpose()?;
            Ok((Some(dx), dw))
        })
    }
}
