//! Launches on CUDA. NVRTC compiles the source on first use, for the device's architecture and an
//! element type; candle keeps the loaded module per device.

use crate::kernels::gpu::launch::{
    check_types, Argument, DeviceStorage, Launch, Matrices, MatricesMut, Multiplication, KERNELS,
    THREADS,
};
use crate::kernels::gpu::rms_norm::rms_norm;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::result::gemm_strided_batched_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::driver::{
    sys, CudaFunction, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::cudarc::nvrtc::{
    compile_ptx_with_opts, CompileError, CompileOptions,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const PRELUDE: &str = include_str!("cuda.inc");

/// The newest architecture that code is generated for; the driver compiles the PTX for later
/// devices.
const NEWEST: i32 = 90;

/// PTX by (architecture, element type).
static COMPILED: Mutex<BTreeMap<(i32, &'static str), Arc<str>>> = Mutex::new(BTreeMap::new());

/// Runs one of candle's kernels and one of this crate's, so that a device or a driver that runs
/// neither is found at once.
pub(crate) fn check(device: &Device) -> Result<()> {
    let zeros = Tensor::zeros((2, 8), DType::F32, device)?;
    let twos = (zeros + 2.0)?;
    rms_norm(&twos, &Tensor::ones(8, DType::F32, device)?, 0.0)?.to_vec2::<f32>().map(drop)
}

/// Functions by (device, kernel, element type).
type Functions = BTreeMap<(usize, &'static str, &'static str), CudaFunction>;

static LOADED: Mutex<Functions> = Mutex::new(BTreeMap::new());

/// Opens an NVIDIA GPU with one stream for all threads, and lets its allocator keep freed memory.
///
/// candle's default is a stream per thread, and these do not wait for each other: a thread could
/// read weights that another still writes.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    let stream = device.cuda_stream();
    let mut kept = u64::MAX;
    let mut pool = std::ptr::null_mut();
    // SAFETY: all work of the device goes through its one stream, so that no event has to order it.
    // The pool belongs to the device that was just opened, and the attribute is a u64.
    #[allow(unsafe_code)]
    unsafe {
        device.disable_event_tracking();
        sys::cuDeviceGetDefaultMemPool(&mut pool, stream.context().cu_device()).result().w()?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut kept).cast()).result().w()?;
    }
    Ok(Device::Cuda(device))
}

/// Compiles all kernels for one element type and a compute capability (80 is 8.0) to PTX.
fn compile(architecture: i32, element: &str) -> Result<String> {
    let source = format!("#define ELEMENT_{element}\n{PRELUDE}\n{KERNELS}");
    let options = CompileOptions {
        name: Some("epo_kernels.cu".to_owned()),
        options: vec![
            format!("--gpu-architecture=compute_{architecture}"),
            "--std=c++17".to_owned(),
        ],
        ..CompileOptions::default()
    };
    match compile_ptx_with_opts(source, options) {
        Ok(ptx) => Ok(ptx.to_src()),
        Err(CompileError::CompileError { log, .. }) => {
            candle_core::bail!("NVRTC: {}", log.to_string_lossy())
        }
        Err(other) => Err(other).w(),
    }
}

/// Returns a kernel, which is looked up in its module only once.
fn function(
    device: &CudaDevice,
    kernel: &'static str,
    dtype: DType,
    stream: &CudaStream,
) -> Result<CudaFunction> {
    let element = dtype.as_str();
    let key = (stream.context().ordinal(), kernel, element);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(function) = loaded.get(&key) {
        return Ok(function.clone());
    }
    let function = load(device, kernel, element, stream)?;
    loaded.insert(key, function.clone());
    Ok(function)
}

fn load(
    device: &CudaDevice,
    kernel: &str,
    element: &'static str,
    stream: &CudaStream,
) -> Result<CudaFunction> {
    let (major, minor) = stream.context().compute_capability().w()?;
    let key = ((10 * major + minor).min(NEWEST), element);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let ptx = match compiled.get(&key) {
        Some(ptx) => ptx.clone(),
        None => {
            let ptx: Arc<str> = compile(key.0, element)?.into();
            compiled.insert(key, ptx.clone());
            ptx
        }
    };
    drop(compiled);
    let name = format!("{kernel}_{element}");
    let module = format!("epo_{element}");
    Ok(device.get_or_load_custom_func(&name, &module, &ptx)?.into_cuda_function())
}

/// Calls `$method` of the slice in a storage, whatever its type.
macro_rules! pointer {
    ($slice:expr, $method:ident, $stream:expr) => {
        match $slice {
            CudaStorageSlice::U32(s) => s.$method($stream),
            CudaStorageSlice::F32(s) => s.$method($stream),
            CudaStorageSlice::BF16(s) => s.$method($stream),
            CudaStorageSlice::F16(s) => s.$method($stream),
            _ => candle_core::bail!("device kernels support u32, f32, bf16 and f16 only"),
        }
    };
}

/// A kernel parameter.
enum Value {
    Pointer(u64),
    U32(u32),
    F32(f32),
}

