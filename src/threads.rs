//! Coarse jobs on operating-system threads of their own.
//!
//! Kernels share their work through rayon's pool. Two kinds of jobs must stay out of that pool.
//! A pool thread that waits for a kernel may start any other job of the pool: micro-batches would
//! then nest their backward passes and hold more activations than there are threads. And an
//! environment that waits for another process would block its pool thread, so no more environments
//! than cores could wait at the same time.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

/// Calls `job` with each item on up to `threads` threads; returns the results in the items' order.
///
/// A job that panics gives an `Err` with the panic and does not affect the others.
pub(crate) fn on_threads<I: Send, T: Send>(
    items: Vec<I>,
    threads: usize,
    job: impl Fn(I) -> T + Sync,
) -> Vec<std::thread::Result<T>> {
    let threads = threads.min(items.len());
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((index, item)) = next() {
            done.push((index, catch_unwind(AssertUnwindSafe(|| job(item)))));
        }
        done
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn results_keep_the_order_of_the_items_for_any_number_of_threads() {
        for threads in [1, 2, 5, 64] {
            let results = on_threads((0..20).collect(), threads, |i: u64| {
                std::thread::sleep(std::time::Duration::from_micros(20 - i));
                i * i
            });
            let results: Vec<u64> = results.into_iter().map(Result::unwrap).collect();
            assert_eq!(results, (0..20).map(|i| i * i).collect::<Vec<_>>());
        }
        assert!(on_threads(Vec::<u8>::new(), 4, |i| i).is_empty());
    }

    #[test]
    fn as_many_jobs_wait_at_the_same_time_as_there_are_threads() {
        let all_here = Barrier::new(40);
        let results = on_threads(vec![(); 40], 40, |()| all_here.wait().is_leader());
        let leaders = results.into_iter().filter(|leads| matches!(leads, Ok(true))).count();
        assert_eq!(leaders, 1);
    }

    #[test]
    fn a_panic_is_the_result_of_its_item_alone() {
        let results = on_threads(vec![1, 0, 2], 1, |i| 10 / i);
        let good: Vec<Option<i32>> = results.into_iter().map(Result::ok).collect();
        assert_eq!(good, [Some(10), None, Some(5)]);
    }
}
