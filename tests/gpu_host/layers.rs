//! The kernels of the training layers and of the optimiser, compared with f64.

use crate::launch::{decode_f32, encode_f32, encode_u32, Argument, Element, Machine, Numbers};

const EPS: f32 = 1e-6;

/// Returns random numbers as rounded to the element type.
pub(crate) struct Values {
    bytes: Vec<u8>,
    pub(crate) wide: Vec<f64>,
}

impl Values {
    pub(crate) fn new(machine: &Machine, numbers: &[f32]) -> Self {
        let bytes = machine.element.encode(numbers);
        Self { wide: machine.element.decode(&bytes), bytes }
    }

    /// Creates an argument that starts some elements after an aligned address.
    pub(crate) fn at(&self, machine: &Machine, start: usize) -> Argument {
        Argument::Buffer(self.bytes.clone(), start * machine.element.size())
    }
}

pub(crate) fn out(machine: &Machine, count: usize, start: usize) -> Argument {
    Argument::Buffer(vec![0xff; count * machine.element.size()], start * machine.element.size())
}

pub(crate) fn sizes<const N: usize>(sizes: [usize; N]) -> [Argument; N] {
    sizes.map(|size| Argument::U32(size as u32))
}

/// Checks that `got` is `want` up to rounding and 1e-6 of the terms' magnitude.
pub(crate) fn check(machine: &Machine, what: &str, context: &str, got: &[u8], want: &[(f64, f64)]) {
    let (relative, absolute) = machine.element.rounding();
    let values: Vec<f64> = want.iter().map(|w| w.0).collect();
    let bound = |i: usize| relative * want[i].0.abs() + absolute + 1e-6 * want[i].1;
    machine.compare(what, context, &machine.element.decode(got), &values, bound);
}

fn rms_norm(
    machine: &Machine,
    (n, h): (usize, usize),
    threads: usize,
    groups: usize,
    start: usize,
) {
    let context = format!("[{n}, {h}], {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new((h + threads) as u64);
    let mut draw = |count: usize, size: f32| Values::new(machine, &numbers.many(count, size));
    let x = draw(n * h, 3.0);
    let w = draw(h, 2.0);
    let dy = draw(n * h, 1.0);
    let px = x.at(machine, start);
    let pw = w.at(machine, 0);
    let pg = dy.at(machine, start);
    let [pn, ph] = sizes([n, h]);
    let tail = [pn, ph, Argument::F32(EPS)];

    let arguments = [&[px.clone(), pw.clone(), out(machine, n * h, start)][..], &tail].concat();
    let y = machine.run("rms_norm", n, threads, &arguments).swap_remove(2);
    let partial = Argument::out(4 * groups * h);
    let arguments = [&[px, pw, pg, out(machine, n * h, start), partial][..], &tail].concat();
    let mut results = machine.run("rms_norm_gradient", groups, threads, &arguments);
    let partial = decode_f32(&results.swap_remove(4));
    let dx = results.swap_remove(3);

    let mut partial_want = vec![(0.0, 0.0); groups * h];
    let mut y_want = vec![];
    let mut dx_want = vec![];
    for row in 0..n {
        let x = &x.wide[row * h..][..h];
        let dy = &dy.wide[row * h..][..h];
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / h as f64 + f64::from(EPS)).sqrt();
        let mean = (0..h).map(|i| dy[i] * w.wide[i] * x[i]).sum::<f64>() / h as f64;
        for i in 0..h {
            let value = x[i] * r * w.wide[i];
            y_want.push((value, value.abs()));
            let a = r * dy[i] * w.wide[i];
            let b = r * r * r * mean * x[i];
            dx_want.push((a - b, a.abs() + b.abs() + r * r * r * x[i].abs()));
            let sum = &mut partial_want[row % groups * h + i];
            *sum = (sum.0 + dy[i] * x[i] * r, sum.1 + (dy[i] * x[i] * r).abs());
        }
    }
    check(machine, "rms_norm", &context, &y, &y_want);
    check(machine, "rms_norm_gradient dx", &context, &dx, &dx_want);
    let values: Vec<f64> = partial_want.iter().map(|w| w.0).collect();
    machine
        .compare("rms_norm_gradient dw", &context, &partial, &values, |i| 1e-6 * partial_want[i].1);
}

