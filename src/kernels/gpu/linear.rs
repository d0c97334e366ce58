//! [`crate::kernels::linear()`], [`crate::kernels::linear_residual()`] and
//! [`crate::kernels::linear_lora()`] on a device: products into memory that exists, no gradient
//! that nobody needs, and weights' gradients in f32.

use crate::kernels::autograd::gradient_sink;
use crate::kernels::gpu::launch::{
    size, start_of, Argument, DeviceStorage, Launch, Matrices, MatricesMut, Multiplication, View,
};
use crate::kernels::gpu::operator::forward_on_devices;
use crate::kernels::gpu::product::{add_product, product, Factor};
use candle_core::{CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Computes x Wᵀ + b for x `[n, i]`, W `[o, i]` and b `[o]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let weight = weight.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, LinearBias),
        None => x.apply_op2(&weight, Linear),
    }
}

/// Computes r + x Wᵀ for r `[n, o]`, x `[n, i]` and W `[o, i]`.
pub(crate) fn linear_residual(residual: &Tensor, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    residual.contiguous()?.apply_op3(&x.contiguous()?, &weight.contiguous()?, LinearResidual)
}

/// Computes x Wᵀ + b + s (x Aᵀ) Bᵀ for frozen W and b; A and B may be f32 beside narrower x and W.
pub(crate) fn linear_lora(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let weight = weight.contiguous()?;
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let op = LinearLora { weight, bias, scale, inner: OnceLock::new() };
    x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)
}

/// y = α x Wᵀ, or y += α x Wᵀ if `accumulate`, for dense x `[n, i]`, W `[o, i]` and y.
fn add_linear<S: DeviceStorage>(
    y: &mut S,
    (x, start): (&S, usize),
    (w, w_start): (&S, usize),
    (n, i, o): (usize, usize, usize),
    (alpha, accumulate): (f64, bool),
) -> Result<()> {
    let device = x.device().clone();
    let x = Matrices { storage: x, start, stride: i, batch: 0, transposed: false };
    let w = Matrices { storage: w, start: w_start, stride: i, batch: 0, transposed: true };
    let out = MatricesMut { storage: y, start: 0, batch: 0 };
    let alpha = alpha as f32;
    let size = Multiplication { rows: n, columns: o, terms: i, count: 1, alpha, accumulate };
    S::multiply(&device, out, x, w, size)
}

/// y += b in every row.
fn add_bias<S: DeviceStorage>(
    y: &mut S,
    (bias, start): (&S, usize),
    (n, o): (usize, usize),
) -> Result<()> {
    let device = y.device().clone();
    let dtype = y.dtype();
    if bias.dtype() != dtype {
        candle_core::bail!("linear: a bias in {:?} beside weights in {dtype:?}", bias.dtype());
    }
    let arguments = vec![Argument::Out(y, 0), Argument::In(bias, start), size(n)?, size(o)?];
    S::launch(&device, Launch { kernel: "add_bias", dtype, groups: n, arguments })
}

fn sizes(x: &Layout, weight: &Layout) -> Result<(usize, usize, usize)> {
    let (n, i) = x.shape().dims2()?;
    let (o, _) = weight.shape().dims2()?;
    Ok((n, i, o))
}

/// Gives a variable's gradient in f32 to the sink of gradients, or returns it in the variable's
/// type.
pub(crate) fn settled(var: &Tensor, gradient: Tensor) -> Result<Option<Tensor>> {
    match gradient_sink::offer(var, Some(gradient))? {
        Some(gradient) => gradient.to_dtype(var.dtype()).map(Some),
        None => Ok(None),
    }
}

/// dx = g W, if x needs it.
fn input_gradient(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    let dx = || product(Factor::of(grad), Factor::of(weight), 1.0, x.dtype());
    x.track_op().then(dx).transpose()
}

/// dW = gᵀ x, if W needs it.
fn weight_gradient(weight: &Tensor, x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !weight.track_op() {
        return Ok(None);
    }
    settled(weight, product(Factor::transpose_of(grad), Factor::of(x), 1.0, DType::F32)?)
}

/// db = Σ g, if b needs it.
fn bias_gradient(bias: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !bias.track_op() {
        return Ok(None);
    }
    let ones = Tensor::ones((1, grad.dim(0)?), grad.dtype(), grad.device())?;
    let sum = product(Factor::of(&ones), Factor::of(grad), 1.0, DType::F32)?;
    settled(bias, sum.squeeze(0)?)
}

type Gradients3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Computes x Wᵀ.
fn product_of<S: DeviceStorage>(x: &S, lx: &Layout, w: &S, lw: &Layout) -> Result<S> {
    let size @ (n, _, o) = sizes(lx, lw)?;
    let mut y = S::unfilled(x.device(), n * o, x.dtype())?;
    add_linear(&mut y, (x, start_of(lx)?), (w, start_of(lw)?), size, (1.0, false))?;
    Ok(y)
}

struct Linear;

impl Linear {
    fn forward<S: DeviceStorage>(
        &self,
        x: &S,
        lx: &Layout,
        w: &S,
        lw: &Layout,
    ) -> Result<(S, Shape)> {
        let (n, _, o) = sizes(lx, lw)?;
        Ok((product_of(x, lx, w, lw)?, (n, o).into()))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    forward_on_devices!(x lx, w lw);

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        Ok((input_gradient(x, w, &grad)?, weight_gradient(w, x, &grad)?))
    }
}

struct LinearBias;

impl LinearBias {
    fn forward<S: DeviceStorage>(
        &self,
        x: &S,
        lx: &Layout,
        w: &S,
        lw: &Layout,
        b: &S,
        lb: &Layout,
    ) -> Result<(S, Shape)> {
        let (n, _, o) = sizes(lx, lw)?;
        let mut y = product_of(x, lx, w, lw)?;
        add_bias(&mut y, (b, start_of(lb)?), (n, o))?;
        Ok((y, (n, o).into()))
    }
}

impl CustomOp3 for LinearBias {
    fn name(&self) -> &'static str {
        "linear_bias"
    }

    forward_on_devices!(x lx, w lw, b lb);

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients3> {
        let grad = grad.contiguous()?;
        let dx = input_gradient(x, w, &grad)?;
        Ok((dx, weight_gradient(w, x, &grad)?, bias_gradient(b, &grad)?))
    }
}

struct LinearResidual;

impl LinearResidual {
    fn forward<S: DeviceStorage>(
        &self,
        r: &S,
        lr: &Layout,
        x: &S,
        lx: &Layout,
        w: &S,
        lw: &Layout,
    ) -> Result<(S, Shape)> {
        let size = sizes(lx, lw)?;
        let mut y = copy_of(r, lr)?;
        add_linear(&mut y, (x, start_of(lx)?), (w, start_of(lw)?), size, (1.0, true))?;
        Ok((y, lr.shape().clone()))
    }
}

/// Copies a contiguous tensor to a storage of its own.
fn copy_of<S: DeviceStorage>(storage: &S, layout: &Layout) -> Result<S> {
    let count = layout.shape().elem_count();
    let mut copy = S::unfilled(storage.device(), count, storage.dtype())?;
    storage.copy_strided_src(&mut copy, 0, layout)?;
    Ok(copy)
}

impl CustomOp3 for LinearResidual {
    fn name(&self) -> &'static str {
        "linear_residual"
    }

    forward_on_devices!(r lr, x lx, w lw);

    fn bwd(
        &self,
        r: &Tensor,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients3> {
        let grad = grad.contiguous()?;
        let dx = input_gradient(x, w, &grad)?;
        let dw = weight_gradient(w, x, &grad)?;
        Ok((r.track_op().then_some(grad), dx, dw))
    }
}

struct LinearLora {
    weight: Tensor,
    bias: Option<Tensor>,
    scale: f64,
    /// u = s x Aᵀ, kept for the backward pass.
    inner: OnceLock<Tensor>,
}

impl LinearLora {
    fn forward<S: DeviceStorage>(
        &self,
        x: &S,
        lx: &Layout,
        a: &S,
        la: &Layout,
        b: &S,
        lb: &Layout,
    ) -> Result<(S, Shape)> {
        let dtype = x.dtype();
        let weight = View::of(&self.weight)?;
        let w = weight.get::<S>()?;
        let (n, i, o) = sizes(lx, self.weight.layout())?;
        let r = la.shape().dims2()?.0;
        let mut y = product_of(x, lx, w, self.weight.layout())?;
        if let Some(bias) = &self.bias {
            let view = View::of(bias)?;
            add_bias(&mut y, (view.get::<S>()?, view.start), (n, o))?;
        }
        let x = (x, start_of(lx)?);
        // The casts are dense.
        let a = a.to_dtype(la, dtype)?;
        let b = b.to_dtype(lb, dtype)?;
        let mut u = S::unfilled(x.0.device(), n * r, dtype)?;
        add_linear(&mut u, x, (&a, 0), (n, i, r), (self.scale, false))?;
        add_linear(&mut y, (&u, 0), (&b, 0), (n, r, o), (1.0, true))?;
        self.inner.get_or_init(|| u.tensor((n, r)));
        Ok((y, (n, o).into()))
    }
}

impl CustomOp3 for LinearLora {
    fn name(&self) -> &'static str {
        "linear_lora"
    }

    forward_on_devices!(x lx, a la, b lb);

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients3> {
        let Some(u) = self.inner.get() else {
            candle_core::bail!("linear_lora: backward before forward");
        };
        let grad = grad.contiguous()?;
        let wide_a = a.detach().to_dtype(x.dtype())?;
        let wide_b = b.detach().to_dtype(x.dtype())?;
        // e = s g B
        let e = product(Factor::of(&grad), Factor::of(&wide_b), self.scale, x.dtype())?;
        let dx = input_gradient(x, &self.weight, &grad)?;
        if let Some(dx) = &dx {
            add_product(dx, Factor::of(&e), Factor::of(&wide_a), 1.0)?;
        }
        let db = weight_gradient(b, u, &grad)?;
        Ok((dx, weight_gradient(a, x, &e)?, db))
    }
}
