//! AdamW on a device: parameter and moments updated in place, in one pass.

use crate::kernels::gpu::launch::{
    element_groups, size, start_of, Argument, DeviceStorage, Launch, View,
};
use crate::kernels::gpu::operator::{update_on_devices, with_storage};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Storage, Tensor, Var};
use std::sync::{Mutex, PoisonError};

/// First and second moment of one parameter, in f32 on its device.
#[derive(Debug)]
pub(crate) struct Moments(Box<[Storage; 2]>);

impl Moments {
    /// Uploads moments with these values to the device of `var`.
    pub(crate) fn new(var: &Var, first: &[f32], second: &[f32]) -> Result<Self> {
        let view = View::of(var)?;
        with_storage!(var, S => {
            let device = view.get::<S>()?.device();
            let upload = |values| device.storage_from_slice::<f32>(values).map(S::wrap);
            Ok(Self(Box::new([upload(first)?, upload(second)?])))
        })
    }

    /// Downloads the moments.
    pub(crate) fn to_host(&self) -> Result<[Vec<f32>; 2]> {
        let [first, second] = &*self.0;
        Ok([download(first)?, download(second)?])
    }

    /// Applies one step to `var`; `coefficients` are β₁, β₂, 1 − ηλ, η/(1 − β₁ᵗ), 1/√(1 − β₂ᵗ) and
    /// ε.
    pub(crate) fn update(
        &mut self,
        var: &Var,
        grad: &Tensor,
        coefficients: [f32; 6],
    ) -> Result<()> {
        let grad = grad.to_dtype(var.dtype())?.contiguous()?;
        var.inplace_op2(&grad, &Update { moments: Mutex::new(&mut self.0), coefficients })
    }
}

fn download(storage: &Storage) -> Result<Vec<f32>> {
    let host = match storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => storage.to_cpu_storage()?,
        #[cfg(feature = "metal")]
        Storage::Metal(storage) => storage.to_cpu_storage()?,
        #[cfg(test)]
        Storage::Cpu(storage) => storage.clone(),
        #[allow(unreachable_patterns)]
        other => candle_core::bail!("no device kernels on {:?}", other.device().location()),
    };
    match host {
        CpuStorage::F32(values) => Ok(values),
        other => candle_core::bail!("adamw: the moments must be f32, got {:?}", other.dtype()),
    }
}

struct Update<'a> {
    moments: Mutex<&'a mut [Storage; 2]>,
    coefficients: [f32; 6],
}

impl Update<'_> {
    fn update<S: DeviceStorage>(
        &self,
        x: &mut S,
        layout: &Layout,
        grad: &S,
        lg: &Layout,
    ) -> Result<()> {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = &mut **moments;
        let (Some(first), Some(second)) = (S::of_mut(first), S::of_mut(second)) else {
            candle_core::bail!("adamw: the moments are on another device than the parameter");
        };
        let device = x.device().clone();
        let dtype = x.dtype();
        let count = layout.shape().elem_count();
        let mut arguments = vec![
            Argument::Out(x, start_of(layout)?),
            Argument::In(grad, start_of(lg)?),
            Argument::Out(first, 0),
            Argument::Out(second, 0),
        ];
        arguments.extend(self.coefficients.map(Argument::F32));
        arguments.push(size(count)?);
        S::launch(
            &device,
            Launch { kernel: "adamw", dtype, groups: element_groups(count), arguments },
        )
    }
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    update_on_devices!();
}
