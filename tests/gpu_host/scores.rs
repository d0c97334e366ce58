//! `logprob_entropy` and its gradient, compared with f64.

use crate::launch::{decode_f32, encode_f32, encode_u32, Argument, Element, Machine, Numbers};

const WHOLE: u32 = u32::MAX;

/// A row's token, logits and candidate set.
struct Row {
    logits: Vec<f32>,
    id: usize,
    /// Ascending; `None` for the whole vocabulary, empty for a skipped row.
    support: Option<Vec<usize>>,
}

/// log p, H, (max x, ln s, Ē) and the gradient of a row, with the magnitude of the gradient's
/// terms.
struct Expected {
    log_p: f64,
    entropy: f64,
    statistics: [f64; 3],
    gradient: Vec<f64>,
    terms: Vec<f64>,
}

fn normal(numbers: &mut Numbers, v: usize, center: f32) -> Vec<f32> {
    (0..v).map(|_| center + (0..4).map(|_| numbers.next(2.5)).sum::<f32>()).collect()
}

fn with(mut logits: Vec<f32>, place: usize, value: f32) -> Vec<f32> {
    logits[place] = value;
    logits
}

/// Returns rows that cover every special case.
fn rows(numbers: &mut Numbers, v: usize, element: Element) -> Vec<Row> {
    let lowest = if element == Element::F16 { -65504.0 } else { f32::MIN };
    let low = f32::NEG_INFINITY;
    let nan = f32::NAN;
    let place = numbers.below(v);
    let third: Vec<usize> = (0..v).step_by(3).collect();
    let id = third[numbers.below(third.len())];
    let holes = |numbers: &mut Numbers| -> Vec<f32> {
        normal(numbers, v, 0.0).iter().map(|&x| if x < 0.0 { low } else { x }).collect()
    };
    let listed = |logits: &[f32], outside: f32| -> Vec<f32> {
        logits.iter().enumerate().map(|(i, &x)| if i % 3 == 0 { x } else { outside }).collect()
    };
    let whole = |logits, id| Row { logits, id, support: None };
    let some = |logits, id, support| Row { logits, id, support: Some(support) };
    let mut draw = |center| normal(numbers, v, center);
    let mut rows = vec![
        whole(draw(0.0), place),
        whole(draw(1000.0), place),
        whole(draw(-1000.0), v - 1),
        whole(with(draw(0.0), place, 60.0), place),
        whole(with(draw(0.0), place, 60.0), 0),
        whole(with(draw(0.0), place, low), place),
        whole(vec![low; v], place),
        whole(with(vec![low; v], place, 3.0), place),
        whole(vec![lowest; v], place),
        whole(with(draw(0.0), v - 1, nan), 0),
        whole(with(vec![low; v], place, nan), 0),
        whole(with(draw(0.0), place, f32::INFINITY), 0),
        some(vec![nan; v], place, vec![]),
        some(listed(&draw(0.0), nan), id, third.clone()),
        some(listed(&draw(0.0), nan), 1, third.clone()),
        some(with(vec![nan; v], id, -2.0), id, vec![id]),
        some(draw(0.0), place, (0..v).collect()),
        some(listed(&vec![low; v], 1.0), id, third),
    ];
    rows.push(whole(holes(numbers), place));
    rows
}

/// Evaluates the definitions on the row's support in f64, for the rounded logits.
fn expected(row: &Row, logits: &[f64], inv_tau: f64, g: f64, h: f64) -> Expected {
    let v = logits.len();
    let support = row.support.clone().unwrap_or_else(|| (0..v).collect());
    let on = |x: &dyn Fn(f64) -> f64| support.iter().map(|&i| x(logits[i])).collect::<Vec<_>>();
    let mut expected = Expected {
        log_p: if support.is_empty() { 0.0 } else { f64::NEG_INFINITY },
        entropy: 0.0,
        statistics: [if support.is_empty() { 0.0 } else { f64::NEG_INFINITY }, 0.0, 0.0],
        gradient: vec![0.0; v],
        terms: vec![0.0; v],
    };
    let max =
        on(&|x| x)
            .into_iter()
            .fold(f64::NEG_INFINITY, |a, b| if b.is_nan() || b > a { b } else { a });
    if max == f64::NEG_INFINITY {
        return expected;
    }
    let shifted = |x: f64| if x == f64::NEG_INFINITY { f64::MIN } else { (x - max) * inv_tau };
    let log_s = on(&|x| shifted(x).exp()).into_iter().sum::<f64>().ln();
    let p = |x: f64| (shifted(x) - log_s).exp();
    let mean = on(&|x| if p(x) == 0.0 { 0.0 } else { p(x) * shifted(x) }).into_iter().sum::<f64>();
    expected.entropy = log_s - mean;
    expected.statistics = [max, log_s, mean];
    for &i in &support {
        let p = p(logits[i]);
        let u = shifted(logits[i]);
        if p != 0.0 {
            expected.gradient[i] = inv_tau * p * (h * (mean - u) - g);
            expected.terms[i] =
                inv_tau * p * (h.abs() * (mean.abs() + u.abs() + 1.0) + g.abs()) * (1.0 - u);
        }
    }
    if support.contains(&row.id) {
        let x = logits[row.id];
        expected.log_p = if x == f64::NEG_INFINITY { x } else { shifted(x) - log_s };
        expected.gradient[row.id] += inv_tau * g;
        expected.terms[row.id] += inv_tau * g.abs();
    }
    if expected.entropy.is_nan() {
        expected.log_p = f64::NAN;
    }
    expected
}

