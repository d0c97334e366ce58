//! Log-probability and entropy, compared with their definition in f64.

use super::support::random;
use super::{exact, values};
use candle_core::{DType, Device, Tensor, Var};
use epo::kernels::{
    evaluate, logprob_entropy, reference, Evaluation, RowSupport, ScoreOptions, Support,
};

const TEMPERATURE: f64 = 0.5;
/// Element types with the relative error of one rounding and the smallest number they represent.
const TYPES: [(DType, f64, f64); 3] =
    [(DType::F32, 1e-7, 0.0), (DType::BF16, 4e-3, 1e-38), (DType::F16, 5e-4, 6e-8)];
const NONE: f64 = f64::NEG_INFINITY;

/// One row of a call: logits as rounded to the element type, the token, and its candidate set.
struct Row {
    logits: Vec<f64>,
    id: u32,
    support: Option<Vec<u32>>,
}

impl Row {
    fn whole(logits: Vec<f64>, id: usize) -> Self {
        Self { logits, id: id as u32, support: None }
    }

    /// Returns columns and logits of the support, and the token's index within it.
    fn seen(&self) -> (Vec<usize>, Vec<f64>, usize) {
        let places: Vec<usize> = match &self.support {
            None => (0..self.logits.len()).collect(),
            Some(list) => list.iter().map(|&id| id as usize).collect(),
        };
        let logits = places.iter().map(|&i| self.logits[i]).collect();
        let id = places.iter().position(|&i| i == self.id as usize).unwrap_or(0);
        (places, logits, id)
    }

    fn want(&self) -> (f64, f64) {
        match self.seen() {
            (places, ..) if places.is_empty() => (0.0, 0.0),
            (_, logits, id) => reference::logprob_entropy(&logits, id, TEMPERATURE),
        }
    }

    /// Returns the gradient of g · log p + h · H, with the magnitude of its terms.
    fn want_gradient(&self, g: f64, h: f64) -> Vec<(f64, f64)> {
        let mut out = vec![(0.0, 0.0); self.logits.len()];
        let (places, logits, id) = self.seen();
        let (log_p, entropy) = self.want();
        if log_p == NONE && logits.iter().all(|&x| x == NONE) {
            return out;
        }
        let max = logits.iter().copied().fold(NONE, f64::max) / TEMPERATURE;
        let log_sum = logits.iter().map(|x| (x / TEMPERATURE - max).exp()).sum::<f64>().ln();
        for (i, (&place, &x)) in places.iter().zip(&logits).enumerate() {
            let log_p = x / TEMPERATURE - max - log_sum;
            let p = log_p.exp();
            let one = if i == id { 1.0 } else { 0.0 };
            let log_p = if p == 0.0 { 0.0 } else { log_p };
            let value = g * (one - p) - h * p * (log_p + entropy);
            let terms = g.abs() * (one + p) + h.abs() * p * (log_p.abs() + entropy);
            out[place] = (value / TEMPERATURE, terms / TEMPERATURE);
        }
        out
    }
}

