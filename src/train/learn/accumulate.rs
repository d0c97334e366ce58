//! What a policy and a critic do alike with rows: the order of a step's updates, micro-batches over threads, gradients
//! summed in a fixed order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};

use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::policy::gradients::{GradientSum, Gradients, MicroGradients};
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::{layout, MicroBatch, Row, RowKind};
use crate::rollout::trajectory::Trajectory;
use crate::train::config::update::UpdateConfig;
use crate::{Error, Result};

/// The loss of a micro-batch, given the objective's view of it and which of the rows it holds.
pub(crate) type MicroLoss<'a> =
    dyn Fn(&MicroBatch, &TokenBatch, &[usize]) -> Result<LossOutput> + Sync + 'a;

/// The rows of all trajectories, in their order.
pub(crate) fn rows_of(trajectories: &[Trajectory], kind: RowKind) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, trajectory) in trajectories.iter().enumerate() {
        rows.extend(Row::from_trajectory(trajectory, i, kind)?);
    }
    Ok(rows)
}

/// One list a row out of one list a trajectory, both over sampled tokens.
///
/// # Errors
/// A list that does not have as many numbers as its trajectory has sampled tokens.
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

/// The rows of each optimiser step of training step `step`, in the order of the steps: a fresh permutation each epoch. Within
/// a step they stand in their own order, so that rows that begin alike share a micro-batch.
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

/// The objective's view of all `rows`.
pub(crate) fn whole(rows: &[&Row], config: &UpdateConfig) -> Result<TokenBatch> {
    Ok(TokenBatch::new(layout(rows, widest(rows))?, config.aggregation))
}

/// Sums the gradients and metrics of all micro-batches, whatever the order they finish in.
pub(crate) fn accumulate(
    parameters: &Parameters,
    rows: &[&Row],
    config: &UpdateConfig,
    whole: &TokenBatch,
    loss: &MicroLoss,
) -> Result<(Gradients, Metrics)> {
    let plan = micro_batches(rows, config.micro_batch_tokens.get());
    let (width, device) = (widest(rows), device_of(parameters));
    let one = |members: &Vec<usize>| -> Result<(MicroGradients, Metrics)> {
        let chosen: Vec<&Row> = members.iter().map(|&m| rows[m]).collect();
        let micro = MicroBatch::new(&chosen, width, &device)?;
        let output = loss(&micro, &whole.select(members)?, members)?;
        Ok((MicroGradients::of(&output.loss, parameters)?, output.metrics))
    };
    if plan.is_empty() {
        return Err(Error::EmptyMask { name: "rows", at: "an update without rows".into() });
    }
    let (mut sum, mut metrics) = (GradientSum::default(), Metrics::new());
    for together in plan.chunks(at_once(parameters)) {
        for part in over_threads(together, &one) {
            let (gradients, numbers) = part?;
            sum.add(gradients)?;
            metrics.merge(&numbers);
        }
    }
    Ok((sum.finish(parameters)?, metrics))
}

/// One number for each sampled token of each row, from `of` [b, r] of micro-batches; no gradient.
pub(crate) fn row_values(
    parameters: &Parameters,
    rows: &[&Row],
    micro_batch_tokens: usize,
    of: &dyn Fn(&MicroBatch) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let (width, device) = (widest(rows), device_of(parameters));
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

/// The lists of `values` that belong to the micro-batch's rows `members` of an optimiser step of rows `chunk`, as [b, r].
pub(crate) fn of_members(
    micro: &MicroBatch,
    values: &[Vec<f32>],
    chunk: &[usize],
    members: &[usize],
) -> Result<Tensor> {
    micro.filled(&members.iter().map(|&m| values[chunk[m]].as_slice()).collect::<Vec<_>>())
}

/// Requires one finite number for each sampled token of each row.
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

/// Micro-batches whose gradients may exist at the same time: one where a gradient is large, which keeps all threads busy
/// by itself.
fn at_once(parameters: &Parameters) -> usize {
    const LARGE: usize = 32 << 20;
    let trained: usize = parameters.trainable().map(|(_, var)| var.elem_count()).sum();
    if trained > LARGE {
        1
    } else {
        usize::MAX
    }
}

fn device_of(parameters: &Parameters) -> Device {
    parameters.iter().next().map_or(Device::Cpu, |(_, var)| var.device().clone())
}

/// Runs `f` over `items` on the machine's threads; results in the order of the items.
fn over_threads<I: Sync, T: Send>(
    items: &[I],
    f: &(dyn Fn(&I) -> Result<T> + Sync),
) -> Vec<Result<T>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<T>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(i) else { break };
                let result = f(item);
                if let Ok(mut place) = results[i].lock() {
                    *place = Some(result);
                }
            });
        }
    });
    let lost = || Err(Error::setting("update", "worker thread", "panicked"));
    results.into_iter().map(|r| r.into_inner().ok().flatten().unwrap_or_else(lost)).collect()
}

/// Consecutive rows of at most `tokens` tokens together (a longer row stands alone).
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

pub(crate) fn widest(rows: &[&Row]) -> usize {
    rows.iter().map(|r| r.positions.len()).max().unwrap_or(0)
}

/// `items` in `n` consecutive parts whose sizes differ by at most one; empty parts are left out.
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
    fn every_epoch_updates_with_every_row_once_in_an_order_of_its_own() {
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
