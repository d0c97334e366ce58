//! The parts of candle operators that run on a device: which tensors they serve, and their methods
//! per back end.

use candle_core::{DType, DeviceLocation, Tensor};

/// Returns true if the kernels support the tensor's device and type.
pub(crate) fn serves(tensor: &Tensor) -> bool {
    let device = match tensor.device().location() {
        DeviceLocation::Cuda { .. } => cfg!(feature = "cuda"),
        DeviceLocation::Metal { .. } => cfg!(feature = "metal"),
        #[cfg(test)]
        DeviceLocation::Cpu => crate::kernels::gpu::tests::on_host(),
        #[cfg(not(test))]
        DeviceLocation::Cpu => false,
    };
    device
        && matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && tensor.elem_count() > 0
}

/// Runs `$body` with `$S` bound to the storage type of the tensor's device.
macro_rules! with_storage {
    ($tensor:expr, $S:ident => $body:expr) => {
        match $tensor.device() {
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(_) => {
                type $S = candle_core::CudaStorage;
                $body
            }
            #[cfg(feature = "metal")]
            candle_core::Device::Metal(_) => {
                type $S = candle_core::MetalStorage;
                $body
            }
            #[cfg(test)]
            candle_core::Device::Cpu => {
                type $S = candle_core::CpuStorage;
                $body
            }
            #[allow(unreachable_patterns)]
            other => candle_core::bail!("no device kernels on {:?}", other.location()),
        }
    };
}
pub(crate) use with_storage;

/// Implements the forward methods of a custom operator with its generic `forward(storage, layout,
/// …)`. The CPU method is for tests only.
macro_rules! forward_on_devices {
    (@ $feature:literal $method:ident $Storage:ident $($s:ident $l:ident),+) => {
        #[cfg(feature = $feature)]
        fn $method(
            &self,
            $($s: &candle_core::$Storage, $l: &candle_core::Layout),+
        ) -> candle_core::Result<(candle_core::$Storage, candle_core::Shape)> {
            self.forward($($s, $l),+)
        }
    };
    ($($s:ident $l:ident),+) => {
        fn cpu_fwd(
            &self,
            $($s: &candle_core::CpuStorage, $l: &candle_core::Layout),+
        ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
            #[cfg(test)]
            return self.forward($($s, $l),+);
            #[cfg(not(test))]
            {
                let _ = ($($s, $l),+);
                candle_core::bail!("{} is a device kernel", self.name())
            }
        }
        crate::kernels::gpu::operator::forward_on_devices!(
            @ "cuda" cuda_fwd CudaStorage $($s $l),+
        );
        crate::kernels::gpu::operator::forward_on_devices!(
            @ "metal" metal_fwd MetalStorage $($s $l),+
        );
    };
}
pub(crate) use forward_on_devices;

/// Implements the methods of an in-place operator with its generic `update(target, layout, …)`,
/// with a storage and its layout for every source. The CPU method is for tests only.
macro_rules! update_on_devices {
    (@ $feature:literal $method:ident $Storage:ident $($s:ident $l:ident),*) => {
        #[cfg(feature = $feature)]
        fn $method(
            &self,
            target: &mut candle_core::$Storage,
            layout: &candle_core::Layout,
            $($s: &candle_core::$Storage, $l: &candle_core::Layout),*
        ) -> candle_core::Result<()> {
            self.update(target, layout, $($s, $l),*)
        }
    };
    ($($s:ident $l:ident),*) => {
        fn cpu_fwd(
            &self,
            target: &mut candle_core::CpuStorage,
            layout: &candle_core::Layout,
            $($s: &candle_core::CpuStorage, $l: &candle_core::Layout),*
        ) -> candle_core::Result<()> {
            #[cfg(test)]
            return self.update(target, layout, $($s, $l),*);
            #[cfg(not(test))]
            {
                let _ = (target, layout, $($s, $l),*);
                candle_core::bail!("{} is a device kernel", self.name())
            }
        }
        crate::kernels::gpu::operator::update_on_devices!(
            @ "cuda" cuda_fwd CudaStorage $($s $l),*
        );
        crate::kernels::gpu::operator::update_on_devices!(
            @ "metal" metal_fwd MetalStorage $($s $l),*
        );
    };
}
pub(crate) use update_on_devices;
