//! The kernels of rows and of attention, compared with f64.

use crate::launch::{decode_f32, encode_f32, encode_u32, Argument, Machine, Numbers};
use crate::layers::{check, out, sizes, Values};

/// Pairs of an exact result and the magnitude of its terms.
type Wanted = Vec<(f64, f64)>;

fn exact(values: impl IntoIterator<Item = f64>) -> Wanted {
    values.into_iter().map(|x| (x, 0.0)).collect()
}

/// Rows of x, and the sums of listed rows, alone and added to f32.
fn rows(machine: &Machine, (m, h): (usize, usize), threads: usize, groups: usize, start: usize) {
    let context = format!("[{m}, {h}], {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new((m * h) as u64);
    let x = Values::new(machine, &numbers.many(m * h, 2.0));
    let index: Vec<u32> = (0..2 * m).map(|_| numbers.below(m) as u32).collect();
    let mut arguments = vec![x.at(machine, start), Argument::new(encode_u32(&index))];
    arguments.push(out(machine, 2 * m * h, start));
    arguments.extend(sizes([2 * m, h]));
    let got = machine.run("gather_rows", groups, threads, &arguments).swap_remove(2);
    let row = |&at: &u32| &x.wide[at as usize * h..][..h];
    let want = exact(index.iter().flat_map(row).copied());
    check(machine, "gather_rows", &context, &got, &want);

    // Lists of 0, 1, 2, ... rows.
    let starts: Vec<u32> = (0..5).map(|i| i * (i + 1) / 2).collect();
    let order: Vec<u32> = (0..10).map(|_| numbers.below(m) as u32).collect();
    let lists = [&starts, &order].map(|list| Argument::new(encode_u32(list)));
    let sum = |list: usize, column: usize| {
        let places = &order[starts[list] as usize..starts[list + 1] as usize];
        let terms = places.iter().map(|&at| x.wide[at as usize * h + column]);
        terms.fold((0.0, 1.0), |(sum, size), x| (sum + x, size + x.abs()))
    };
    let want: Wanted = (0..4 * h).map(|i| sum(i / h, i % h)).collect();
    let mut arguments = vec![x.at(machine, start)];
    arguments.extend(lists.clone());
    arguments.push(out(machine, 4 * h, start));
    arguments.extend(sizes([4, h]));
    let got = machine.run("sum_rows", groups, threads, &arguments).swap_remove(3);
    check(machine, "sum_rows", &context, &got, &want);

    let before = numbers.many(6 * h, 3.0);
    let targets = [4, 0, 5, 2];
    let mut arguments = vec![x.at(machine, start)];
    arguments.extend(lists);
    arguments.push(Argument::new(encode_u32(&targets)));
    arguments.push(Argument::Buffer(encode_f32(&before), 4 * start));
    arguments.extend(sizes([4, h]));
    let got = machine.run("add_rows", groups, threads, &arguments).swap_remove(4);
    let mut all: Vec<f64> = before.iter().map(|&x| x.into()).collect();
    for (list, &target) in targets.iter().enumerate() {
        for column in 0..h {
            all[target as usize * h + column] += sum(list, column).0;
        }
    }
    machine.compare("add_rows", &context, &decode_f32(&got), &all, |_| 1e-5);
}

fn sums(machine: &Machine, (n, h): (usize, usize), threads: usize, groups: usize, start: usize) {
    let context = format!("[{n}, {h}], {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new((n + h) as u64);
    let mut draw = |count: usize| Values::new(machine, &numbers.many(count, 2.0));
    let x = draw(n * h);
    let y = draw(n * h);
    let bias = draw(h);
    let mut arguments = vec![x.at(machine, start), bias.at(machine, 0)];
    arguments.extend(sizes([n, h]));
    let got = machine.run("add_bias", groups, threads, &arguments).swap_remove(0);
    let want: Wanted = (0..n * h).map(|i| (x.wide[i] + bias.wide[i % h], 4.0)).collect();
    check(machine, "add_bias", &context, &got, &want);

    let mut arguments = vec![x.at(machine, start), y.at(machine, start)];
    arguments.extend(sizes([n * h]));
    let got = machine.run("add_to", groups, threads, &arguments).swap_remove(0);
    let want: Wanted = (0..n * h).map(|i| (x.wide[i] + y.wide[i], 4.0)).collect();
    check(machine, "add_to", &context, &got, &want);

    let wide: Vec<f32> = x.wide.iter().map(|&x| x as f32).collect();
    let mut arguments = vec![Argument::Buffer(encode_f32(&wide), 4 * start)];
    arguments.push(Argument::out(4 * groups));
    arguments.extend(sizes([n * h]));
    let got = machine.run("sum_squares", groups, threads, &arguments).swap_remove(1);
    let got: f64 = decode_f32(&got).iter().sum();
    let want: f64 = x.wide.iter().map(|x| x * x).sum();
    machine.compare("sum_squares", &context, &[got], &[want], |_| 1e-6 * want);
}

fn swap(machine: &Machine, [a, b, d]: [usize; 3], threads: usize, groups: usize, start: usize) {
    let context = format!("[{a}, {b}, {d}], {threads} threads, {groups} groups, from {start}");
    let x = Values::new(machine, &Numbers::new((a + b + d) as u64).many(a * b * d, 2.0));
    let place = |i: usize| (i / d % a * b + i / d / a) * d + i % d;
    let want = exact((0..a * b * d).map(|i| x.wide[place(i)]));
    let wide: Vec<f32> = x.wide.iter().map(|&x| x as f32).collect();
    for (kernel, x) in [
        ("swap_axes", x.at(machine, start)),
        ("swap_axes_narrow", Argument::Buffer(encode_f32(&wide), 4 * start)),
    ] {
        let mut arguments = vec![x, out(machine, a * b * d, start)];
        arguments.extend(sizes([a, b, d]));
        let got = machine.run(kernel, groups, threads, &arguments).swap_remove(1);
        check(machine, kernel, &context, &got, &want);
    }
}

/// Probabilities of `heads` × `rows` queries, and the gradient of their scores.
fn softmax(machine: &Machine, heads: usize, rows: usize, first: usize, threads: usize) {
    let keys = first + rows;
    let n = heads * rows;
    let context = format!("{heads} heads of {rows} rows, {keys} keys, {threads} threads");
    let mut numbers = Numbers::new((n * keys) as u64);
    let scores = numbers.many(n * keys, 6.0);
    let mut arguments = vec![Argument::new(encode_f32(&scores)), out(machine, n * keys, 0)];
    arguments.extend(sizes([rows, first, keys, 1]));
    let mut results = machine.run("causal_softmax", n, threads, &arguments);
    let got = results.swap_remove(1);
    let wide = results.swap_remove(0);
    let probability = |i: usize| {
        let row = &scores[i / keys * keys..][..keys];
        let valid = &row[..first + i / keys % rows + 1];
        let exp = |x: f32| f64::from(x).exp();
        let sum: f64 = valid.iter().map(|&x| exp(x)).sum();
        if i % keys < valid.len() {
            exp(row[i % keys]) / sum
        } else {
            0.0
        }
    };
    let want: Wanted = (0..n * keys).map(|i| (probability(i), 10.0 * probability(i))).collect();
    check(machine, "causal_softmax", &context, &got, &want);

    let p = decode_f32(&wide);
    let bound = |i: usize| 1e-5 * probability(i) + 1e-30;
    let values: Vec<f64> = want.iter().map(|w| w.0).collect();
    machine.compare("causal_softmax in f32", &context, &p, &values, bound);
    let dp = numbers.many(n * keys, 1.0);
    let mut arguments = vec![Argument::new(wide), Argument::new(encode_f32(&dp))];
    arguments.push(out(machine, n * keys, 0));
    arguments.extend(sizes([keys]));
    arguments.push(Argument::F32(0.5));
    let got = machine.run("softmax_gradient", n, threads, &arguments).swap_remove(2);
    let gradient = |i: usize| {
        let row = i / keys * keys..(i / keys + 1) * keys;
        let sum: f64 = row.map(|j| p[j] * f64::from(dp[j])).sum();
        (0.5 * p[i] * (f64::from(dp[i]) - sum), 2.0 * p[i])
    };
    let want: Wanted = (0..n * keys).map(gradient).collect();
    check(machine, "softmax_gradient", &context, &got, &want);
}

/// Two products of strided factors, alone and added to what is there.
fn product(machine: &Machine, [rows, columns, terms]: [usize; 3], transposed: [bool; 2]) {
    let context = format!("[{rows}, {terms}] [{terms}, {columns}], transposed {transposed:?}");
    let mut numbers = Numbers::new((rows * columns * terms) as u64);
    // Rows of factors are one element apart from each other.
    let mut factor = |rows: usize, columns: usize, transposed: bool| {
        let (height, width) = if transposed { (columns, rows) } else { (rows, columns) };
        let stride = width + 1;
        let values = Values::new(machine, &numbers.many(2 * height * stride, 1.0));
        let steps = if transposed { [1, stride] } else { [stride, 1] };
        (values, steps, height * stride)
    };
    let (a, a_steps, a_batch) = factor(rows, terms, transposed[0]);
    let (b, b_steps, b_batch) = factor(terms, columns, transposed[1]);
    let before = numbers.many(2 * rows * columns, 1.0);
    for (kernel, accumulate) in
        [("product", false), ("product", true), ("product_float", false), ("product_float", true)]
    {
        let narrow = kernel == "product";
        let start = Values::new(machine, &before);
        let out = match (accumulate, narrow) {
            (false, true) => out(machine, before.len(), 0),
            (false, false) => Argument::out(4 * before.len()),
            (true, true) => start.at(machine, 0),
            (true, false) => Argument::new(encode_f32(&before)),
        };
        let mut arguments = vec![a.at(machine, 0), b.at(machine, 0), out];
        arguments.extend(sizes([rows, columns, terms]));
        arguments.extend(sizes([a_steps[0], a_steps[1], a_batch]));
        arguments.extend(sizes([b_steps[0], b_steps[1], b_batch, rows * columns]));
        arguments.push(Argument::F32(0.5));
        arguments.extend(sizes([usize::from(accumulate)]));
        let groups = 2 * rows.div_ceil(32) * columns.div_ceil(32);
        let got = machine.run(kernel, groups, 256, &arguments).swap_remove(2);
        let want = |i: usize| {
            let (entry, row, column) = (i / rows / columns, i / columns % rows, i % columns);
            let term = |k: usize| {
                a.wide[entry * a_batch + row * a_steps[0] + k * a_steps[1]]
                    * b.wide[entry * b_batch + k * b_steps[0] + column * b_steps[1]]
            };
            let held = if narrow { start.wide[i] } else { before[i].into() };
            let sum = 0.5 * (0..terms).map(term).sum::<f64>();
            (sum + if accumulate { held } else { 0.0 }, terms as f64)
        };
        let want: Wanted = (0..before.len()).map(want).collect();
        if narrow {
            check(machine, kernel, &context, &got, &want);
        } else {
            let values: Vec<f64> = want.iter().map(|w| w.0).collect();
            let bound = |i: usize| 1e-6 * want[i].1 + 1e-7;
            machine.compare(kernel, &context, &decode_f32(&got), &values, bound);
        }
    }
}

pub(crate) fn check_all(machine: &Machine) {
    for (n, h, threads, groups, start) in [
        (1, 1, 32, 1, 0),
        (5, 37, 32, 2, 0),
        (9, 64, 64, 4, 0),
        (4, 64, 32, 3, 1),
        (3, 600, 32, 2, 0),
    ] {
        rows(machine, (n, h), threads, groups, start);
        sums(machine, (n, h), threads, groups, start);
    }
    for (dims, threads, groups, start) in [
        ([1, 1, 1], 32, 1, 0),
        ([3, 5, 6], 32, 2, 0),
        ([5, 3, 16], 64, 1, 0),
        ([2, 7, 64], 32, 3, 1),
    ] {
        swap(machine, dims, threads, groups, start);
    }
    for (heads, rows, first, threads) in
        [(1, 1, 0, 32), (3, 5, 0, 32), (2, 4, 44, 64), (2, 3, 300, 32)]
    {
        softmax(machine, heads, rows, first, threads);
    }
    for size in [[1, 1, 1], [5, 37, 6], [40, 3, 70]] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            product(machine, size, transposed);
        }
    }
}
