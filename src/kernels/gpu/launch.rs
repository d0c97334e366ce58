//! Launches of the device kernels, the same for CUDA and Metal: source, arguments and storages.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Layout, Result, Shape, Storage, StorageRef, Tensor};

/// Source of the kernels, to be preceded by the prelude of a dialect.
pub(crate) const KERNELS: &str = concat!(
    include_str!("elements.inc"),
    include_str!("scores.inc"),
    include_str!("layers.inc"),
    include_str!("rows.inc"),
    include_str!("attention.inc"),
    include_str!("product.inc"),
    include_str!("decode.inc")
);

/// Threads per group.
pub(crate) const THREADS: usize = 256;

/// Maximum number of elements per thread of an element-wise kernel.
const ELEMENTS: usize = 8;

/// Returns the number of groups of an element-wise kernel.
pub(crate) fn element_groups(count: usize) -> usize {
    count.div_ceil(THREADS * ELEMENTS)
}

/// A kernel launch over groups of [`THREADS`] threads. The arguments are in the order of the
/// kernel's parameters.
pub(crate) struct Launch<'a, S> {
    /// Name without the suffix of the element type.
    pub(crate) kernel: &'static str,
    /// The element type.
    pub(crate) dtype: DType,
    pub(crate) groups: usize,
    pub(crate) arguments: Vec<Argument<'a, S>>,
}

pub(crate) enum Argument<'a, S> {
    /// A buffer to read, starting at an element.
    In(&'a S, usize),
    /// A buffer to write, starting at an element.
    Out(&'a mut S, usize),
    /// The buffer of an earlier argument, by its position.
    Same(usize),
    U32(u32),
    F32(f32),
}

/// Matrices of one type in a storage, stored by rows.
pub(crate) struct Matrices<'a, S> {
    pub(crate) storage: &'a S,
    /// Index of the first element.
    pub(crate) start: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Elements from one matrix to the next.
    pub(crate) batch: usize,
    /// The factor is the transpose of what is stored.
    pub(crate) transposed: bool,
}

/// Where products are written: dense matrices in the factors' type or in f32.
pub(crate) struct MatricesMut<'a, S> {
    pub(crate) storage: &'a mut S,
    /// Index of the first element.
    pub(crate) start: usize,
    /// Elements from one matrix to the next.
    pub(crate) batch: usize,
}

/// The size of products and what happens to them: α a b, or out + α a b if `accumulate`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Multiplication {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) terms: usize,
    /// Number of matrices.
    pub(crate) count: usize,
    pub(crate) alpha: f32,
    pub(crate) accumulate: bool,
}

/// A storage on which the kernels run.
pub(crate) trait DeviceStorage:
    BackendStorage<Device: BackendDevice<Storage = Self>>
{
    /// Returns the storage if it belongs to this back end.
    fn of(storage: &Storage) -> Option<&Self>;

    /// Returns the storage for writing if it belongs to this back end.
    fn of_mut(storage: &mut Storage) -> Option<&mut Self>;

    /// Wraps the storage in candle's enum.
    fn wrap(self) -> Storage;

    /// Queues the kernel behind all earlier work of the device.
    fn launch(device: &Self::Device, launch: Launch<'_, Self>) -> Result<()>;

    /// Queues matrix products, added up in f32.
    fn multiply(
        device: &Self::Device,
        out: MatricesMut<'_, Self>,
        a: Matrices<'_, Self>,
        b: Matrices<'_, Self>,
        size: Multiplication,
    ) -> Result<()>;

    /// Allocates an uninitialised storage, which a kernel must fill.
    fn unfilled(device: &Self::Device, count: usize, dtype: DType) -> Result<Self> {
        // SAFETY: numbers have no invalid bit patterns, and the callers' kernels write every
        // element.
        #[allow(unsafe_code)]
        let storage = unsafe { device.alloc_uninit(&Shape::from(count), dtype) };
        storage.map_err(|error| {
            let bytes = count * dtype.size_in_bytes();
            error.context(format!("allocating {} MB on the device", bytes >> 20))
        })
    }

    /// Wraps the storage in a tensor without autograd.
    fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.wrap(), shape, BackpropOp::none(), false)
    }
}

/// A contiguous tensor held for reading.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    pub(crate) start: usize,
}

impl<'a> View<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { storage, start: start_of(layout)? })
    }

    pub(crate) fn get<S: DeviceStorage>(&self) -> Result<&S> {
        match S::of(&self.storage) {
            Some(storage) => Ok(storage),
            None => candle_core::bail!("all tensors of a device kernel must be on its device"),
        }
    }

    pub(crate) fn argument<S: DeviceStorage>(&self) -> Result<Argument<'_, S>> {
        Ok(Argument::In(self.get()?, self.start))
    }
}

/// Returns the index of the first element of a contiguous layout.
pub(crate) fn start_of(layout: &Layout) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => Err(candle_core::Error::RequiresContiguous { op: "device kernel" }),
    }
}

/// Rows and columns of a group's tile of a product.
#[cfg(any(test, feature = "metal"))]
const TILE: usize = 32;

/// [`DeviceStorage::multiply`] by this crate's kernel, for back ends without a library for it.
#[cfg(any(test, feature = "metal"))]
pub(crate) fn multiply_by_kernel<S: DeviceStorage>(
    device: &S::Device,
    out: MatricesMut<'_, S>,
    a: Matrices<'_, S>,
    b: Matrices<'_, S>,
    shape: Multiplication,
) -> Result<()> {
    let Multiplication { rows, columns, terms, count, alpha, accumulate } = shape;
    let dtype = a.storage.dtype();
    check_types(out.storage.dtype(), dtype, b.storage.dtype())?;
    let kernel = if out.storage.dtype() == dtype { "product" } else { "product_float" };
    let mut arguments = vec![
        Argument::In(a.storage, a.start),
        Argument::In(b.storage, b.start),
        Argument::Out(out.storage, out.start),
        size(rows)?,
        size(columns)?,
        size(terms)?,
    ];
    for factor in [&a, &b] {
        let (row, column) = if factor.transposed { (1, factor.stride) } else { (factor.stride, 1) };
        arguments.extend([size(row)?, size(column)?, size(factor.batch)?]);
    }
    arguments.extend([size(out.batch)?, Argument::F32(alpha), size(accumulate.into())?]);
    let groups = count * rows.div_ceil(TILE) * columns.div_ceil(TILE);
    S::launch(device, Launch { kernel, dtype, groups, arguments })
}

/// Checks that products can be computed: factors of one type, and a result of this type or f32.
pub(crate) fn check_types(out: DType, a: DType, b: DType) -> Result<()> {
    if a != b || (out != a && out != DType::F32) {
        candle_core::bail!("product: factors of {a:?} and {b:?} give no {out:?}");
    }
    Ok(())
}

/// Converts a size to a kernel argument.
pub(crate) fn size<'a, S>(value: usize) -> Result<Argument<'a, S>> {
    match u32::try_from(value) {
        Ok(value) => Ok(Argument::U32(value)),
        Err(_) => candle_core::bail!("sizes of a device kernel must be below 2³², got {value}"),
    }
}