fn sum_columns(machine: &Machine, rows: usize, h: usize, threads: usize, groups: usize) {
    let partial = Numbers::new(h as u64).many(rows * h, 1.0);
    let [p_rows, p_h] = sizes([rows, h]);
    let arguments = [Argument::new(encode_f32(&partial)), out(machine, h, 1), p_rows, p_h];
    let sums = machine.run("sum_columns", groups, threads, &arguments).swap_remove(1);
    let sum = |i: usize, f: fn(f64) -> f64| {
        (0..rows).map(|row| f(partial[row * h + i].into())).sum::<f64>()
    };
    let want: Vec<_> = (0..h).map(|i| (sum(i, |x| x), sum(i, f64::abs))).collect();
    let context = format!("[{rows}, {h}], {threads} threads, {groups} groups");
    check(machine, "sum_columns", &context, &sums, &want);
}

/// Bits before and after rounding to an element type: ties, a NaN of all ones, overflow, the
/// smallest number.
fn rounding(machine: &Machine) {
    let bits = [
        0x3f80_8000,
        0x3f81_8000,
        0xbf80_8001,
        0x7fff_ffff,
        0xff80_0000,
        0x7f7f_ffff,
        1,
        0x3f80_1000,
    ];
    let bf16 = [0x3f80, 0x3f82, 0xbf81, 0x7fff, 0xff80, 0x7f80, 0, 0x3f80];
    let f16 = [0x3c04, 0x3c0c, 0xbc04, 0x7fff, 0xfc00, 0x7c00, 0, 0x3c00];
    let partial = Argument::new(encode_u32(&bits));
    let [rows, h] = sizes([1, bits.len()]);
    let got = machine
        .run("sum_columns", 1, 32, &[partial, out(machine, bits.len(), 0), rows, h])
        .swap_remove(1);
    let want: [u16; 8] = match machine.element {
        Element::F32 => return,
        Element::Bf16 => bf16,
        Element::F16 => f16,
    };
    assert_eq!(got, want.map(u16::to_le_bytes).concat());
}

