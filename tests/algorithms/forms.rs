//! Rows of turns and concatenated rows, padding, and the cut into micro-batches: what changes
//! nothing, and what must change something.

use candle_core::{Device, Tensor};
use epo::advantage::*;
use epo::objective::*;

use crate::masked;
use crate::support::*;

/// Three trajectories of 2, 1 and 3 turns in both forms, with one random list of values per token.
struct Form {
    layout: TokenLayout,
    /// Log-probs, old log-probs, advantages, rewards, values; junk where masked out.
    lists: [Vec<f64>; 5],
}

/// Whether it counts, its turn, its values.
type Token = (bool, usize, [f64; 5]);

const LENGTHS: [&[usize]; 3] = [&[3, 1], &[2], &[1, 2, 3]];

/// `per_turn` rows of turns, or whole trajectories with an observation token before every turn.
fn form(per_turn: bool, padding: usize) -> Form {
    let width = if per_turn { 3 } else { 9 } + padding;
    let mut rows: Vec<(usize, Vec<Token>)> = Vec::new();
    for (trajectory, lengths) in LENGTHS.iter().enumerate() {
        for (turn, &length) in lengths.iter().enumerate() {
            if per_turn || turn == 0 {
                rows.push((trajectory, Vec::new()));
            }
            let row = &mut rows.last_mut().unwrap().1;
            if !per_turn {
                row.push((false, turn, [f64::NAN; 5]));
            }
            for token in 0..length {
                let x = random((100 * trajectory + 10 * turn + token) as u64, 5, -1.0, 1.0);
                row.push((true, turn, [x[0] - 1.5, 0.4 * x[1] + x[0] - 1.5, x[2], x[3], x[4]]));
            }
        }
    }
    for (_, row) in &mut rows {
        row.resize(width, (false, 7, [f64::NAN; 5]));
    }
    let trajectories = rows.iter().map(|(trajectory, _)| *trajectory).collect();
    let tokens: Vec<_> = rows.into_iter().flat_map(|(_, row)| row).collect();
    let mask = tokens.iter().map(|token| token.0).collect();
    let turns = tokens.iter().map(|token| token.1).collect();
    let lists = std::array::from_fn(|list| tokens.iter().map(|token| token.2[list]).collect());
    Form { layout: TokenLayout::new(width, mask, turns, trajectories).unwrap(), lists }
}

impl Form {
    fn tensor(&self, list: usize, rows: &[usize]) -> Tensor {
        let width = self.layout.tokens();
        let of = |&row: &usize| &self.lists[list][row * width..(row + 1) * width];
        let values: Vec<f64> = rows.iter().flat_map(of).copied().collect();
        Tensor::from_vec(values, (rows.len(), width), &Device::Cpu).unwrap()
    }

    /// Loss, metrics and masked-in gradient of some rows of a batch, weighted by an importance
    /// correction.
    fn run(
        &self,
        settings: PolicyLoss,
        batch: &TokenBatch,
        rows: &[usize],
    ) -> (f64, Metrics, Vec<f64>) {
        let part = batch.select(rows).unwrap();
        let width = self.layout.tokens();
        let correction =
            ImportanceCorrection::Mask { level: RatioLevel::SequenceMean, min: 0.8, max: 1.2 };
        let weights = importance_weights(&self.lists[1], &self.lists[0], &self.layout, correction)
            .unwrap()
            .weights;
        let weights: Vec<f64> =
            rows.iter().flat_map(|&row| weights[row * width..(row + 1) * width].to_vec()).collect();
        let weights = Tensor::from_vec(weights, (rows.len(), width), &Device::Cpu).unwrap();
        let loss = |x: &Tensor| {
            let inputs = LossInputs {
                log_probs_bt: x,
                old_log_probs_bt: &self.tensor(1, rows),
                ref_log_probs_bt: None,
                advantages_bt: &self.tensor(2, rows),
                weights_bt: Some(&weights),
                batch: &part,
            };
            policy_loss(&inputs, &settings)
        };
        let x = self.tensor(0, rows);
        let output = loss(&x).unwrap();
        let got = gradient(&host(&x), &[rows.len(), width], &|x| Ok(loss(x)?.loss));
        (host(&output.loss)[0], output.metrics, masked(&got, part.layout()))
    }