fn round(logits: Vec<f64>, dtype: DType) -> Vec<f64> {
    let n = logits.len();
    values(&Tensor::from_vec(logits, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
}

/// Uploads the logits of all rows; if `shifted`, they start one element after the start of their
/// storage.
fn place(rows: &[Row], dtype: DType, device: &Device, shifted: bool) -> Tensor {
    let v = rows[0].logits.len();
    let logits = rows.iter().flat_map(|row| row.logits.iter().copied());
    let all: Vec<f64> = std::iter::repeat_n(7.0, usize::from(shifted)).chain(logits).collect();
    let all = Tensor::from_vec(all, rows.len() * v + usize::from(shifted), &Device::Cpu).unwrap();
    let all = all.to_dtype(dtype).unwrap().to_device(device).unwrap();
    all.narrow(0, usize::from(shifted), rows.len() * v).unwrap().reshape((rows.len(), v)).unwrap()
}

fn score(logits: &Tensor, rows: &[Row]) -> Evaluation {
    let supports = rows.iter().map(|row| match row.support.as_deref() {
        None => RowSupport::Whole,
        Some([]) => RowSupport::Skipped,
        Some(list) => RowSupport::Allowed(list),
    });
    let options = ScoreOptions {
        support: Some(Support::new(supports).unwrap()),
        ..ScoreOptions::at(TEMPERATURE)
    };
    let ids: Vec<u32> = rows.iter().map(|row| row.id).collect();
    evaluate(logits, &Tensor::new(ids, logits.device()).unwrap(), &options).unwrap()
}

/// Returns (∂L/∂log p, ∂L/∂H) of every row, both `[n]`.
fn weights(n: usize) -> [Vec<f64>; 2] {
    [1, 2].map(|seed| values(&exact(&[n], seed, DType::F32)))
}

fn weights_on(n: usize, device: &Device) -> [Tensor; 2] {
    weights(n)
        .map(|x| Tensor::from_vec(x, n, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap())
        .map(|x| x.to_device(device).unwrap())
}

fn assert_scores(what: &str, rows: &[Row], log_probs: &Tensor, entropies: &Tensor) {
    for scores in [log_probs, entropies] {
        assert_eq!((scores.dtype(), scores.dims()), (DType::F32, &[rows.len()][..]));
    }
    let log_probs = values(log_probs);
    let entropies = values(entropies);
    let close = |a: f64, b: f64| a == b || (a - b).abs() <= 5e-6 * (1.0 + b.abs());
    for (i, row) in rows.iter().enumerate() {
        let want = row.want();
        let got = (log_probs[i], entropies[i]);
        assert!(
            close(got.0, want.0) && close(got.1, want.1),
            "{what} row {i}: {got:?} against {want:?}"
        );
    }
}

fn assert_gradient(what: &str, rows: &[Row], got: &Tensor, (rounding, smallest): (f64, f64)) {
    let [g, h] = weights(rows.len());
    let got = values(got);
    for (i, row) in rows.iter().enumerate() {
        for (j, (want, terms)) in row.want_gradient(g[i], h[i]).into_iter().enumerate() {
            let got = got[i * row.logits.len() + j];
            // Probabilities near the smallest normal number may be flushed to 0.
            let bound = 2e-5 * terms + rounding * want.abs() + smallest.max(1e-36);
            assert!(
                (got - want).abs() <= bound,
                "{what} row {i}[{j}]: {got} against {want} ± {bound}"
            );
        }
    }
}

/// Checks values and gradient of rows in every element type, on aligned and unaligned starts.
fn check(device: &Device, what: &str, make: &dyn Fn(DType) -> Vec<Row>) {
    for (dtype, rounding, smallest) in TYPES {
        let rows = make(dtype);
        for shifted in [false, true] {
            let what = format!("{what} {dtype:?} shifted {shifted}");
            let logits = place(&rows, dtype, device, shifted);
            let scores = score(&logits, &rows);
            assert_scores(&what, &rows, &scores.log_probs, &scores.entropies);
            let [g, h] = weights_on(rows.len(), device);
            let gradient = scores.gradient(&logits, &g, &h).unwrap();
            assert_eq!((gradient.dtype(), gradient.dims()), (dtype, logits.dims()));
            assert_gradient(&what, &rows, &gradient, (rounding, smallest));
        }
    }
}

pub fn hard_rows_follow_the_definition(device: &Device) {
    check(device, "hard", &|dtype| {
        let base = random(4, 301, -2.0, 2.0);
        let shaped = |f: &dyn Fn(usize, f64) -> f64| {
            round(base.iter().enumerate().map(|(i, &x)| f(i, x)).collect(), dtype)
        };
        let rows = [
            shaped(&|_, x| 4.0 * x),
            shaped(&|_, x| 4.0 * x + 1000.0),
            shaped(&|i, x| if i == 7 { 64.0 } else { x + 46.0 }),
            shaped(&|_, _| -3.0),
            shaped(&|i, x| if i % 3 == 0 { NONE } else { 5.0 * x }),
            shaped(&|i, _| if i == 7 { 2.0 } else { NONE }),
            shaped(&|_, _| NONE),
            shaped(&|_, x| 1.5e4 * x),
        ];
        rows.into_iter().flat_map(|row| [7, 9].map(|id| Row::whole(row.clone(), id))).collect()
    });
}

pub fn every_vocabulary_size_follows_the_definition(device: &Device) {
    for v in [2, 3, 8, 255, 256, 2049, 32_773, 151_936] {
        check(device, &format!("v = {v}"), &|dtype| {
            let row = |i: usize| round(random(i as u64, v, -9.0, 3.0), dtype);
            (0..3).map(|i| Row::whole(row(i), (i * 7919 + v - 1) % v)).collect()
        });
    }
}

pub fn supports_are_all_that_exists(device: &Device) {
    check(device, "supports", &|dtype| {
        let v = 1003;
        let row = |i: usize| round(random(20 + i as u64, v, -4.0, 4.0), dtype);
        let mut broken = row(2);
        (broken[0], broken[5]) = (f64::NAN, f64::INFINITY);
        let thirds: Vec<u32> = (0..v as u32).filter(|i| i % 3 == 1).collect();
        vec![
            Row { logits: row(0), id: 4, support: Some(thirds.clone()) },
            Row { logits: row(1), id: 1002, support: Some(vec![1002]) },
            Row { logits: broken.clone(), id: 7, support: Some(vec![1, 7, 900]) },
            Row { logits: broken, id: 5000, support: Some(vec![]) },
            Row { logits: row(3), id: 0, support: None },
            Row { logits: vec![NONE; v], id: 1, support: Some(thirds) },
        ]
    });
}

pub fn the_gradient_in_place_is_the_gradient(device: &Device) {
    for (dtype, ..) in TYPES {
        let row = |i: u64| Row::whole(round(random(i, 4099, -3.0, 3.0), dtype), 17);
        let mut rows: Vec<Row> = (0..5).map(row).collect();
        rows[1].support = Some(vec![17, 4000]);
        rows[3].support = Some(vec![]);
        let logits = place(&rows, dtype, device, true);
        let [g, h] = weights_on(rows.len(), device);
        let scores = score(&logits, &rows);
        let apart = scores.gradient(&logits, &g, &h).unwrap();
        assert_eq!(
            values(&logits),
            rows.iter().flat_map(|row| row.logits.clone()).collect::<Vec<_>>()
        );
        scores.gradient_in_place(&logits, &g, &h).unwrap();
        assert_eq!(values(&logits), values(&apart), "{dtype:?}");
        assert!(scores.gradient(&logits, &g.narrow(0, 0, 4).unwrap(), &h).is_err());
    }
}

pub fn autograd_gives_the_same_gradient(device: &Device) {
    for (dtype, rounding, smallest) in TYPES {
        let row = |i: u64| Row::whole(round(random(i, 513, -3.0, 3.0), dtype), 100 * i as usize);
        let rows: Vec<Row> = (0..4).map(row).collect();
        let var = Var::from_tensor(&place(&rows, dtype, device, false)).unwrap();
        let ids = Tensor::new(&[0u32, 100, 200, 300], device).unwrap();
        let (log_probs, entropies) = logprob_entropy(&var, &ids, TEMPERATURE).unwrap();
        assert_scores("autograd", &rows, &log_probs, &entropies);
        let weights = weights_on(rows.len(), device);
        let part = |i: usize, x: &Tensor| (x * &weights[i]).unwrap().sum_all().unwrap();
        let loss = (part(0, &log_probs) + part(1, &entropies)).unwrap();
        let grads = loss.backward().unwrap();
        assert_gradient("autograd", &rows, grads.get(&var).unwrap(), (rounding, smallest));
    }
}

pub fn bad_logits_and_ids_are_errors(device: &Device) {
    let call = |logits: &[f32], ids: [u32; 2]| {
        let logits = Tensor::from_slice(logits, (2, logits.len() / 2), device).unwrap();
        let ids = Tensor::new(&ids, device).unwrap();
        logprob_entropy(&logits, &ids, 1.0).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(call(&[1.0, 2.0, 3.0, 4.0], [0, 1]), Ok(()));
    for bad in [f32::NAN, f32::INFINITY] {
        for at in 3..6 {
            let mut logits =
                [1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
            logits[at] = bad;
            assert!(call(&logits, [0, 1]).unwrap_err().contains("row 1"));
        }
    }
    assert!(call(&[1.0, 2.0, 3.0, 4.0], [0, 2]).unwrap_err().contains("ids[1]"));
}
