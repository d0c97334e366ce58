//! Counter-based random streams: a draw depends only on its key, never on when or where it is made.
//!
//! Batch composition, thread count and completion order therefore cannot change a sample, and a
//! resumed run draws what an uninterrupted one would have drawn: there is no generator state to
//! save.

use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The purpose of a stream of draws; streams that differ only in it are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Parameter initialisation.
    Init = 1,
    /// Choice of a step's tasks.
    Tasks = 2,
    /// Sampling of tokens in training rollouts.
    Rollout = 3,
    /// Sampling of tokens in evaluation.
    Evaluation = 4,
    /// Order of rows in a training epoch.
    Shuffle = 5,
    /// Order and choice of demonstrations in behaviour cloning.
    Cloning = 6,
    /// Resamples of a bootstrap interval.
    Bootstrap = 7,
    /// Mistakes in demonstrations.
    Demonstrations = 8,
    /// Initialisation of LoRA adapters.
    Lora = 9,
    /// Dropout.
    Dropout = 10,
    /// Initialisation of a critic's parameters.
    Critic = 11,
    /// Selection of tokens by a regulariser.
    Selection = 12,
}

/// The key of one stream of draws: (seed, purpose, step, task, member).
///
/// ```
/// use epo::rng::{Purpose, Stream};
/// let s = Stream::new(7, Purpose::Rollout, 3, 1, 0);
/// assert_eq!(s.uniform(2, 5), s.uniform(2, 5));
/// assert_ne!(s.uniform(2, 5), s.uniform(2, 6));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The stream of `seed` for one purpose, step, task and group member.
    pub fn new(seed: u64, purpose: Purpose, step: u64, task: u32, member: u32) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&(purpose as u32).to_le_bytes());
        key[12..20].copy_from_slice(&step.to_le_bytes());
        key[20..24].copy_from_slice(&task.to_le_bytes());
        key[24..28].copy_from_slice(&member.to_le_bytes());
        Self { key }
    }

    /// The uniform draw in [0, 1) with 53 random bits at (`turn`, `token`).
    pub fn uniform(&self, turn: u64, token: u64) -> f64 {
        let mut rng = self.generator(turn);
        rng.set_word_pos(2 * u128::from(token));
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A sequential generator over this stream's sub-stream `turn`.
    pub fn generator(&self, turn: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(turn);
        rng
    }

    /// A permutation of 0..`n` (Fisher–Yates) from sub-stream `turn`.
    pub fn permutation(&self, turn: u64, n: usize) -> Vec<usize> {
        let mut rng = self.generator(turn);
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = ((u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64) as usize;
            order.swap(i, j);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_keys_are_independent() {
        let a = Stream::new(1, Purpose::Rollout, 0, 0, 0);
        let b = Stream::new(1, Purpose::Evaluation, 0, 0, 0);
        let n = 4000u64;
        let mean = |s: &Stream| (0..n).map(|i| s.uniform(i / 50, i % 50)).sum::<f64>() / n as f64;
        assert!((mean(&a) - 0.5).abs() < 0.03 && (mean(&b) - 0.5).abs() < 0.03);
        assert!((0..n).filter(|&i| a.uniform(0, i) == b.uniform(0, i)).count() == 0);
    }

    #[test]
    fn permutation_is_a_permutation() {
        let mut p = Stream::new(3, Purpose::Shuffle, 0, 0, 0).permutation(0, 100);
        assert_ne!(p, (0..100).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..100).collect::<Vec<_>>());
    }
}
