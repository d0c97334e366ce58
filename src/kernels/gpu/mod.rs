//! Kernels for CUDA and Metal devices, written once.
//!
//! `elements.inc`, `scores.inc` and `layers.inc` hold them in the common subset of CUDA C++ and MSL; a prelude per
//! dialect goes before them. An operator describes its launch once, as a `Launch` over the storages of either back
//! end; `cuda.rs` and `metal.rs` compile the source at run time and carry the launch out. Elements are f32, bf16 or
//! f16, arithmetic is f32. Tensors of other types, and operators without a kernel, go through [`crate::kernels::composed`] on the same device.
//!
//! The operators of [`super`] come here by themselves.

pub(crate) mod adamw;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod logprob_entropy;
#[cfg(feature = "metal")]
pub(crate) mod metal;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
#[cfg(test)]
mod tests;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, DeviceLocation, Layout, Result, Shape, Storage, StorageRef, Tensor};

/// The kernels, after the prelude of a dialect.
const KERNELS: &str =
    concat!(include_str!("elements.inc"), include_str!("scores.inc"), include_str!("layers.inc"));

/// Threads of every group.
const THREADS: usize = 256;

/// Elements that a thread of an element-wise kernel works through at most.
const ELEMENTS: usize = 8;

/// Groups of an element-wise kernel.
fn element_groups(count: usize) -> usize {
    count.div_ceil(THREADS * ELEMENTS)
}

/// Whether the tensor lies on a device, and in a type, that the kernels serve.
pub(crate) fn serves(tensor: &Tensor) -> bool {
    let device = match tensor.device().location() {
        DeviceLocation::Cuda { .. } => cfg!(feature = "cuda"),
        DeviceLocation::Metal { .. } => cfg!(feature = "metal"),
        #[cfg(test)]
        DeviceLocation::Cpu => tests::on_host(),
        #[cfg(not(test))]
        DeviceLocation::Cpu => false,
    };
    device
        && matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && tensor.elem_count() > 0
}

/// One kernel over groups of [`THREADS`] threads; the arguments are in the order of its parameters.
struct Launch<'a, S> {
    /// Name without the suffix of the element type.
    kernel: &'static str,
    /// The element type.
    dtype: DType,
    groups: usize,
    arguments: Vec<Argument<'a, S>>,
}

enum Argument<'a, S> {
    /// Read from an element on.
    In(&'a S, usize),
    /// Written from an element on.
    Out(&'a mut S, usize),
    /// The buffer of an earlier argument, by its place.
    Same(usize),
    U32(u32),
    F32(f32),
}

/// A storage that kernels run on.
trait DeviceStorage: BackendStorage<Device: BackendDevice<Storage = Self>> {
    /// The storage, where it is of this back end.
    fn of(storage: &Storage) -> Option<&Self>;

    /// The storage for writing, where it is of this back end.
    fn of_mut(storage: &mut Storage) -> Option<&mut Self>;

    /// The storage as candle's sum type.
    fn wrap(self) -> Storage;

    /// Queues the kernel behind all earlier work of the device.
    fn launch(device: &Self::Device, launch: Launch<'_, Self>) -> Result<()>;

    /// A storage for a kernel to fill.
    fn unfilled(device: &Self::Device, count: usize, dtype: DType) -> Result<Self> {
        // SAFETY: numbers have no invalid bit patterns, and the callers' kernels write every element.
        #[allow(unsafe_code)]
        unsafe {
            device.alloc_uninit(&Shape::from(count), dtype)
        }
    }

    /// The storage as a tensor without a graph.
    fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.wrap(), shape, BackpropOp::none(), false)
    }
}

/// A contiguous tensor held for reading.
struct View<'a> {
    storage: StorageRef<'a>,
    start: usize,
}

impl<'a> View<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { storage, start: start_of(layout)? })
    }

    fn get<S: DeviceStorage>(&self) -> Result<&S> {
        match S::of(&self.storage) {
            Some(storage) => Ok(storage),
            None => candle_core::bail!("a kernel's tensors must all lie on its device"),
        }
    }

    fn argument<S: DeviceStorage>(&self) -> Result<Argument<'_, S>> {
        Ok(Argument::In(self.get()?, self.start))
    }
}

/// The first element of a contiguous layout.
fn start_of(layout: &Layout) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => Err(candle_core::Error::RequiresContiguous { op: "device kernel" }),
    }
}

/// A size as a kernel argument.
fn size<'a, S>(value: usize) -> Result<Argument<'a, S>> {
    match u32::try_from(value) {
        Ok(value) => Ok(Argument::U32(value)),
        Err(_) => candle_core::bail!("a device kernel takes sizes below 2³², not {value}"),
    }
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
use with_storage;

/// The forward methods of a custom operator by its generic `forward(storage, layout, …)`; none on the CPU
/// but in tests.
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
        forward_on_devices!(@ "cuda" cuda_fwd CudaStorage $($s $l),+);
        forward_on_devices!(@ "metal" metal_fwd MetalStorage $($s $l),+);
    };
}
use forward_on_devices;

/// The methods of an in-place operator with one source by its generic `update(target, layout, source, layout)`; none
/// on the CPU but in tests.
macro_rules! update_on_devices {
    (@ $feature:literal $method:ident $Storage:ident) => {
        #[cfg(feature = $feature)]
        fn $method(
            &self,
            target: &mut candle_core::$Storage,
            layout: &candle_core::Layout,
            source: &candle_core::$Storage,
            source_layout: &candle_core::Layout,
        ) -> candle_core::Result<()> {
            self.update(target, layout, source, source_layout)
        }
    };
    () => {
        fn cpu_fwd(
            &self,
            target: &mut candle_core::CpuStorage,
            layout: &candle_core::Layout,
            source: &candle_core::CpuStorage,
            source_layout: &candle_core::Layout,
        ) -> candle_core::Result<()> {
            #[cfg(test)]
            return self.update(target, layout, source, source_layout);
            #[cfg(not(test))]
            {
                let _ = (target, layout, source, source_layout);
                candle_core::bail!("{} is a device kernel", self.name())
            }
        }
        update_on_devices!(@ "cuda" cuda_fwd CudaStorage);
        update_on_devices!(@ "metal" metal_fwd MetalStorage);
    };
}
use update_on_devices;