    fn all(&self) -> Vec<usize> {
        (0..self.layout.rows()).collect()
    }
}

fn losses() -> [PolicyLoss; 4] {
    [
        PolicyLoss { clip_low: 0.1, clip_high: 0.15, kl: None, ..PolicyLoss::default() },
        PolicyLoss { clip_low: 0.05, clip_high: 0.05, ..PolicyLoss::of(PolicyLossKind::Gspo) },
        PolicyLoss { clip_low: 0.1, clip_high: 0.15, ..PolicyLoss::of(PolicyLossKind::Cispo) },
        PolicyLoss::of(PolicyLossKind::Reinforce),
    ]
}

fn same(what: &str, got: &(f64, Metrics, Vec<f64>), want: &(f64, Metrics, Vec<f64>)) {
    assert_close(&format!("{what} loss"), &[got.0], &[want.0], F64);
    for (name, value) in want.1.iter() {
        assert_close(&format!("{what} {name}"), &[got.1.get(name).unwrap()], &[value], F64);
    }
    assert_close(&format!("{what} gradient"), &got.2, &want.2, F64);
}

#[test]
fn losses_agree_in_both_forms_and_with_padding() {
    let (turns, whole) = (form(true, 0), form(false, 0));
    for settings in losses() {
        for mode in [Aggregation::TokenMean, Aggregation::TurnMean] {
            let of = |form: &Form| {
                form.run(settings, &TokenBatch::new(form.layout.clone(), mode), &form.all())
            };
            let want = of(&turns);
            assert!(want.2.iter().any(|g| g.abs() > 1e-3));
            same(&format!("{:?} {mode:?}", settings.kind), &of(&whole), &want);
            same(&format!("{:?} {mode:?} padded", settings.kind), &of(&form(true, 2)), &want);
            same(&format!("{:?} {mode:?} padded", settings.kind), &of(&form(false, 3)), &want);
        }
        // A mean over rows sees the rows.
        let of = |form: &Form| {
            let batch = TokenBatch::new(form.layout.clone(), Aggregation::SeqMeanTokenSum);
            form.run(settings, &batch, &form.all()).0
        };
        assert!((of(&turns) - of(&whole)).abs() > 1e-3, "{:?}", settings.kind);
    }
}

#[test]
fn losses_do_not_depend_on_the_cut() {
    for form in [form(true, 1), form(false, 0)] {
        for settings in losses() {
            let batch = TokenBatch::new(form.layout.clone(), Aggregation::TurnMean);
            let want = form.run(settings, &batch, &form.all());
            for cut in [1, 2] {
                let mut sum = (0.0, Metrics::new(), Vec::new());
                for rows in form.all().chunks(cut) {
                    let part = form.run(settings, &batch, rows);
                    sum.0 += part.0;
                    sum.1.merge(&part.1);
                    sum.2.extend(part.2);
                }
                same(&format!("{:?} cut {cut}", settings.kind), &sum, &want);
            }
        }
    }
}

/// A turn's ratio is its own in both forms; the ratio of a whole trajectory would be another.
#[test]
fn a_gspo_sequence_is_a_turn() {
    let (turns, whole) = (form(true, 0), form(false, 0));
    let ratios = |form: &Form| {
        let batch = TokenBatch::new(form.layout.clone(), Aggregation::TokenMean);
        let log_ratio = (form.tensor(0, &form.all()) - form.tensor(1, &form.all())).unwrap();
        let mask: Vec<f64> = form.layout.mask().iter().map(|&m| f64::from(u8::from(m))).collect();
        let mask = Tensor::from_vec(mask, log_ratio.dims(), &Device::Cpu).unwrap();
        let zeros = log_ratio.zeros_like().unwrap();
        let log_ratio = mask.ne(0.0).unwrap().where_cond(&log_ratio, &zeros).unwrap();
        masked(&host(&sequence_ratio(&log_ratio, &batch).unwrap()), &form.layout)
    };
    let (by_turn, in_whole) = (ratios(&turns), ratios(&whole));
    assert_close("ratios", &in_whole, &by_turn, F64);
    // Trajectory 0: turn 0 has three equal ratios, turn 1 another.
    assert!(by_turn[0] == by_turn[2] && (by_turn[0] - by_turn[3]).abs() > 1e-3);
}

