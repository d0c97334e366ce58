//! Large zeroed buffers on huge pages: touching fresh 4 KiB pages costs more than most kernels' arithmetic.

/// `n` zeros; on Linux a large buffer is advised to use transparent huge pages.
pub(crate) fn zeros<T: candle_core::WithDType>(n: usize) -> Vec<T> {
    let buffer = vec![T::zero(); n];
    #[cfg(target_os = "linux")]
    advise(&buffer);
    buffer
}

#[cfg(target_os = "linux")]
fn advise<T>(buffer: &[T]) {
    const PAGE: usize = 2 << 20;
    /// Bytes from which a buffer asks for huge pages.
    const LARGE: usize = 8 << 20;
    let bytes = std::mem::size_of_val(buffer);
    if bytes < LARGE {
        return;
    }
    let address = buffer.as_ptr() as usize;
    let start = address.next_multiple_of(PAGE);
    let length = (address + bytes).saturating_sub(start) / PAGE * PAGE;
    // SAFETY: the range lies inside the buffer; the advice changes no content, and that it is refused does not
    // matter.
    #[allow(unsafe_code)]
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_HUGEPAGE);
    }
}