/// Converts an argument to a kernel parameter, and returns the guard that records its use when the
/// kernel is queued.
fn value<'a>(
    argument: &'a mut Argument<'_, CudaStorage>,
    earlier: &[Value],
    stream: &'a CudaStream,
) -> Result<(Value, Option<SyncOnDrop<'a>>)> {
    let ((pointer, record), start) = match argument {
        Argument::U32(x) => return Ok((Value::U32(*x), None)),
        Argument::F32(x) => return Ok((Value::F32(*x), None)),
        Argument::Same(place) => match earlier.get(*place) {
            Some(Value::Pointer(pointer)) => return Ok((Value::Pointer(*pointer), None)),
            _ => candle_core::bail!("argument {place} is not an earlier buffer"),
        },
        Argument::In(s, start) => {
            (pointer!(&s.slice, device_ptr, stream), *start * s.dtype().size_in_bytes())
        }
        Argument::Out(s, start) => {
            let start = *start * s.dtype().size_in_bytes();
            (pointer!(&mut s.slice, device_ptr_mut, stream), start)
        }
    };
    Ok((Value::Pointer(pointer + start as u64), Some(record)))
}

/// The address of an element of a storage. Its use needs no record: the device has one stream.
fn address(storage: &CudaStorage, start: usize, stream: &CudaStream) -> Result<u64> {
    let (pointer, _record) = pointer!(&storage.slice, device_ptr, stream);
    Ok(pointer + (start * storage.dtype().size_in_bytes()) as u64)
}

fn data_type(dtype: DType) -> Result<blas::cudaDataType> {
    match dtype {
        DType::F32 => Ok(blas::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(blas::cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(blas::cudaDataType::CUDA_R_16F),
        other => candle_core::bail!("device products support f32, bf16 and f16, got {other:?}"),
    }
}

fn operation(transposed: bool) -> blas::cublasOperation_t {
    if transposed {
        blas::cublasOperation_t::CUBLAS_OP_T
    } else {
        blas::cublasOperation_t::CUBLAS_OP_N
    }
}

/// Converts a size to an argument of cuBLAS.
fn int(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(candle_core::Error::wrap)
}

impl DeviceStorage for CudaStorage {
    fn of(storage: &Storage) -> Option<&Self> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn of_mut(storage: &mut Storage) -> Option<&mut Self> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn wrap(self) -> Storage {
        Storage::Cuda(self)
    }

    fn multiply(
        device: &CudaDevice,
        out: MatricesMut<'_, Self>,
        a: Matrices<'_, Self>,
        b: Matrices<'_, Self>,
        size: Multiplication,
    ) -> Result<()> {
        let Multiplication { rows, columns, terms, count, alpha, accumulate } = size;
        check_types(out.storage.dtype(), a.storage.dtype(), b.storage.dtype())?;
        if rows * columns * terms * count == 0 {
            candle_core::bail!("product: {size:?} is empty");
        }
        let stream = device.cuda_stream();
        let beta = if accumulate { 1f32 } else { 0f32 };
        let dtype = data_type(a.storage.dtype())?;
        let blas_handle = device.cublas_handle();
        // cuBLAS stores matrices by columns: it computes outᵀ = bᵀ aᵀ.
        // SAFETY: the pointers are elements of storages that live until the product is queued, and
        // the device frees memory in the order of its stream. The callers' sizes and strides stay
        // inside the storages. α and β are f32, as the computation is.
        #[allow(unsafe_code)]
        unsafe {
            gemm_strided_batched_ex(
                *blas_handle.handle(),
                operation(b.transposed),
                operation(a.transposed),
                int(columns)?,
                int(rows)?,
                int(terms)?,
                (&raw const alpha).cast(),
                address(b.storage, b.start, &stream)? as *const _,
                dtype,
                int(b.stride)?,
                b.batch as i64,
                address(a.storage, a.start, &stream)? as *const _,
                dtype,
                int(a.stride)?,
                a.batch as i64,
                (&raw const beta).cast(),
                address(out.storage, out.start, &stream)? as *mut _,
                data_type(out.storage.dtype())?,
                int(columns)?,
                out.batch as i64,
                int(count)?,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()
    }

    fn launch(device: &CudaDevice, mut launch: Launch<'_, Self>) -> Result<()> {
        let stream = device.cuda_stream();
        let function = function(device, launch.kernel, launch.dtype, &stream)?;
        let groups = u32::try_from(launch.groups).map_err(candle_core::Error::wrap)?;
        let mut values = Vec::new();
        let mut records = Vec::new();
        for argument in &mut launch.arguments {
            let (value, record) = value(argument, &values, &stream)?;
            values.push(value);
            records.push(record);
        }
        let mut builder = stream.launch_builder(&function);
        for value in &values {
            match value {
                Value::Pointer(x) => builder.arg(x),
                Value::U32(x) => builder.arg(x),
                Value::F32(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (groups, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments match the kernel's declaration; every buffer is as long as the
        // sizes among them imply, and lives until its recorded use ends.
        #[allow(unsafe_code)]
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}
