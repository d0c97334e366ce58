//! Large zeroed buffers on huge pages: touching fresh 4 KiB pages takes longer than the arithmetic
//! of most kernels.

use candle_core::WithDType;
use std::alloc::{alloc_zeroed, handle_alloc_error, Layout};

/// Allocates `n` zeros with untouched pages (`vec![zero; n]` writes those of bf16 and f16 one by
/// one). On Linux, the kernel is advised to back large buffers with transparent huge pages.
#[allow(unsafe_code)]
pub(crate) fn zeros<T: WithDType>(n: usize) -> Vec<T> {
    let layout = match Layout::array::<T>(n) {
        Ok(layout) if layout.size() > 0 => layout,
        _ => return vec![T::zero(); n],
    };
    // SAFETY: the layout is that of a vector of n elements and not empty, and zero bytes are the
    // number 0 in every element type of candle.
    let buffer = unsafe {
        let data = alloc_zeroed(layout).cast::<T>();
        if data.is_null() {
            handle_alloc_error(layout);
        }
        Vec::from_raw_parts(data, n, n)
    };
    #[cfg(target_os = "linux")]
    advise(&buffer);
    buffer
}

#[cfg(target_os = "linux")]
fn advise<T>(buffer: &[T]) {
    const PAGE: usize = 2 << 20;
    /// Bytes from which a buffer requests huge pages.
    const LARGE: usize = 8 << 20;
    let bytes = std::mem::size_of_val(buffer);
    if bytes < LARGE {
        return;
    }
    let address = buffer.as_ptr() as usize;
    let start = address.next_multiple_of(PAGE);
    let length = (address + bytes).saturating_sub(start) / PAGE * PAGE;
    // SAFETY: the range lies inside the buffer. The advice changes no content, and a refusal has no
    // consequences.
    #[allow(unsafe_code)]
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_HUGEPAGE);
    }
}
