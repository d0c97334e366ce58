//! Buffers that a thread reuses. An allocator may return freed memory to the system; touching it
//! again then costs page faults, in tasks that take microseconds.

use crate::kernels::cpu::buffer::zeros;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A buffer of f32 whose memory the thread keeps for later buffers.
pub(crate) struct Scratch {
    /// Holds at least `len` numbers.
    buffer: Vec<f32>,
    len: usize,
}

/// Upper bound on the numbers in all buffers that a thread keeps.
const KEPT: usize = 1 << 23;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// Creates a buffer of `n` numbers of any value.
    pub(crate) fn new(n: usize) -> Self {
        let spare = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            let fitting = (0..spare.len()).filter(|&i| spare[i].len() >= n);
            let smallest = fitting.min_by_key(|&i| spare[i].len());
            smallest.map(|i| spare.swap_remove(i))
        });
        let buffer = spare.ok().flatten().unwrap_or_else(|| zeros(n));
        Self { buffer, len: n }
    }

    /// Creates a buffer of `n` zeros.
    pub(crate) fn zeros(n: usize) -> Self {
        let mut out = Self::new(n);
        out.fill(0.0);
        out
    }
}

impl From<Vec<f32>> for Scratch {
    fn from(buffer: Vec<f32>) -> Self {
        Self { len: buffer.len(), buffer }
    }
}

impl From<Scratch> for Vec<f32> {
    fn from(mut scratch: Scratch) -> Self {
        let mut buffer = std::mem::take(&mut scratch.buffer);
        buffer.truncate(scratch.len);
        buffer
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // Fails only if the thread is ending.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            let kept: usize = spare.iter().map(Vec::len).sum();
            if !buffer.is_empty() && kept + buffer.len() <= KEPT {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_zeros_are_zeros() {
        let mut first = Scratch::new(1000);
        first.fill(7.0);
        let place = first.as_ptr();
        drop(first);
        let second = Scratch::zeros(900);
        assert_eq!((second.as_ptr(), second.len()), (place, 900));
        assert!(second.iter().all(|&x| x == 0.0));
        let kept: Vec<f32> = second.into();
        assert_eq!(kept, vec![0.0; 900]);
        assert_ne!(Scratch::new(900).as_ptr(), place);
    }

    #[test]
    fn what_a_thread_keeps_is_bounded() {
        let many: Vec<Scratch> = (1..=10).map(|i| Scratch::new(KEPT / 10 * i / 2)).collect();
        drop((many, Scratch::new(KEPT + 1)));
        SPARE.with_borrow(|spare| {
            assert!(!spare.is_empty() && spare.iter().map(Vec::len).sum::<usize>() <= KEPT);
        });
    }
}
