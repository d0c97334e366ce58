//! Gradients by parameter name, and their sum over micro-batches.
//!
//! candle identifies gradients by tensor ids, which differ between runs. Names give every sum and
//! norm a fixed order, so results do not depend on how many threads computed the micro-batches.

use crate::kernels::autograd::gradient_sink::{add_into, collecting, Collected, RowGradient};
use crate::kernels::cpu::optimizer::sums_of_squares;
use crate::kernels::dispatch::is_cpu;
use crate::policy::parameters::Parameters;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, TensorId, Var};
use std::collections::BTreeMap;

/// Gradients of the trainable parameters, by name.
///
/// Micro-batches may be computed on several threads. Adding their gradients in the order of the
/// micro-batches gives the same bits for any number of threads.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    entries: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// Computes ∂`loss`/∂parameter for every trainable parameter that `loss` depends on.
    ///
    /// # Errors
    /// A failed backward pass.
    pub fn of(loss: &Tensor, parameters: &Parameters) -> Result<Self> {
        let mut sum = GradientSum::default();
        sum.add(MicroGradients::of(loss, parameters)?)?;
        sum.finish(parameters)
    }

    /// Moves the gradients of the trainable parameters out of candle's store.
    pub fn take(store: &mut GradStore, parameters: &Parameters) -> Self {
        let entry =
            |(name, var): (&str, &candle_core::Var)| Some((name.to_owned(), store.remove(var)?));
        Self { entries: parameters.trainable().filter_map(entry).collect() }
    }

    /// Adds `other` name by name; a missing gradient counts as zero.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, other: Gradients) -> Result<()> {
        for (name, grad) in other.entries {
            let sum = match self.entries.get(&name) {
                Some(mine) => (mine + grad)?,
                None => grad,
            };
            self.entries.insert(name, sum);
        }
        Ok(())
    }

    /// Multiplies every gradient by `factor`.
    ///
    /// # Errors
    /// A failed tensor operation.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for grad in self.entries.values_mut() {
            *grad = (&*grad * factor)?;
        }
        Ok(())
    }

    /// Returns the gradient of `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.get(name)
    }

    /// All gradients in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, grad)| (name.as_str(), grad))
    }

    /// Computes the norm √Σ g² over all parameters, in double precision and in the order of the
    /// names. On a GPU, the squares of each parameter are summed in f32.
    ///
    /// # Errors
    /// A gradient with a NaN or an infinity, by the parameter's name.
    pub fn global_norm(&self) -> Result<f64> {
        let mut total = 0.0;
        let all: Vec<&Tensor> = self.entries.values().collect();
        for (name, square) in self.entries.keys().zip(sums_of_squares(&all)?) {
            if !square.is_finite() {
                return Err(Error::NonFinite {
                    name: "gradient".into(),
                    value: square,
                    at: name.clone(),
                });
            }
            total += square;
        }
        Ok(total.sqrt())
    }

    /// Requires a finite gradient of every trainable parameter and returns
    /// [`Gradients::global_norm`].
    ///
    /// # Errors
    /// The first parameter whose gradient is missing, of the wrong shape or not finite.
    pub fn check(&self, parameters: &Parameters) -> Result<f64> {
        for (name, var) in parameters.trainable() {
            let Some(grad) = self.get(name) else {
                let reason = "every trainable parameter must receive a gradient";
                return Err(Error::setting(name, "no gradient", reason));
            };
            if grad.dims() != var.dims() {
                let value = format!("gradient of shape {:?}", grad.dims());
                let reason = format!("the parameter has shape {:?}", var.dims());
                return Err(Error::setting(name, value, reason));
            }
        }
        self.global_norm()
    }
}

/// The sum of the micro-batches' gradients, in the order in which they are added; f32 on a GPU.
///
/// Dense gradients are summed at once, rows of the embedding at the end.
#[derive(Default)]
pub struct GradientSum {
    dense: Gradients,
    rows: Vec<(String, RowGradient)>,
}

