//! Threads that spin while they wait for work.
//!
//! A decoding step consists of about a hundred tasks of a few microseconds, each shorter than the
//! time in which a sleeping thread wakes up.

use rayon::prelude::*;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The threads that share a task.
#[derive(Clone, Copy)]
pub(crate) enum Team<'a> {
    /// rayon's pool, whose threads sleep between calls.
    Pool,
    /// The calling thread, and threads that spin at a gate.
    Awake(&'a Gate),
}

impl Team<'_> {
    /// Calls `f` with as many threads as rayon's pool has; they stay awake until it returns.
    pub(crate) fn awake<R>(f: impl FnOnce(Team<'_>) -> R) -> R {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            for _ in 1..rayon::current_num_threads() {
                // If a thread cannot be started, fewer threads share the work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || gate.serve());
            }
            let _end = End(&gate);
            f(Team::Awake(&gate))
        })
    }

    /// Multiply-adds below which a task runs on the calling thread: another thread would come too
    /// late.
    fn worth_sharing(self) -> usize {
        match self {
            Team::Pool => 1 << 20,
            Team::Awake(_) => 1 << 15,
        }
    }

    /// Returns the number of threads that would share so many multiply-adds.
    pub(crate) fn threads_for(self, multiply_adds: usize) -> usize {
        if multiply_adds < self.worth_sharing() {
            1
        } else {
            rayon::current_num_threads()
        }
    }

    /// Calls `work` with every item; `multiply_adds` is the cost of all items together.
    pub(crate) fn each<I: Send>(
        self,
        items: Vec<I>,
        multiply_adds: usize,
        work: impl Fn(I) + Send + Sync,
    ) {
        let items: Vec<Mutex<Option<I>>> =
            items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.each_index(items.len(), multiply_adds, |i| {
            let item = items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            item.into_iter().for_each(&work);
        });
    }

    /// Calls `work` with 0, 1, … `count` − 1, which each thread takes in this order;
    /// `multiply_adds` is the cost of all together.
    pub(crate) fn each_index(
        self,
        count: usize,
        multiply_adds: usize,
        work: impl Fn(usize) + Send + Sync,
    ) {
        if count < 2 || self.threads_for(multiply_adds) == 1 {
            return (0..count).for_each(work);
        }
        match self {
            Team::Pool => (0..count).into_par_iter().for_each(work),
            Team::Awake(gate) => {
                let next = AtomicUsize::new(0);
                gate.open(&|| loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        i if i < count => work(i),
                        _ => break,
                    }
                });
            }
        }
    }
}

/// The gate at which awake threads wait for work.
///
/// `state` counts openings in units of [`OPENING`]. Its bit [`OPEN`] is set while threads may
/// enter; the bits below count the threads inside.
#[derive(Default)]
pub(crate) struct Gate {
    state: AtomicUsize,
    ended: AtomicBool,
    work: Mutex<Option<Work>>,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

const OPEN: usize = 1 << 15;
const OPENING: usize = 1 << 16;

/// Pointer to the work of the threads inside the gate.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn() + Sync));

// SAFETY: the closure behind the pointer is `Sync`.
#[allow(unsafe_code)]
unsafe impl Send for Work {}

impl Gate {
    /// Calls `work` here and on every thread that enters meanwhile; returns when all have left.
    /// `work` must not open the gate again.
    fn open(&self, work: &(dyn Fn() + Sync)) {
        assert_eq!(
            self.state.load(Ordering::Acquire) & OPEN,
            0,
            "work that a team shares must not share any"
        );
        // SAFETY: only the lifetime changes. Threads call the closure only between entering and
        // leaving. None enters after the gate has closed, and this function neither returns nor
        // unwinds before the gate has closed and all threads inside have left.
        #[allow(unsafe_code)]
        let work: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(Work(work));
        self.state.fetch_add(OPENING | OPEN, Ordering::AcqRel);
        self.call(Work(work));
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_until(|| self.state.load(Ordering::Acquire).is_multiple_of(OPEN));
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    fn call(&self, work: Work) {
        // SAFETY: the caller is inside the gate or is `open` itself; see there.
        #[allow(unsafe_code)]
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work.0)() }));
        if let Err(panic) = result {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }

    /// Enters whenever the gate opens, until the end.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            let mut state = 0;
            wait_until(|| {
                state = self.state.load(Ordering::Acquire);
                (state & OPEN != 0 && state / OPENING != seen) || self.ended.load(Ordering::Acquire)
            });
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            if self
                .state
                .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            seen = state / OPENING;
            let work = *self.work.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(work) = work {
                self.call(work);
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Ends the threads on drop, also after a panic.
struct End<'a>(&'a Gate);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// Iterations of spinning before yielding, some tens of microseconds.
const TURNS: usize = 1 << 10;

fn wait_until(mut done: impl FnMut() -> bool) {
    let mut turns = 0;
    while !done() {
        if turns < TURNS {
            turns += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
    }

    #[test]
    fn every_item_is_worked_on_once() {
        for threads in [1, 2, 5] {
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            with_threads(threads, || {
                Team::awake(|team| {
                    for round in 0..2000 {
                        let items = counts[round % 90..round % 90 + 7].iter().collect();
                        team.each(items, usize::MAX, |count: &AtomicUsize| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            });
            assert_eq!(counts.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>(), 14_000);
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_threads_go_home() {
        let panic = with_threads(3, || {
            catch_unwind(|| {
                Team::awake(|team| team.each((0..50).collect(), usize::MAX, |i| assert_ne!(i, 31)))
            })
        });
        assert!(panic.is_err());
    }

    #[test]
    fn work_that_shares_work_is_refused_and_nobody_waits_for_ever() {
        let nested = |team: Team<'_>| {
            team.each(vec![1, 2], usize::MAX, |_| team.each(vec![1, 2], usize::MAX, |_| ()));
        };
        assert!(with_threads(3, || catch_unwind(|| Team::awake(nested))).is_err());
    }

    #[test]
    fn teams_of_several_threads_do_not_wait_for_each_other() {
        let sum = AtomicUsize::new(0);
        let run = |_| {
            Team::awake(|team| {
                (0..100).for_each(|_| {
                    team.each(vec![1, 2, 3], usize::MAX, |i| {
                        sum.fetch_add(i, Ordering::Relaxed);
                    })
                })
            })
        };
        (0..8).into_par_iter().for_each(run);
        assert_eq!(sum.into_inner(), 4800);
    }
}
