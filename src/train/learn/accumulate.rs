//! Gradient accumulation for policy and critic: the rows of each optimiser step, micro-batches on
//! threads, and gradients summed in a fixed order.
//!
//! Micro-batches bound memory and share the work between cores. Their gradients are added in the
//! order of the rows, so the sum does not depend on the number of threads, bit for bit.

use std::panic::resume_unwind;

use candle_core::{DType, Device, Tensor};

use crate::kernels::dispatch::is_cpu;
use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::policy::gradients::{GradientSum, Gradients, MicroGradients};
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::{layout, MicroBatch, Row, RowKind};
use crate::rollout::trajectory::Trajectory;
use crate::threads::on_threads;
use crate::train::config::update::UpdateConfig;
use crate::{Error, Result};

/// The loss of a micro-batch, given its token batch and the indices of its rows.
pub(crate) type MicroLoss<'a> =
    dyn Fn(&MicroBatch, &TokenBatch, &[usize]) -> Result<LossOutput> + Sync + 'a;

/// The rows of all trajectories, in order.
pub(crate) fn rows_of(trajectories: &[Trajectory], kind: RowKind) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, trajectory) in trajectories.iter().enumerate() {
        rows.extend(Row::from_trajectory(trajectory, i, kind)?);
    }
    Ok(rows)
}

/// Splits one list per trajectory into one list per row, both over sampled tokens.
///
/// # Errors
/// A list whose length differs from the number of its trajectory's sampled tokens.
pub(crate) fn over_rows(
    name: &'static str,
    rows: &[Row],
    lists: &[Vec<f64>],
) -> Result<Vec<Vec<f32>>> {
    let mut tokens = vec![0; lists.len()];
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let known = lists.get(row.trajectory).zip(tokens.get_mut(row.trajectory));
        let Some((list, used)) = known else {
            let expected = format!("a list for trajectory {}", row.trajectory);
            return Err(Error::Shape { name, expected, got: vec![lists.len()] });
        };
        let from = *used;
        *used += row.positions.len();
        let of_row = list.get(from..*used).unwrap_or_default();
        out.push(of_row.iter().map(|&x| x as f32).collect());
    }
    let got: Vec<usize> = lists.iter().map(Vec::len).collect();
    if got == tokens {
        Ok(out)
    } else {
        Err(Error::Shape { name, expected: format!("tokens {tokens:?}"), got })
    }
}

/// The rows of each optimiser step of training step `step`, from a fresh permutation per epoch.
/// Within an optimiser step rows keep their order, so that rows with the same prefix share a
/// micro-batch.
pub(crate) fn optimizer_steps(
    seed: u64,
    step: u64,
    config: &UpdateConfig,
    rows: usize,
) -> Vec<Vec<usize>> {
    let epoch = |epoch: usize| {
        let order = Stream::new(seed, Purpose::Shuffle, step, epoch as u32, 0).permutation(0, rows);
        split(&order, config.mini_batches.get()).into_iter().map(sorted).collect::<Vec<_>>()
    };
    (0..config.epochs.get()).flat_map(epoch).collect()
}

fn sorted(rows: &[usize]) -> Vec<usize> {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows
}

/// The token batch of all `rows`.
pub(crate) fn whole(rows: &[&Row], config: &UpdateConfig) -> Result<TokenBatch> {
    Ok(TokenBatch::new(layout(rows, widest(rows))?, config.aggregation))
}

/// Sums the gradients and metrics of all micro-batches, in their order whichever finishes first.
pub(crate) fn accumulate(
    parameters: &Parameters,
    rows: &[&Row],
    config: &UpdateConfig,
    whole: &TokenBatch,
    loss: &MicroLoss,
) -> Result<(Gradients, Metrics)> {
    let plan = micro_batches(rows, config.micro_batch_tokens.get());
    let width = widest(rows);
    let device = device_of(parameters);
    let loss_of = |members: &Vec<usize>| -> Result<LossOutput> {
        let chosen: Vec<&Row> = members.iter().map(|&m| rows[m]).collect();
        let micro = MicroBatch::new(&chosen, width, &device)?;
        loss(&micro, &whole.select(members)?, members)
    };
    let gradients_of = |members: &Vec<usize>| -> Result<(MicroGradients, Metrics)> {
        let output = loss_of(members)?;
        Ok((MicroGradients::of(&output.loss, parameters)?, output.metrics))
    };
    if plan.is_empty() {
        return Err(Error::EmptyMask { name: "rows", at: "an update without rows".into() });
    }
    let mut sum = GradientSum::default();
    let mut metrics = Metrics::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for together in plan.chunks(at_once(parameters)) {
        if let [alone] = together {
            let output = loss_of(alone)?;
            metrics.merge(&output.metrics);
            sum.add_backward(&output.loss, parameters)?;
            continue;
        }
        for part in on_threads(together.iter().collect(), threads, gradients_of) {
            let (gradients, numbers) = part.unwrap_or_else(|panic| resume_unwind(panic))?;
            metrics.merge(&numbers);
            sum.add(gradients)?;
        }
    }
    Ok((sum.finish(parameters)?, metrics))
}