impl GradientSum {
    /// Adds the gradients of one micro-batch.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, part: MicroGradients) -> Result<()> {
        self.rows.extend(part.rows);
        let sum = &mut self.dense.entries;
        for (name, gradient) in part.dense.entries {
            // Nothing else holds these tensors, so the sum can be computed in place.
            let gradient = match sum.remove(&name) {
                Some(mine) => add_into(mine, &gradient)?,
                None => wide(gradient)?,
            };
            sum.insert(name, gradient);
        }
        Ok(())
    }

    /// Adds ∂`loss`/∂parameter for every trainable parameter that `loss` depends on. Each weight
    /// matrix's gradient is added as soon as it has been computed, which keeps few in memory.
    ///
    /// # Errors
    /// A failed backward pass; the sum is lost then.
    pub fn add_backward(&mut self, loss: &Tensor, parameters: &Parameters) -> Result<()> {
        let sums = std::mem::take(&mut self.dense.entries);
        self.add(MicroGradients::added_to(sums, loss, parameters)?)
    }

    /// Returns the sum.
    ///
    /// # Errors
    /// Gradients of other parameters.
    pub fn finish(self, parameters: &Parameters) -> Result<Gradients> {
        let mut sum = self.dense;
        for (name, gradient) in self.rows {
            let dense = match sum.entries.remove(&name) {
                Some(dense) => dense,
                None => wide(parameters.get(&name)?.zeros_like()?)?,
            };
            sum.entries.insert(name, gradient.add_to(dense)?);
        }
        Ok(sum)
    }
}

/// Widens a gradient to f32 on a GPU: a sum in bf16 would round small gradients away.
fn wide(gradient: Tensor) -> Result<Tensor> {
    let narrow = matches!(gradient.dtype(), DType::BF16 | DType::F16);
    if narrow && !is_cpu(&gradient) {
        Ok(gradient.to_dtype(DType::F32)?)
    } else {
        Ok(gradient)
    }
}

/// The gradients of one micro-batch, with those of looked-up embedding rows kept as rows.
///
/// A micro-batch of few tokens thus needs no dense `[v, h]` tensor for its embedding. On a thread
/// of rayon's pool the embedding's gradient is dense nevertheless.
pub struct MicroGradients {
    dense: Gradients,
    rows: Vec<(String, RowGradient)>,
}

impl MicroGradients {
    /// Computes ∂`loss`/∂parameter for every trainable parameter that `loss` depends on.
    ///
    /// # Errors
    /// A failed backward pass.
    pub fn of(loss: &Tensor, parameters: &Parameters) -> Result<Self> {
        Self::added_to(BTreeMap::new(), loss, parameters)
    }

    /// [`MicroGradients::of`] added to `sums`, whose tensors nothing else holds.
    fn added_to(
        mut sums: BTreeMap<String, Tensor>,
        loss: &Tensor,
        parameters: &Parameters,
    ) -> Result<Self> {
        let with_sum = |(name, var): (&str, &Var)| Some((var.id(), sums.remove(name)?));
        let whole = parameters.trainable().filter_map(with_sum).collect();
        let (store, Collected { rows, mut whole }) = collecting(whole, || loss.backward());
        let mut store = store?;
        let mut dense = Gradients { entries: sums };
        for (name, var) in parameters.trainable() {
            let gradient = match (whole.remove(&var.id()), store.remove(var)) {
                (Some(sum), Some(part)) => add_into(sum, &part)?,
                (Some(gradient), None) | (None, Some(gradient)) => gradient,
                (None, None) => continue,
            };
            dense.entries.insert(name.to_owned(), gradient);
        }
        let name_of = |id: TensorId| {
            let mut trainable = parameters.trainable();
            trainable.find(|(_, var)| var.id() == id).map(|(name, _)| name.to_owned())
        };
        let rows = rows.into_iter().filter_map(|rows| Some((name_of(rows.table)?, rows))).collect();
        Ok(Self { dense, rows })
    }
}
