//! The element-wise half of [`crate::kernels::swiglu()`] on a device.

use crate::kernels::gpu::launch::{size, start_of, Argument, DeviceStorage, Launch, View};
use crate::kernels::gpu::operator::{forward_on_devices, with_storage};
use candle_core::{CustomOp2, Layout, Result, Shape, Tensor};

/// Computes silu(a) ∘ b for a and b of one shape.
pub(crate) fn silu_mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Gate)
}

/// silu(a) ∘ b.
struct Gate;

impl Gate {
    fn forward<S: DeviceStorage>(
        &self,
        a: &S,
        la: &Layout,
        b: &S,
        lb: &Layout,
    ) -> Result<(S, Shape)> {
        let count = la.shape().elem_count();
        let mut y = S::unfilled(a.device(), count, a.dtype())?;
        let arguments = vec![
            Argument::In(a, start_of(la)?),
            Argument::In(b, start_of(lb)?),
            Argument::Out(&mut y, 0),
            size(count)?,
        ];
        let groups = crate::kernels::gpu::launch::element_groups(count);
        S::launch(a.device(), Launch { kernel: "swiglu", dtype: a.dtype(), groups, arguments })?;
        Ok((y, la.shape().clone()))
    }

    /// (da, db).
    fn gradient<S: DeviceStorage>(a: &Tensor, b: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let count = a.elem_count();
        let views = [View::of(a)?, View::of(b)?, View::of(dy)?];
        let device = views[0].get::<S>()?.device();
        let mut da = S::unfilled(device, count, a.dtype())?;
        let mut db = S::unfilled(device, count, a.dtype())?;
        let mut arguments = views.iter().map(View::argument).collect::<Result<Vec<_>>>()?;
        arguments.extend([Argument::Out(&mut da, 0), Argument::Out(&mut db, 0), size(count)?]);
        let groups = crate::kernels::gpu::launch::element_groups(count);
        S::launch(
            device,
            Launch { kernel: "swiglu_gradient", dtype: a.dtype(), groups, arguments },
        )?;
        Ok((da.tensor(a.shape()), db.tensor(b.shape())))
    }
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    forward_on_devices!(a la, b lb);

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (da, db) = with_storage!(a, S => Self::gradient::<S>(a, b, &grad))?;
        Ok((Some(da), Some(db)))
    }
}
