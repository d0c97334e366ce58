//! Operators whose value is computed before candle calls them.

/// Implements the forward methods of a `CustomOp2` that return the tensor `self.value`, which is
/// contiguous.
macro_rules! existing_value {
    (@ $name:ident $Storage:ident $Variant:ident) => {
        fn $name(
            &self,
            _: &candle_core::$Storage,
            _: &candle_core::Layout,
            _: &candle_core::$Storage,
            _: &candle_core::Layout,
        ) -> candle_core::Result<(candle_core::$Storage, candle_core::Shape)> {
            use candle_core::backend::BackendStorage;
            let (storage, layout) = self.value.storage_and_layout();
            match &*storage {
                candle_core::Storage::$Variant(storage) => {
                    Ok((storage.try_clone(layout)?, self.value.shape().clone()))
                }
                _ => candle_core::bail!(
                    "{}: the value is on another device than the input",
                    self.name()
                ),
            }
        }
    };
    () => {
        crate::kernels::autograd::existing::existing_value!(@ cpu_fwd CpuStorage Cpu);
        #[cfg(feature = "cuda")]
        crate::kernels::autograd::existing::existing_value!(@ cuda_fwd CudaStorage Cuda);
        #[cfg(feature = "metal")]
        crate::kernels::autograd::existing::existing_value!(@ metal_fwd MetalStorage Metal);
    };
}
pub(crate) use existing_value;
