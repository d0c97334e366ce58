//! The metrics and input checks of a loss term, copied from the device together.
//!
//! A copy to the host makes the caller wait until a GPU has done all of its work. A loss term
//! checks several inputs for NaN and reports several numbers, so it collects them here and reads
//! all of them in one copy.

use candle_core::{DType, Tensor};

use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::Result;

/// Numbers on their way to the host.
pub(crate) struct Readout<'a> {
    batch: &'a TokenBatch,
    pending: Vec<(Purpose, Tensor)>,
    metrics: Metrics,
}

/// The use of a tensor on the host.
#[derive(Clone, Copy)]
enum Purpose {
    /// [B, T], zero where masked out: must be finite.
    Check(&'static str),
    /// [B, T]: must be finite; its largest value is a metric (the metric, the tensor's name).
    Maximum(&'static str, &'static str),
    /// A scalar: a metric after multiplication with a factor.
    Sum(&'static str, f64),
}

impl<'a> Readout<'a> {
    /// Starts with nothing to read.
    pub(crate) fn new(batch: &'a TokenBatch) -> Self {
        Self { batch, pending: Vec::new(), metrics: Metrics::new() }
    }

    /// Requires finite values in `x_bt`, which is zero where masked out.
    pub(crate) fn check(&mut self, name: &'static str, x_bt: &Tensor) {
        self.pending.push((Purpose::Check(name), x_bt.detach()));
    }

    /// Reports the largest value of `x_bt` (at least 0) and requires finite values.
    pub(crate) fn maximum(&mut self, metric: &'static str, name: &'static str, x_bt: &Tensor) {
        self.pending.push((Purpose::Maximum(metric, name), x_bt.detach()));
    }

    /// Reports a scalar.
    pub(crate) fn scalar(&mut self, metric: &'static str, x: &Tensor) {
        self.pending.push((Purpose::Sum(metric, 1.0), x.detach()));
    }

    /// Reports `factor` times the mean of `x_bt` over the batch's tokens.
    pub(crate) fn token_mean(
        &mut self,
        metric: &'static str,
        x_bt: &Tensor,
        factor: f64,
    ) -> Result<()> {
        let sum = self.batch.token_sum(x_bt)?;
        self.pending.push((Purpose::Sum(metric, factor * self.batch.share()), sum));
        Ok(())
    }

    /// Reports the share of the batch's tokens for which a 0/1 tensor is 1.
    pub(crate) fn share(&mut self, metric: &'static str, flag_bt: &Tensor) -> Result<()> {
        self.token_mean(metric, &flag_bt.to_dtype(DType::F32)?, 1.0)
    }

    /// Reads what is pending, in one copy; checks run in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) naming the tensor.
    pub(crate) fn read(&mut self) -> Result<()> {
        let (purposes, tensors): (Vec<_>, Vec<_>) = self.pending.drain(..).unzip();
        let mut values = Self::copy(&tensors)?;
        for (purpose, tensor) in purposes.into_iter().zip(&tensors) {
            let rest = values.split_off(tensor.elem_count());
            match purpose {
                Purpose::Check(name) => self.batch.check_finite(name, &values)?,
                Purpose::Maximum(metric, name) => {
                    self.batch.check_finite(name, &values)?;
                    self.metrics.max(metric, values.into_iter().fold(0.0, f64::max));
                }
                Purpose::Sum(metric, factor) => self.metrics.add(metric, values[0] * factor),
            }
            values = rest;
        }
        Ok(())
    }

    /// Reads what is pending and returns all metrics.
    ///
    /// # Errors
    /// As [`Readout::read`].
    pub(crate) fn finish(mut self) -> Result<Metrics> {
        self.read()?;
        Ok(self.metrics)
    }

    /// Copies tensors to the host, one after another, in one transfer.
    pub(crate) fn copy(tensors: &[Tensor]) -> Result<Vec<f64>> {
        #[cfg(test)]
        COPIES.set(COPIES.get() + 1);
        let double = tensors.iter().any(|x| x.dtype() == DType::F64);
        let dtype = if double { DType::F64 } else { DType::F32 };
        let mut flat = Vec::with_capacity(tensors.len());
        for x in tensors {
            flat.push(x.to_dtype(dtype)?.flatten_all()?);
        }
        let all = match flat.as_slice() {
            [] => return Ok(Vec::new()),
            [one] => one.clone(),
            _ => Tensor::cat(&flat, 0)?,
        };
        match dtype {
            DType::F64 => Ok(all.to_vec1()?),
            _ => Ok(all.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// The number of copies that this thread has made.
    pub(crate) static COPIES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::objective::policy::{policy_loss, LossInputs};
    use crate::objective::settings::{PolicyLoss, PolicyLossKind};

    #[test]
    fn a_policy_loss_is_checked_and_reported_in_one_copy() {
        let batch = TokenBatch::turns(&[2, 1], &[0, 0]).unwrap();
        let x_bt = Tensor::new(&[[-0.5f32, -1.0], [-2.0, f32::NAN]], &Device::Cpu).unwrap();
        let inputs = LossInputs::new(&x_bt, &x_bt, &x_bt, &batch);
        let inputs = inputs.with_reference(&x_bt).with_weights(&x_bt);
        let copies = |kind| {
            let before = COPIES.get();
            let settings = PolicyLoss { kl: PolicyLoss::default().kl, ..PolicyLoss::of(kind) };
            policy_loss(&inputs, &settings).unwrap();
            COPIES.get() - before
        };
        assert_eq!(copies(PolicyLossKind::Ppo), 1);
        assert_eq!(copies(PolicyLossKind::Cispo), 1);
        // The turns' mean log-ratios are taken on the host, from inputs that were checked.
        assert_eq!(copies(PolicyLossKind::Gspo), 3);
    }

    #[test]
    fn mask_and_weights_are_built_once() {
        let batch = TokenBatch::turns(&[2, 1], &[0, 0]).unwrap();
        let x_bt = Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], &Device::Cpu).unwrap();
        for _ in 0..3 {
            batch.aggregate(&x_bt).unwrap();
        }
        assert_eq!(batch.cache().count(), 2);
        batch.aggregate(&x_bt.to_dtype(DType::F64).unwrap()).unwrap();
        assert_eq!(batch.cache().count(), 3, "the mask serves every dtype");
        assert_eq!(batch.clone().cache().count(), 0);
    }
}
