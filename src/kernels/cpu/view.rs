//! Strided matrices over slices: what the matrix multiplications read and write.

use std::marker::PhantomData;
use std::ops::Range;

/// A read-only strided matrix over a slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// A writable strided matrix over a slice.
pub(crate) struct ViewMut<'a, T> {
    pub(crate) data: &'a mut [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Creates the view of `rows` rows of `cols` contiguous elements, `row_stride` elements from
    /// one to the next.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride || rows <= 1, "rows of a view overlap");
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(),
            "view leaves its slice"
        );
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Returns the view of the same elements in another slice of the same length.
    pub(crate) fn with<U>(self, data: &[U]) -> View<'_, U> {
        assert_eq!(data.len(), self.data.len(), "view leaves its slice");
        let View { rows, cols, row_stride, col_stride, .. } = self;
        View { data, rows, cols, row_stride, col_stride }
    }

    /// Returns the first `rows` rows.
    pub(crate) fn top(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "view has fewer rows");
        Self { rows, ..self }
    }

    /// Returns the transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Creates the view of `rows` rows of `cols` contiguous elements, `row_stride` elements from
    /// one to the next.
    pub(crate) fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride || rows <= 1, "rows of a view overlap");
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(),
            "view leaves its slice"
        );
        Self { data, rows, cols, row_stride }
    }

    /// Returns the same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> ViewMut<'_, T> {
        let ViewMut { rows, cols, row_stride, .. } = *self;
        ViewMut { data: &mut *self.data, rows, cols, row_stride }
    }
}

/// A writable matrix whose elements are distributed among threads.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are accessible only through `row`, whose callers guarantee exclusive access.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> From<ViewMut<'a, T>> for Disjoint<'a, T> {
    fn from(view: ViewMut<'a, T>) -> Self {
        let ViewMut { data, rows, cols, row_stride } = view;
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrowed: PhantomData }
    }
}

impl<T> Disjoint<'_, T> {
    /// Returns consecutive elements of a row.
    ///
    /// # Safety
    /// No other reference to these elements exists while the slice lives.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(
            row < self.rows && columns.start <= columns.end && columns.end <= self.cols,
            "outside the matrix"
        );
        // SAFETY: the elements lie inside the borrowed matrix, and the caller guarantees exclusive
        // access.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.row_stride + columns.start),
                columns.len(),
            )
        }
    }
}
