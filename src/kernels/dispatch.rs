//! The choice between a device's own kernel and the code that runs everywhere.

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
