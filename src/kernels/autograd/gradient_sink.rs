//! A sink for the gradients of variables during a backward pass.
//!
//! Candle adds each gradient to a fresh tensor of zeros and makes the gradients of embedding rows
//! dense. Inside [`collecting`], the layers put the gradients of variables into a thread-local sink
//! instead.

use crate::kernels::cpu::float::{on_cpu, slice_of, with_slice, Float};
use crate::kernels::dispatch::on_device;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Gradients collected from a backward pass.
#[derive(Default)]
pub(crate) struct Collected {
    /// Gradients of embedding rows.
    pub(crate) rows: Vec<RowGradient>,
    /// Sums of the gradients of whole variables; nothing else shares these tensors.
    pub(crate) whole: HashMap<TensorId, Tensor>,
}

thread_local! {
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// Puts a gradient into this thread's sink, or returns it if there is none.
pub(crate) fn offer_rows(rows: RowGradient) -> Option<RowGradient> {
    COLLECTED.with_borrow_mut(|collected| match collected {
        Some(collected) => {
            collected.rows.push(rows);
            None
        }
        None => Some(rows),
    })
}

/// Adds the gradient of a variable to this thread's sink. `gradient` must be freshly allocated; the
/// gradient of a tensor that is no variable, or without a sink, is returned.
///
/// # Errors
/// Gradients of different shapes.
pub(crate) fn offer(weight: &Tensor, gradient: Option<Tensor>) -> Result<Option<Tensor>> {
    let Some(gradient) = gradient else { return Ok(None) };
    COLLECTED.with_borrow_mut(|collected| match collected {
        Some(Collected { whole, .. }) if weight.is_variable() => {
            let sum = match whole.remove(&weight.id()) {
                Some(sum) => add_into(sum, &gradient)?,
                None => gradient,
            };
            whole.insert(weight.id(), sum);
            Ok(None)
        }
        _ => Ok(Some(gradient)),
    })
}

/// Restores the outer sink, even after a panic.
struct Outer(Option<Collected>);

impl Drop for Outer {
    fn drop(&mut self) {
        COLLECTED.set(self.0.take());
    }
}

/// Runs a backward pass and collects the gradients of variables; those of whole variables are added
/// to `sums`.
///
/// On a thread of the rayon pool nothing is collected: while such a thread waits for a kernel, it
/// may run another backward pass, whose gradients do not belong here.
pub(crate) fn collecting<R>(
    sums: HashMap<TensorId, Tensor>,
    f: impl FnOnce() -> R,
) -> (R, Collected) {
    let empty = Collected { whole: sums, ..Collected::default() };
    if rayon::current_thread_index().is_some() {
        return (f(), empty);
    }
    let outer = Outer(COLLECTED.replace(Some(empty)));
    let result = f();
    let collected = COLLECTED.take().unwrap_or_default();
    drop(outer);
    (result, collected)
}

/// Returns `sum` + `part` in the type of `sum`, computed in its memory on the CPU and by device
/// kernels: nothing else may share it.
pub(crate) fn add_into(sum: Tensor, part: &Tensor) -> Result<Tensor> {
    on_device!(&sum => {
        crate::kernels::gpu::rows::add_to(&sum, &part.to_dtype(sum.dtype())?)?;
        Ok(sum)
    });
    if !(on_cpu(&sum) && on_cpu(part) && sum.is_contiguous() && part.is_contiguous()) {
        return sum + part;
    }
    sum.inplace_op2(part, &AddInto)?;
    Ok(sum)
}

struct AddInto;

impl InplaceOp2 for AddInto {
    fn name(&self) -> &'static str {
        "add_into"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        at: &Layout,
        part: &CpuStorage,
        from: &Layout,
    ) -> Result<()> {
        fn add<T: Float>(sum: &mut [T], at: &Layout, part: &[T]) -> Result<()> {
            match at.contiguous_offsets() {
                Some((start, end)) if end - start == part.len() => {
                    sum[start..end].iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
                    Ok(())
                }
                _ => candle_core::bail!(
                    "add_into: {:?} cannot take {} elements",
                    at.shape(),
                    part.len()
                ),
            }
        }
        match sum {
            CpuStorage::F32(sum) => add(sum, at, slice_of::<f32>(part, from)?),
            CpuStorage::F64(sum) => add(sum, at, slice_of::<f64>(part, from)?),
            _ => candle_core::bail!("add_into: the tensors must be f32 or f64"),
        }
    }
}