fn rope(machine: &Machine, heads: usize, d: usize, start: usize, sign: f32) {
    let n = 5;
    let half = d / 2;
    let limit = 11;
    let mut numbers = Numbers::new(d as u64);
    let x = Values::new(machine, &numbers.many(n * heads * d, 2.0));
    let positions: Vec<u32> = (0..n).map(|_| numbers.below(limit) as u32).collect();
    let angles: Vec<f32> = numbers.many(limit * half, 3.2);
    let [cos, sin] = [f32::cos as fn(f32) -> f32, f32::sin]
        .map(|f| angles.iter().map(|&a| f(a)).collect::<Vec<_>>());
    let [pn, p_heads, pd] = sizes([n, heads, d]);
    let tables = [encode_u32(&positions), encode_f32(&cos), encode_f32(&sin)].map(Argument::new);
    let ends = [pn, p_heads, pd, Argument::F32(sign)];
    let separate =
        [&[x.at(machine, start), out(machine, n * heads * d, 0)][..], &tables, &ends].concat();
    let in_place = [&[x.at(machine, start), Argument::Same(0)][..], &tables, &ends].concat();
    let results = [
        machine.run("rope", n, 32, &separate).swap_remove(1),
        machine.run("rope", 2, 64, &in_place).swap_remove(0),
    ];
    let want: Vec<(f64, f64)> = (0..n * heads * d)
        .map(|i| {
            let row = i / (heads * d);
            let column = i % d;
            let at = positions[row] as usize * half + column % half;
            let c = f64::from(cos[at]);
            let s = f64::from(sign * sin[at]);
            let value = if column < half {
                x.wide[i] * c - x.wide[i + half] * s
            } else {
                x.wide[i] * c + x.wide[i - half] * s
            };
            (value, 4.0)
        })
        .collect();
    for (result, way) in results.iter().zip(["separate", "in place"]) {
        let context = format!("{heads} heads of {d} from {start}, sign {sign}, {way}");
        check(machine, "rope", &context, result, &want);
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn swiglu(machine: &Machine, count: usize, threads: usize, groups: usize, start: usize) {
    let context = format!("{count} elements, {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new(count as u64);
    let mut a = numbers.many(count, 6.0);
    a[count / 2] = 200.0;
    a[count - 1] = -200.0;
    let a = Values::new(machine, &a);
    let mut draw = |size: f32| Values::new(machine, &numbers.many(count, size));
    let b = draw(2.0);
    let dy = draw(1.0);
    let pa = a.at(machine, start);
    let pb = b.at(machine, start);
    let pg = dy.at(machine, 0);
    let [size] = sizes([count]);
    let arguments = [pa.clone(), pb.clone(), out(machine, count, start), size.clone()];
    let y = machine.run("swiglu", groups, threads, &arguments).swap_remove(2);
    let arguments = [pa, pb, pg, out(machine, count, 0), out(machine, count, 0), size];
    let gradients = machine.run("swiglu_gradient", groups, threads, &arguments);

    let each = |f: &dyn Fn(f64, f64, f64) -> (f64, f64)| -> Vec<(f64, f64)> {
        (0..count).map(|i| f(a.wide[i], b.wide[i], dy.wide[i])).collect()
    };
    let sized = |x: f64| (x, x.abs() + 1e-30);
    check(machine, "swiglu", &context, &y, &each(&|a, b, _| sized(a * sigmoid(a) * b)));
    let da = |a: f64, b: f64, g: f64| {
        let s = sigmoid(a);
        (g * b * s * (1.0 + a * (1.0 - s)), (g * b * s).abs() * (1.0 + a.abs()) + 1e-30)
    };
    check(machine, "swiglu_gradient da", &context, &gradients[3], &each(&da));
    check(
        machine,
        "swiglu_gradient db",
        &context,
        &gradients[4],
        &each(&|a, _, g| sized(g * a * sigmoid(a))),
    );
}

/// A step on f32 parameters, or with `master` on the f32 copy of parameters of the element type.
fn adamw(
    machine: &Machine,
    count: usize,
    threads: usize,
    groups: usize,
    start: usize,
    master: bool,
) {
    let context = format!("{count} elements, {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new(count as u64);
    let mut draw = |size: f32| numbers.many(count, size);
    let x = draw(1.0);
    let g = draw(0.5);
    let m = draw(0.3);
    let v: Vec<f32> = draw(0.2).iter().map(|v| v.abs()).collect();
    let c = [0.25, 0.9, 0.99, 0.98, 0.01, 1.7, 1e-4f32];
    let (name, first_argument) = if master {
        ("adamw_master", Values::new(machine, &x).at(machine, start))
    } else {
        ("adamw", Argument::Buffer(encode_f32(&x), 4 * start))
    };
    let mut arguments = vec![first_argument];
    arguments.extend([&g, &m, &v].map(|numbers| Argument::new(encode_f32(numbers))));
    if master {
        arguments.push(Argument::new(encode_f32(&x)));
    }
    arguments.extend(c.map(Argument::F32));
    arguments.extend(sizes([count]));
    let results = machine.run(name, groups, threads, &arguments);

    let [scale, beta1, beta2, keep, rate, root_scale, eps] = c.map(f64::from);
    let g = |i: usize| scale * f64::from(g[i]);
    let first = |i: usize| beta1 * f64::from(m[i]) + (1.0 - beta1) * g(i);
    let second = |i: usize| beta2 * f64::from(v[i]) + (1.0 - beta2) * g(i) * g(i);
    let step = |i: usize| {
        f64::from(x[i]) * keep - rate * (first(i) / (second(i).sqrt() * root_scale + eps))
    };
    let all = |f: &dyn Fn(usize) -> f64| (0..count).map(f).collect::<Vec<f64>>();
    let compare = |what: &str, result: usize, want: &dyn Fn(usize) -> f64| {
        let got = decode_f32(&results[result]);
        machine.compare(&format!("{name} {what}"), &context, &got, &all(want), |_| 2e-7);
    };
    compare("m", 2, &first);
    compare("v", 3, &second);
    if master {
        compare("master", 4, &step);
        let want: Vec<_> = all(&step).into_iter().map(|x| (x, 1.0)).collect();
        check(machine, "adamw_master x", &context, &results[0], &want);
    } else {
        compare("x", 0, &step);
    }
}

pub(crate) fn check_all(machine: &Machine) {
    for (h, threads, start) in
        [(2, 32, 0), (151, 32, 0), (896, 256, 0), (1000, 64, 1), (4104, 32, 0), (4104, 96, 0)]
    {
        rms_norm(machine, (5, h), threads, 2, start);
        rms_norm(machine, (3, h), threads, 3, start);
    }
    for (rows, h, threads, groups) in
        [(1, 2, 32, 1), (2, 151, 64, 3), (37, 151, 256, 5), (300, 32, 256, 1)]
    {
        sum_columns(machine, rows, h, threads, groups);
    }
    rounding(machine);
    for (heads, d, start) in [(3, 6, 0), (1, 2, 0), (2, 64, 0), (2, 64, 1), (2, 20, 0)] {
        rope(machine, heads, d, start, 1.0);
        rope(machine, heads, d, start, -1.0);
    }
    for (count, threads, groups, start) in [
        (1, 32, 1, 0),
        (7, 32, 2, 0),
        (1000, 64, 1, 0),
        (1003, 32, 4, 0),
        (1003, 32, 2, 1),
        (4096, 256, 2, 0),
    ] {
        swiglu(machine, count, threads, groups, start);
        for master in [false, true] {
            adamw(machine, count, threads, groups, start, master);
        }
    }
}
