//! Gradients under the names of their parameters.

use super::parameters::Parameters;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

/// Gradients of the trainable parameters, by name.
///
/// Micro-batches may be computed on several threads; adding their gradients in the order of the
/// micro-batches gives the same bits for any number of threads.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    entries: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// ∂`loss`/∂parameter of every trainable parameter that `loss` depends on.
    ///
    /// # Errors
    /// A failed backward pass.
    pub fn of(loss: &Tensor, parameters: &Parameters) -> Result<Self> {
        Ok(Self::take(&mut loss.backward()?, parameters))
    }

    /// Moves the gradients of the trainable parameters out of a store.
    pub fn take(store: &mut GradStore, parameters: &Parameters) -> Self {
        let entry = |(name, var): (&str, &candle_core::Var)| Some((name.to_owned(), store.remove(var)?));
        Self { entries: parameters.trainable().filter_map(entry).collect() }
    }

    /// Adds `other`, name by name; a name missing on one side counts as zero.
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

    /// The gradient of `name`, if any.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.get(name)
    }

    /// All gradients in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, grad)| (name.as_str(), grad))
    }

    /// √Σ g² over all parameters, summed in double precision in the order of the names; on a device,
    /// the squares of one parameter are summed there in f32.
    ///
    /// # Errors
    /// A gradient with a NaN or an infinity, by the parameter's name.
    pub fn global_norm(&self) -> Result<f64> {
        let mut total = 0.0;
        for (name, grad) in self.iter() {
            let square = sum_of_squares(grad)?;
            if !square.is_finite() {
                return Err(Error::NonFinite { name: "gradient".into(), value: square, at: name.to_owned() });
            }
            total += square;
        }
        Ok(total.sqrt())
    }

    /// Requires a finite gradient for every trainable parameter.
    ///
    /// # Errors
    /// The first parameter whose gradient is missing, of another shape or not finite.
    pub fn check(&self, parameters: &Parameters) -> Result<()> {
        for (name, var) in parameters.trainable() {
            let Some(grad) = self.get(name) else {
                return Err(Error::setting(
                    name,
                    "no gradient",
                    "every trainable parameter must receive a gradient",
                ));
            };
            if grad.dims() != var.dims() {
                let reason = format!("the parameter has shape {:?}", var.dims());
                return Err(Error::setting(name, format!("gradient of shape {:?}", grad.dims()), reason));
            }
        }
        self.global_norm().map(|_| ())
    }
}

fn sum_of_squares(grad: &Tensor) -> Result<f64> {
    if !grad.device().is_cpu() {
        return Ok(f64::from(grad.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let values = grad.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(values.iter().map(|x| x * x).sum())
}