/// One number per sampled token of each row, from the values `of` [b, r] of micro-batches; no
/// gradient.
pub(crate) fn row_values(
    parameters: &Parameters,
    rows: &[&Row],
    micro_batch_tokens: usize,
    of: &dyn Fn(&MicroBatch) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let width = widest(rows);
    let device = device_of(parameters);
    let mut out = vec![Vec::new(); rows.len()];
    for members in micro_batches(rows, micro_batch_tokens) {
        let chosen: Vec<&Row> = members.iter().map(|&m| rows[m]).collect();
        let micro = MicroBatch::new(&chosen, width, &device)?;
        let values_br = of(&micro)?.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (&m, values) in members.iter().zip(values_br) {
            out[m] = values[..rows[m].positions.len()].to_vec();
        }
    }
    Ok(out)
}

/// The `values` of a micro-batch as [b, r]: `members` are its rows' indices in `chunk`, and `chunk`
/// holds the indices of an optimiser step's rows.
pub(crate) fn of_members(
    micro: &MicroBatch,
    values: &[Vec<f32>],
    chunk: &[usize],
    members: &[usize],
) -> Result<Tensor> {
    micro.filled(&members.iter().map(|&m| values[chunk[m]].as_slice()).collect::<Vec<_>>())
}

/// Requires one finite number per sampled token of each row.
pub(crate) fn check_tokens(name: &'static str, rows: &[Row], values: &[Vec<f32>]) -> Result<()> {
    let tokens: Vec<usize> = rows.iter().map(|row| row.positions.len()).collect();
    let got: Vec<usize> = values.iter().map(Vec::len).collect();
    if got != tokens {
        return Err(Error::Shape { name, expected: format!("tokens {tokens:?}"), got });
    }
    for (i, values) in values.iter().enumerate() {
        if let Some(j) = values.iter().position(|v| !v.is_finite()) {
            let at = format!("row {i}, token {j}");
            return Err(Error::NonFinite { name: name.into(), value: values[j].into(), at });
        }
    }
    Ok(())
}

/// Number of micro-batches whose gradients may exist at the same time: one on a GPU, and one for a
/// large model, whose kernels keep all threads busy alone.
fn at_once(parameters: &Parameters) -> usize {
    const LARGE: usize = 32 << 20;
    let trained: usize = parameters.trainable().map(|(_, var)| var.elem_count()).sum();
    if trained > LARGE || parameters.iter().any(|(_, var)| !is_cpu(var)) {
        1
    } else {
        usize::MAX
    }
}

fn device_of(parameters: &Parameters) -> Device {
    parameters.iter().next().map_or(Device::Cpu, |(_, var)| var.device().clone())
}

/// Groups consecutive rows into micro-batches of at most `tokens` tokens; a longer row is alone.
fn micro_batches(rows: &[&Row], tokens: usize) -> Vec<Vec<usize>> {
    let mut plan: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (i, row) in rows.iter().enumerate() {
        match plan.last_mut() {
            Some(last) if row.ids.len() <= room => last.push(i),
            _ => {
                plan.push(vec![i]);
                room = tokens.max(row.ids.len());
            }
        }
        room -= row.ids.len();
    }
    plan
}

/// The largest number of sampled tokens of a row.
pub(crate) fn widest(rows: &[&Row]) -> usize {
    rows.iter().map(|r| r.positions.len()).max().unwrap_or(0)
}

/// Splits `items` into `n` consecutive parts whose sizes differ by at most one; skips empty parts.
fn split(items: &[usize], n: usize) -> Vec<&[usize]> {
    let m = items.len();
    (0..n).map(|i| &items[i * m / n..(i + 1) * m / n]).filter(|part| !part.is_empty()).collect()
}

pub(crate) fn to_f64(x: &Tensor) -> Result<f64> {
    Ok(x.detach().to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Count;

    #[test]
    fn micro_batches_hold_every_row_once_within_the_budget() {
        let row = |n| Row { ids: vec![0; n], positions: vec![1], turns: vec![0], ..Row::default() };
        let rows: Vec<Row> = [5, 9, 3, 8, 20].into_iter().map(row).collect();
        let rows: Vec<&Row> = rows.iter().collect();
        assert_eq!(micro_batches(&rows, 14), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn split_keeps_everything() {
        assert_eq!(split(&[1, 2, 3, 4, 5], 2), [&[1, 2][..], &[3, 4, 5]]);
        assert_eq!(split(&[1], 3).len(), 1);
    }

    #[test]
    fn every_epoch_uses_each_row_once_in_its_own_order() {
        let config = UpdateConfig {
            epochs: Count::literal(2),
            mini_batches: Count::literal(3),
            ..UpdateConfig::default()
        };
        let steps = optimizer_steps(1, 0, &config, 7);
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 3, 2, 2, 3]);
        let [first, second] = [0, 3].map(|i| steps[i..i + 3].concat());
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, [0, 1, 2, 3, 4, 5, 6]);
        }
    }
}