/// Launch parameters of the kernels.
#[derive(Debug, Clone, Copy)]
struct Setting {
    v: usize,
    threads: usize,
    /// Offsets, in elements, of the logits and the gradient from an aligned address.
    starts: (usize, usize),
    in_place: bool,
    inv_tau: f32,
}

/// Returns the leading arguments of both kernels.
fn inputs(machine: &Machine, rows: &[Row], setting: Setting) -> Vec<Argument> {
    let mut start = vec![];
    let mut count = vec![];
    let mut allowed = vec![];
    for row in rows {
        start.push(allowed.len() as u32);
        count.push(row.support.as_ref().map_or(WHOLE, |support| support.len() as u32));
        allowed.extend(row.support.iter().flatten().map(|&i| i as u32));
    }
    let ids: Vec<u32> = rows.iter().map(|row| row.id as u32).collect();
    let logits: Vec<f32> = rows.iter().flat_map(|row| row.logits.clone()).collect();
    let mut arguments = vec![Argument::Buffer(
        machine.element.encode(&logits),
        setting.starts.0 * machine.element.size(),
    )];
    arguments.extend([ids, start, count, allowed].map(|list| Argument::new(encode_u32(&list))));
    arguments
}

fn check(machine: &Machine, setting: Setting, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let v = setting.v;
    let element = machine.element;
    let rows = rows(&mut numbers, v, element);
    let n = rows.len();
    let inputs = inputs(machine, &rows, setting);
    let sizes = [Argument::U32(n as u32), Argument::U32(v as u32), Argument::F32(setting.inv_tau)];

    let forward = [&inputs[..], &[Argument::out(8 * n), Argument::out(12 * n)], &sizes].concat();
    let results = machine.run("logprob_entropy", n, setting.threads, &forward);
    let out = decode_f32(&results[5]);
    let stats = decode_f32(&results[6]);

    let grad = numbers.many(2 * n, 2.0);
    let place = if setting.in_place {
        Argument::Same(0)
    } else {
        Argument::Buffer(vec![0xff; n * v * element.size()], setting.starts.1 * element.size())
    };
    let middle = [Argument::new(results[6].clone()), Argument::new(encode_f32(&grad)), place];
    let backward = [&inputs[..], &middle, &sizes].concat();
    let results = machine.run("logprob_entropy_gradient", n, setting.threads, &backward);
    let gradient = element.decode(&results[if setting.in_place { 0 } else { 7 }]);

    for (i, row) in rows.iter().enumerate() {
        let context = format!("{setting:?}, row {i}");
        let logits = element.decode(&element.encode(&row.logits));
        let g = f64::from(grad[i]);
        let h = f64::from(grad[n + i]);
        let want = expected(row, &logits, setting.inv_tau.into(), g, h);
        let log_bound = 2e-6 + 3e-7 * if want.log_p.is_finite() { want.log_p.abs() } else { 0.0 };
        machine.compare("log p", &context, &[out[i]], &[want.log_p], |_| log_bound);
        machine.compare("entropy", &context, &[out[n + i]], &[want.entropy], |_| 2e-6);
        if want.entropy.is_nan() {
            continue;
        }
        let got: Vec<f64> = (0..3).map(|k| stats[k * n + i]).collect();
        machine.compare("statistics", &context, &got, &want.statistics, |k| {
            if k == 0 {
                0.0
            } else {
                2e-6
            }
        });
        let (relative, absolute) = element.rounding();
        let bound = |j: usize| relative * want.gradient[j].abs() + absolute + 5e-7 * want.terms[j];
        machine.compare("gradient", &context, &gradient[i * v..(i + 1) * v], &want.gradient, bound);
    }
}

pub(crate) fn check_all(machine: &Machine) {
    let settings = [
        (2, 32, (0, 0)),
        (3, 32, (1, 1)),
        (16, 64, (0, 0)),
        (151, 32, (3, 3)),
        (151, 96, (0, 1)),
        (1000, 64, (0, 0)),
        (1000, 256, (5, 5)),
        (4099, 96, (7, 7)),
        (4099, 256, (2, 3)),
        (32000, 256, (0, 0)),
    ];
    for (i, (v, threads, starts)) in settings.into_iter().enumerate() {
        for (in_place, inv_tau) in [(false, 1.0), (true, 1.0 / 0.7)] {
            check(machine, Setting { v, threads, starts, in_place, inv_tau }, i as u64);
        }
    }
}

/// Compares the reference above with the crate's.
#[test]
fn references_agree() {
    let mut numbers = Numbers::new(7);
    let v = 23;
    let temperature = 0.7;
    let g = 0.8;
    let h = -1.3;
    let logits = normal(&mut numbers, v, 5.0);
    let wide: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
    let row = Row { logits, id: 4, support: None };
    let ours = expected(&row, &wide, 1.0 / temperature, g, h);
    let (log_p, entropy) = epo::kernels::reference::logprob_entropy(&wide, 4, temperature);
    let gradient = epo::kernels::reference::logprob_entropy_gradient(&wide, 4, temperature, g, h);
    assert!((ours.log_p - log_p).abs() < 1e-12 && (ours.entropy - entropy).abs() < 1e-12);
    assert!(ours.gradient.iter().zip(&gradient).all(|(a, b)| (a - b).abs() < 1e-12));
}