#[test]
fn importance_weights_agree_in_both_forms() {
    for level in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::SequenceMean] {
        for correction in [
            ImportanceCorrection::Truncate { level, max: 1.1 },
            ImportanceCorrection::Mask { level, min: 0.8, max: 1.1 },
        ] {
            let of = |form: Form| {
                let got =
                    importance_weights(&form.lists[1], &form.lists[0], &form.layout, correction)
                        .unwrap();
                (masked(&got.weights, &form.layout), got.metrics)
            };
            let (want, metrics) = of(form(true, 0));
            assert!(metrics.get("is/cut").unwrap() > 0.0 && metrics.get("is/cut").unwrap() < 1.0);
            for form in [form(false, 0), form(true, 3)] {
                let (got, numbers) = of(form);
                assert_close(&format!("{correction:?}"), &got, &want, F64);
                for (name, value) in metrics.iter() {
                    assert_close(name, &[numbers.get(name).unwrap()], &[value], F64);
                }
            }
        }
    }
}

#[test]
fn advantages_agree_in_both_forms_where_they_follow_turns() {
    let (turns, whole) = (form(true, 0), form(false, 2));
    let (tokens, between) = (Gae { gamma: 0.9, lambda: 0.8 }, Gae { gamma: 0.95, lambda: 0.6 });
    type Estimator = fn(&Form, Gae, Gae) -> epo::Result<Estimate>;
    let estimators: [(&str, Estimator); 3] = [
        ("within", |f, tokens, _| gae_within_turns(&f.lists[3], &f.lists[4], &f.layout, tokens)),
        ("over", |f, tokens, _| gae_over_trajectories(&f.lists[3], &f.lists[4], &f.layout, tokens)),
        ("bi-level", |f, tokens, turns| {
            gae_bi_level(&f.lists[3], &f.lists[4], &f.layout, turns, tokens)
        }),
    ];
    let mut seen: Vec<Vec<f64>> = Vec::new();
    for (name, estimator) in estimators {
        let of = |form: &Form| {
            let (advantages, returns) = estimator(form, tokens, between).unwrap();
            let whitened = whiten_tokens(&advantages, &form.layout).unwrap();
            [advantages, returns, whitened].map(|list| masked(&list, &form.layout))
        };
        let (a, b) = (of(&turns), of(&whole));
        a.iter().zip(&b).for_each(|(a, b)| assert_close(name, a, b, F64));
        assert!(
            seen.iter().all(|other| (other[0] - a[0][0]).abs() > 1e-3),
            "{name} is another estimator"
        );
        seen.push(a[0].clone());
    }
    // verl's recursion over one row at a time knows nothing of the other rows: it sees the form.
    let by_row = |form: &Form| {
        let clean = |list: &[f64]| {
            list.iter()
                .zip(form.layout.mask())
                .map(|(&x, &m)| if m { x } else { 0.0 })
                .collect::<Vec<_>>()
        };
        let (rewards, values, width) =
            (clean(&form.lists[3]), clean(&form.lists[4]), form.layout.tokens());
        let rows = rewards.chunks(width).zip(values.chunks(width));
        let all: Vec<f64> = rows.flat_map(|(r, v)| gae(r, v, 0.9, 0.8).unwrap().0).collect();
        masked(&all, &form.layout)
    };
    let distance =
        by_row(&turns).iter().zip(by_row(&whole)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(distance > 1e-2, "{distance}");
}

#[test]
fn kl_rewards_agree_in_both_forms() {
    let of = |form: Form| {
        let [log_probs, reference, _, rewards, _] = &form.lists;
        let (got, mean) =
            kl_in_reward(rewards, log_probs, reference, &form.layout, KlKind::K3, 0.7).unwrap();
        (masked(&got, &form.layout), mean)
    };
    let (want, mean) = of(form(true, 0));
    let (got, got_mean) = of(form(false, 1));
    assert_close("rewards", &got, &want, F64);
    assert_close("mean", &[got_mean], &[mean], F64);
}
