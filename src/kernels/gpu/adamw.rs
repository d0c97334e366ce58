//! AdamW on a device: parameter, moments and master copy updated in place, in one pass.

use crate::kernels::cpu::optimizer::AdamWState;
use crate::kernels::gpu::launch::{
    element_groups, size, start_of, Argument, DeviceStorage, Launch, View,
};
use crate::kernels::gpu::operator::{update_on_devices, with_storage};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Shape, Storage, Tensor, Var};
use std::sync::{Mutex, PoisonError};

/// An [`AdamWState`] on the parameter's device.
#[derive(Debug)]
pub(crate) struct State {
    first: Storage,
    second: Storage,
    master: Option<Storage>,
}

impl State {
    /// Moments of 0, and a copy of `var` if it is bf16 or f16.
    pub(crate) fn zero(var: &Var) -> Result<Self> {
        let view = View::of(var)?;
        with_storage!(var, S => {
            let storage = view.get::<S>()?;
            let device = storage.device();
            let zeros = || device.zeros_impl(&Shape::from(var.elem_count()), DType::F32);
            let widen = || storage.to_dtype(var.layout(), DType::F32);
            let master = (var.dtype() != DType::F32).then(widen).transpose()?;
            Ok(Self {
                first: S::wrap(zeros()?),
                second: S::wrap(zeros()?),
                master: master.map(S::wrap),
            })
        })
    }

    /// Uploads numbers to the device of `var`.
    pub(crate) fn from_host(var: &Var, host: &AdamWState) -> Result<Self> {
        let view = View::of(var)?;
        with_storage!(var, S => {
            let device = view.get::<S>()?.device();
            let upload = |values: &Vec<f32>| device.storage_from_slice::<f32>(values).map(S::wrap);
            let [first, second] = &host.moments;
            Ok(Self {
                first: upload(first)?,
                second: upload(second)?,
                master: host.master.as_ref().map(upload).transpose()?,
            })
        })
    }

    /// Downloads the numbers.
    pub(crate) fn to_host(&self) -> Result<AdamWState> {
        let moments = [download(&self.first)?, download(&self.second)?];
        Ok(AdamWState { moments, master: self.master.as_ref().map(download).transpose()? })
    }

    /// Applies one step to `var`; `coefficients` are the gradient's factor, β₁, β₂, 1 − ηλ,
    /// η/(1 − β₁ᵗ), 1/√(1 − β₂ᵗ) and ε.
    pub(crate) fn update(
        &mut self,
        var: &Var,
        grad: &Tensor,
        coefficients: [f32; 7],
    ) -> Result<()> {
        let grad = grad.to_dtype(DType::F32)?.contiguous()?;
        var.inplace_op2(&grad, &Update { state: Mutex::new(self), coefficients })
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
        other => candle_core::bail!("adamw: the state must be f32, got {:?}", other.dtype()),
    }
}

struct Update<'a> {
    state: Mutex<&'a mut State>,
    coefficients: [f32; 7],
}

impl Update<'_> {
    fn update<S: DeviceStorage>(
        &self,
        x: &mut S,
        layout: &Layout,
        grad: &S,
        lg: &Layout,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { first, second, master } = &mut **state;
        let own = |storage| match S::of_mut(storage) {
            Some(storage) => Ok(Argument::Out(storage, 0)),
            None => candle_core::bail!("adamw: the state is on another device than the parameter"),
        };
        let device = x.device().clone();
        let dtype = x.dtype();
        let count = layout.shape().elem_count();
        let kernel = if master.is_some() { "adamw_master" } else { "adamw" };
        let mut arguments = vec![
            Argument::Out(x, start_of(layout)?),
            Argument::In(grad, start_of(lg)?),
            own(first)?,
            own(second)?,
        ];
        if let Some(master) = master {
            arguments.push(own(master)?);
        }
        arguments.extend(self.coefficients.map(Argument::F32));
        arguments.push(size(count)?);
        S::launch(&device, Launch { kernel, dtype, groups: element_groups(count), arguments })
    }
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    update_on_devices!(grad lg);
}