/// A gradient of a table that is zero outside some rows.
pub(crate) struct RowGradient {
    /// The table.
    pub(crate) table: TensorId,
    pub(crate) ids: Arc<[u32]>,
    pub(crate) rows: Tensor,
}

impl RowGradient {
    /// Adds gₙ to row idₙ of `dense`, in place on the CPU and by device kernels, which need f32.
    pub(crate) fn add_to(&self, dense: Tensor) -> Result<Tensor> {
        on_device!(&dense => {
            crate::kernels::gpu::rows::add_rows(&dense, &self.ids, &self.rows)?;
            Ok(dense)
        });
        if !on_cpu(&dense) {
            return dense.index_add(&Tensor::new(&self.ids[..], dense.device())?, &self.rows, 0);
        }
        dense.inplace_op1(self)?;
        Ok(dense)
    }
}

impl InplaceOp1 for RowGradient {
    fn name(&self) -> &'static str {
        "add_rows"
    }

    fn cpu_fwd(&self, dense: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let h = layout.shape().dims2()?.1;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("add_rows: the table must be contiguous");
        };
        match dense {
            CpuStorage::F32(dense) => add_rows(&mut dense[start..end], h, &self.ids, &self.rows),
            CpuStorage::F64(dense) => add_rows(&mut dense[start..end], h, &self.ids, &self.rows),
            _ => candle_core::bail!("add_rows: the table must be f32 or f64"),
        }
    }
}

fn add_rows<T: Float>(dense: &mut [T], h: usize, ids: &[u32], rows: &Tensor) -> Result<()> {
    with_slice::<T, _>(rows, |rows| {
        for (&id, row) in ids.iter().zip(rows.chunks_exact(h)) {
            dense[id as usize * h..][..h].iter_mut().zip(row).for_each(|(d, &r)| *d += r);
        }
        Ok(())
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::layers::checkpoint::checkpoint;
    use crate::kernels::layers::feed_forward::feed_forward;
    use crate::kernels::layers::linear::linear;
    use candle_core::{Device, Var};

    pub(crate) fn var(shape: &[usize], seed: usize) -> Var {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 997) as f64 / 500.0 - 1.0;
        let values: Vec<f64> = (0..shape.iter().product()).map(number).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn what_is_collected_is_what_a_plain_backward_finds() {
        let weights = [&[4][..], &[6, 4], &[6, 4], &[4, 6], &[5, 4]].into_iter().enumerate();
        let weights: Vec<Var> = weights.map(|(i, shape)| var(shape, i)).collect();
        let tensors: Vec<Tensor> = weights.iter().map(|w| w.as_tensor().clone()).collect();
        for checkpointed in [false, true] {
            let inner = tensors.clone();
            let branch = move |x: &Tensor| {
                let [norm, gate, up, down] = [0, 1, 2, 3].map(|i| &inner[i]);
                feed_forward(x, [norm, gate, up, down], 1e-6)
            };
            let x = var(&[3, 4], 9).detach();
            let y = if checkpointed {
                checkpoint(&x, &tensors[..4], branch).unwrap()
            } else {
                branch(&x).unwrap()
            };
            let loss = linear(&y, &tensors[4], None).unwrap().sqr().unwrap().sum_all().unwrap();
            let plain = loss.backward().unwrap();
            let (store, Collected { whole, .. }) = collecting(HashMap::new(), || loss.backward());
            assert_eq!(whole.len(), weights.len(), "checkpointed: {checkpointed}");
            for weight in &weights {
                let found = whole.get(&weight.id()).unwrap();
                assert_eq!(numbers(found), numbers(plain.get(weight).unwrap()));
                assert!(store.as_ref().unwrap().get(weight).is_none());
            }
        }
    }

    #[test]
    fn a_sum_is_taken_in_place_and_shapes_must_agree() {
        let a = var(&[3, 2], 1).detach().copy().unwrap();
        let b = var(&[3, 2], 2).detach();
        let want = numbers(&(&a + &b).unwrap());
        let seen = a.clone();
        assert_eq!(numbers(&add_into(a, &b).unwrap()), want);
        assert_eq!(numbers(&seen), want);
        assert!(add_into(seen, &var(&[2, 2], 3).detach()).is_err());
    }
}
