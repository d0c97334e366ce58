//! [`crate::kernels::rope()`] on a device.

use crate::kernels::gpu::launch::{size, start_of, Argument, DeviceStorage, Launch, View};
use crate::kernels::gpu::operator::forward_on_devices;
use candle_core::{CustomOp1, Layout, Result, Shape, Tensor};

/// Rotates the heads of x `[n, heads·d]` by the angles of their rows' positions. `angles` is cos
/// over sin `[2, positions, d/2]` in f32, `positions` `[n]` in u32, both on the device of x.
pub(crate) fn rope(x: &Tensor, angles: Tensor, positions: Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rope { angles, positions, sign: 1.0 })
}

#[derive(Clone)]
struct Rope {
    angles: Tensor,
    positions: Tensor,
    sign: f32,
}

impl Rope {
    fn forward<S: DeviceStorage>(&self, x: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let (_, limit, half) = self.angles.dims3()?;
        let angles = View::of(&self.angles)?;
        let positions = View::of(&self.positions)?;
        let mut y = S::unfilled(x.device(), n * width, x.dtype())?;
        let arguments = vec![
            Argument::In(x, start_of(layout)?),
            Argument::Out(&mut y, 0),
            positions.argument()?,
            angles.argument()?,
            Argument::In(angles.get()?, angles.start + limit * half),
            size(n)?,
            size(width / (2 * half))?,
            size(2 * half)?,
            Argument::F32(self.sign),
        ];
        S::launch(x.device(), Launch { kernel: "rope", dtype: x.dtype(), groups: n, arguments })?;
        Ok((y, layout.shape().clone()))
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    forward_on_devices!(x layout);

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let inverse = Rope { sign: -self.sign, ..self.clone() };
        grad.contiguous()?.apply_op1_no_bwd(&inverse).map(Some)
    }
}
