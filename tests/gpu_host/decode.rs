//! The kernels of decoding, compared with f64.

use crate::launch::{decode_f32, encode_f32, encode_u32, Argument, Machine, Numbers};
use crate::layers::{check, out, sizes, Values};

const PAGE: usize = 16;
const WHOLE: u32 = u32::MAX;

fn scatter(machine: &Machine, h: usize, threads: usize, groups: usize, start: usize) {
    let context = format!("rows of {h}, {threads} threads, {groups} groups, from {start}");
    let mut numbers = Numbers::new(h as u64);
    let x = Values::new(machine, &numbers.many(3 * h, 2.0));
    let y = Values::new(machine, &numbers.many(5 * h, 2.0));
    let index = [4, 0, 3];
    let mut arguments = vec![x.at(machine, start), Argument::new(encode_u32(&index))];
    arguments.push(y.at(machine, start));
    arguments.extend(sizes([3, h]));
    let got = machine.run("scatter_rows", groups, threads, &arguments).swap_remove(2);
    let mut want = y.wide.clone();
    for (row, &to) in x.wide.chunks(h).zip(&index) {
        want[to as usize * h..][..h].copy_from_slice(row);
    }
    let want: Vec<_> = want.into_iter().map(|x| (x, 0.0)).collect();
    check(machine, "scatter_rows", &context, &got, &want);
}

/// Three query tokens of two rows, whose pages lie in no order.
fn attend(machine: &Machine, [heads, kv_heads, d]: [usize; 3], splits: usize, threads: usize) {
    let context =
        format!("{heads} heads over {kv_heads} of {d}, {splits} splits, {threads} threads");
    let mut numbers = Numbers::new((heads * d) as u64);
    let tables = [3u32, 1, 4, 0, 2, 0];
    let rows = [0u32, 1, 0];
    let positions = [40u32, 17, 0];
    let mut draw = |count: usize| Values::new(machine, &numbers.many(count, 1.0));
    let q = draw(3 * heads * d);
    let keys = draw(5 * PAGE * kv_heads * d);
    let values = draw(5 * PAGE * kv_heads * d);
    let items = 3 * heads;
    let mut arguments: Vec<_> = [&q, &keys, &values].map(|x| x.at(machine, 0)).into();
    arguments.extend([&tables[..], &rows, &positions].map(|x| Argument::new(encode_u32(x))));
    arguments.push(Argument::out(4 * items * splits * (2 + d)));
    arguments.extend(sizes([heads, kv_heads, d, 3, splits]));
    arguments.push(Argument::F32(0.7));
    let groups = 3 * kv_heads * (heads / kv_heads).div_ceil(4) * splits;
    let partial = machine.run("attend_pages", groups, threads, &arguments).swap_remove(6);
    let mut arguments = vec![Argument::new(partial), out(machine, items * d, 0)];
    arguments.extend(sizes([items, splits, d]));
    let got = machine.run("combine_splits", 2, threads, &arguments).swap_remove(1);

    let mut want = Vec::new();
    for item in 0..items {
        let token = item / heads;
        let kv_head = item % heads / (heads / kv_heads);
        let place = |j: usize| {
            let page = tables[rows[token] as usize * 3 + j / PAGE] as usize;
            ((page * PAGE + j % PAGE) * kv_heads + kv_head) * d
        };
        let query = &q.wide[item * d..][..d];
        let weight = |j: usize| {
            let key = &keys.wide[place(j)..][..d];
            (0.7 * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()).exp()
        };
        let weights: Vec<f64> = (0..=positions[token] as usize).map(weight).collect();
        let total: f64 = weights.iter().sum();
        for c in 0..d {
            let terms = weights.iter().enumerate().map(|(j, w)| w * values.wide[place(j) + c]);
            want.push((terms.sum::<f64>() / total, 10.0));
        }
    }
    check(machine, "attend_pages", &context, &got, &want);
}

/// Rows with and without a support, drawn at many places, greedy ones, and broken ones.
fn sample(machine: &Machine, v: usize, threads: usize) {
    let context = format!("{v} logits, {threads} threads");
    let mut numbers = Numbers::new(v as u64);
    let allowed: Vec<u32> = (0..v as u32).filter(|id| id % 3 == 1).chain([v as u32 - 1]).collect();
    let inverse_temperature = 0.8f32;
    let n = 24;
    let mut logits = numbers.many(n * v, 4.0);
    logits[v / 2] = f32::NEG_INFINITY;
    logits[22 * v..23 * v].fill(f32::NEG_INFINITY);
    logits[23 * v + v / 2] = f32::NAN;
    let listed = |row: usize| row % 2 == 1 && row < 22;
    let count: Vec<u32> =
        (0..n).map(|row| if listed(row) { allowed.len() as u32 - 1 } else { WHOLE }).collect();
    let uniform: Vec<f32> =
        (0..n).map(|row| if row < 20 { row as f32 / 20.0 } else { -1.0 }).collect();
    let mut arguments = vec![Argument::new(encode_f32(&logits))];
    arguments.extend([&vec![0; n], &count, &allowed].map(|x| Argument::new(encode_u32(x))));
    arguments.push(Argument::new(encode_f32(&uniform)));
    arguments.push(Argument::out(4 * 3 * n));
    arguments.extend(sizes([v]));
    arguments.push(Argument::F32(inverse_temperature));
    let got = decode_f32(&machine.run("sample_rows", n, threads, &arguments).swap_remove(5));
    for (row, got) in got.chunks(3).enumerate() {
        if row >= 22 {
            assert_eq!(got[0], -1.0, "{context}, row {row}");
            continue;
        }
        let ids: Vec<usize> = if listed(row) {
            allowed[..count[row] as usize].iter().map(|&id| id as usize).collect()
        } else {
            (0..v).collect()
        };
        let x = |id: usize| f64::from(logits[row * v + id]) * f64::from(inverse_temperature);
        let total: f64 = ids.iter().map(|&id| x(id).exp()).sum();
        let log_p = |id: usize| x(id) - total.ln();
        let p = |id: &usize| log_p(*id).exp();
        let entropy: f64 = ids.iter().filter(|id| p(id) > 0.0).map(|&id| -p(&id) * log_p(id)).sum();
        let id = got[0] as usize;
        assert!(ids.contains(&id), "{context}, row {row}: {id}");
        if row >= 20 {
            let largest = ids.iter().copied().max_by(|&a, &b| x(a).total_cmp(&x(b)));
            assert_eq!(Some(id), largest, "{context}, row {row}");
        } else {
            let before: f64 = ids.iter().take_while(|&&other| other < id).map(p).sum();
            let u = f64::from(uniform[row]);
            let inside = before - 1e-5 <= u && u <= before + p(&id) + 1e-5;
            assert!(inside, "{context}, row {row}: {id} at {before} for {u}");
        }
        let want = [log_p(id), entropy];
        machine.compare("sample_rows", &context, &got[1..], &want, |_| 2e-5);
    }
}

pub(crate) fn check_all(machine: &Machine) {
    for (h, threads, groups, start) in [(1, 32, 1, 0), (37, 32, 2, 0), (64, 64, 3, 1)] {
        scatter(machine, h, threads, groups, start);
    }
    for (shape, splits, threads) in [
        ([1, 1, 2], 1, 32),
        ([4, 2, 6], 1, 64),
        ([6, 1, 16], 3, 256),
        ([14, 2, 64], 2, 256),
        ([2, 2, 128], 5, 64),
    ] {
        attend(machine, shape, splits, threads);
    }
    for (v, threads) in [(3, 32), (151, 32), (1000, 256)] {
        sample(machine, v, threads);
    }
}
