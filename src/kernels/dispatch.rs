//! The choice between the CPU's kernels, a device's own kernels, and the code that runs everywhere.

use candle_core::Tensor;

/// Returns true if the CPU's kernels compute with this tensor. In tests that run the device kernels
/// on the host, the CPU is a device for all types but f64.
pub(crate) fn is_cpu(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if crate::kernels::gpu::tests::on_host() && tensor.dtype() != candle_core::DType::F64 {
        return false;
    }
    tensor.device().is_cpu()
}

/// Returns `$value` from the calling function if the device of `$tensor` has a kernel for it.
///
/// Expands to nothing without the `cuda` or `metal` feature, except in tests.
macro_rules! on_device {
    ($tensor:expr => $value:expr) => {
        #[cfg(any(test, feature = "cuda", feature = "metal"))]
        if crate::kernels::gpu::operator::serves($tensor) {
            return $value;
        }
    };
}
pub(crate) use on_device;
