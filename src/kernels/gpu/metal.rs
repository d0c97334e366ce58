//! Launches on Metal. The source is compiled on first use, without fast math; pipelines are kept
//! per device.

use crate::kernels::gpu::launch::{
    multiply_by_kernel, Argument, DeviceStorage, Launch, Matrices, MatricesMut, Multiplication,
    KERNELS, THREADS,
};
use candle_core::backend::BackendStorage;
use candle_core::{DType, Error, MetalDevice, MetalStorage, Result, Storage};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder, ComputePipeline, Library};
use objc2_metal::{MTLCompileOptions, MTLSize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

const PRELUDE: &str = include_str!("metal.inc");

/// Libraries by (device, element type) and pipelines by (device, function).
static COMPILED: Mutex<Compiled> =
    Mutex::new(Compiled { libraries: BTreeMap::new(), pipelines: BTreeMap::new() });

struct Compiled {
    libraries: BTreeMap<(u64, &'static str), Library>,
    pipelines: BTreeMap<(u64, String), ComputePipeline>,
}

impl Compiled {
    fn library(&mut self, device: &MetalDevice, element: &'static str) -> Result<Library> {
        let key = (device.metal_device().registry_id(), element);
        if let Some(library) = self.libraries.get(&key) {
            return Ok(library.clone());
        }
        let source = format!("#define ELEMENT_{element}\n{PRELUDE}\n{KERNELS}");
        let options = MTLCompileOptions::new();
        // The replacement requires macOS 15; this method works on every version.
        #[allow(deprecated)]
        options.setFastMathEnabled(false);
        let library = device
            .metal_device()
            .new_library_with_source(&source, Some(&options))
            .map_err(Error::wrap)?;
        self.libraries.insert(key, library.clone());
        Ok(library)
    }

    fn pipeline(
        &mut self,
        device: &MetalDevice,
        kernel: &str,
        dtype: DType,
    ) -> Result<ComputePipeline> {
        let element = dtype.as_str();
        let key = (device.metal_device().registry_id(), format!("{kernel}_{element}"));
        if let Some(pipeline) = self.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let function =
            self.library(device, element)?.get_function(&key.1, None).map_err(Error::wrap)?;
        let pipeline = device
            .metal_device()
            .new_compute_pipeline_state_with_function(&function)
            .map_err(Error::wrap)?;
        if pipeline.max_total_threads_per_threadgroup() < THREADS {
            candle_core::bail!("{}: the device runs groups of fewer than {THREADS} threads", key.1);
        }
        self.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn buffer<'a>(argument: &'a Argument<'_, MetalStorage>) -> Option<(&'a Buffer, usize)> {
    let (storage, start) = match argument {
        Argument::In(storage, start) => (*storage, start),
        Argument::Out(storage, start) => (&**storage, start),
        _ => return None,
    };
    Some((storage.buffer(), start * storage.dtype().size_in_bytes()))
}

fn set_arguments(
    encoder: &ComputeCommandEncoder,
    arguments: &[Argument<'_, MetalStorage>],
) -> Result<()> {
    for (place, argument) in arguments.iter().enumerate() {
        let source = match argument {
            Argument::Same(earlier) => arguments.get(*earlier).and_then(buffer),
            other => buffer(other),
        };
        match (argument, source) {
            (Argument::U32(x), _) => encoder.set_bytes(place, x),
            (Argument::F32(x), _) => encoder.set_bytes(place, x),
            (Argument::In(..), Some((buffer, start))) => {
                encoder.set_input_buffer(place, Some(buffer), start)
            }
            (_, Some((buffer, start))) => encoder.set_output_buffer(place, Some(buffer), start),
            (_, None) => candle_core::bail!("argument {place} refers to no buffer"),
        }
    }
    Ok(())
}

impl DeviceStorage for MetalStorage {
    fn of(storage: &Storage) -> Option<&Self> {
        match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        }
    }

    fn of_mut(storage: &mut Storage) -> Option<&mut Self> {
        match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        }
    }

    fn wrap(self) -> Storage {
        Storage::Metal(self)
    }

    fn multiply(
        device: &MetalDevice,
        out: MatricesMut<'_, Self>,
        a: Matrices<'_, Self>,
        b: Matrices<'_, Self>,
        size: Multiplication,
    ) -> Result<()> {
        multiply_by_kernel(device, out, a, b, size)
    }

    fn launch(device: &MetalDevice, launch: Launch<'_, Self>) -> Result<()> {
        let pipeline = COMPILED.lock().unwrap_or_else(PoisonError::into_inner).pipeline(
            device,
            launch.kernel,
            launch.dtype,
        )?;
        let guard = device.command_encoder()?;
        let encoder: &ComputeCommandEncoder = guard.as_ref();
        encoder.set_compute_pipeline_state(&pipeline);
        set_arguments(encoder, &launch.arguments)?;
        let line = |width| MTLSize { width, height: 1, depth: 1 };
        encoder.dispatch_thread_groups(line(launch.groups), line(THREADS));
        Ok(())
    }
}
