//! What must not change the method: padding, the order of rows, the cut into micro-batches, the row
//! layout.

use super::support::*;
use candle_core::{Device, Tensor, Var};
use epo::entropy::{
    Band, EntropyConfig, EntropyControl, EntropyMethod, EpoConfig, Granularity, HistoryConfig,
    StepEntropy,
};
use epo::objective::{
    policy_loss, Aggregation, LossInputs, LossOutput, PolicyLoss, TokenBatch, TokenLayout,
};
use epo::settings::Positive;
use proptest::prelude::*;

/// A batch as plain lists: rows of (trajectory, turn of each token, mask, values).
#[derive(Clone, Debug)]
struct Rows {
    width: usize,
    trajectories: Vec<usize>,
    turns: Vec<usize>,
    mask: Vec<bool>,
    /// Entropies, log-probs, old log-probs, reference log-probs, advantages.
    values: [Vec<f64>; 5],
}

impl Rows {
    fn count(&self) -> usize {
        self.trajectories.len()
    }

    fn layout(&self) -> TokenLayout {
        let (mask, turns) = (self.mask.clone(), self.turns.clone());
        TokenLayout::new(self.width, mask, turns, self.trajectories.clone()).unwrap()
    }

    /// The given rows, each widened by `padding` masked-out positions of junk.
    fn pick(&self, rows: &[usize], padding: usize) -> Rows {
        fn widen<T: Copy>(values: &[T], width: usize, rows: &[usize], junk: &[T]) -> Vec<T> {
            let row = |&row: &usize| [&values[row * width..(row + 1) * width], junk].concat();
            rows.iter().flat_map(row).collect()
        }
        let w = self.width;
        Rows {
            width: w + padding,
            trajectories: rows.iter().map(|&row| self.trajectories[row]).collect(),
            turns: widen(&self.turns, w, rows, &vec![99; padding]),
            mask: widen(&self.mask, w, rows, &vec![false; padding]),
            values: self.values.clone().map(|v| widen(&v, w, rows, &vec![f64::NAN; padding])),
        }
    }
}

/// The loss of some rows of a batch and its gradient with respect to entropies and log-probs.
fn run(control: &EntropyControl, rows: &Rows, batch: &TokenBatch) -> (LossOutput, [Vec<f64>; 2]) {
    let tensor = |values: &[f64]| {
        Tensor::from_slice(values, (rows.count(), rows.width), &Device::Cpu).unwrap()
    };
    let [entropy, log_probs, old, reference, advantages] = &rows.values;
    let (entropy_bt, log_probs_bt) = (
        Var::from_tensor(&tensor(entropy)).unwrap(),
        Var::from_tensor(&tensor(log_probs)).unwrap(),
    );
    let inputs = LossInputs {
        log_probs_bt: &log_probs_bt,
        old_log_probs_bt: &tensor(old),
        ref_log_probs_bt: Some(&tensor(reference)),
        advantages_bt: &tensor(advantages),
        weights_bt: None,
        batch,
    };
    let term = control.term(&entropy_bt, batch).unwrap();
    let output = policy_loss(&inputs, &PolicyLoss::default()).unwrap().plus(term).unwrap();
    let grads = output.loss.backward().unwrap();
    let gradient = |var: &Var| host(grads.get(var).unwrap());
    let gradients = [gradient(&entropy_bt), gradient(&log_probs_bt)];
    (output, gradients)
}

/// A control that has seen one step, with references for turns 0 to 2 only.
fn control(granularity: Granularity, per_turn: bool) -> EntropyControl {
    let epo = EpoConfig {
        lambda: Positive::literal(0.5),
        alpha: Positive::literal(0.8),
        granularity,
        ..EpoConfig::default()
    };
    let config = EntropyConfig {
        method: EntropyMethod::Epo(epo),
        band: Band::literal(0.8, 1.2),
        history: HistoryConfig::Cumulative { per_turn },
    };
    let mut control = config.build().unwrap();
    let mut step = StepEntropy::new();
    for (turn, mean) in [1.2, 0.9, 0.6].into_iter().enumerate() {
        step.add_turn(turn, &[mean]).unwrap();
    }
    control.begin_step_with(0, step).unwrap();
    control.finish_step().unwrap();
    control.begin_step_with(1, StepEntropy::new()).unwrap();
    control
}

fn assert_same(what: &str, got: &(LossOutput, [Vec<f64>; 2]), want: &(LossOutput, [Vec<f64>; 2])) {
    assert_close(&format!("{what} loss"), &host(&got.0.loss), &host(&want.0.loss), F64);
    for (name, value) in want.0.metrics.iter() {
        let got = got.0.metrics.get(name).unwrap_or_else(|| panic!("{what}: no {name}"));
        assert_close(&format!("{what} {name}"), &[got], &[value], F64);
    }
    for (got, want) in got.1.iter().zip(&want.1) {
        assert_close(&format!("{what} gradient"), got, want, F64);
    }
}

prop_compose! {
    fn rows()(count in 2usize..7, width in 1usize..6)(
        width in Just(width),
        trajectories in prop::collection::vec(0usize..3, count),
        turns in prop::collection::vec(0usize..4, count * width),
        mut mask in prop::collection::vec(any::<bool>(), count * width),
        seed in any::<u64>(),
    ) -> Rows {
        mask[0] = true;
        let n = mask.len();
        let values = [(0.0, 2.0), (-3.0, -0.1), (-3.0, -0.1), (-3.0, -0.1), (-1.0, 1.0)];
        let mut i = 0;
        let values = values.map(|(low, high)| {
            i += 1;
            random(seed.wrapping_add(i), n, low, high)
        });
        Rows { width, trajectories, turns, mask, values }
    }
}

fn modes() -> impl Strategy<Value = Aggregation> {
    prop::sample::select(vec![
        Aggregation::TokenMean,
        Aggregation::SeqMeanTokenSum,
        Aggregation::SeqMeanTokenMean,
        Aggregation::SeqMeanTokenSumNorm,
        Aggregation::TurnMean,
    ])
}

fn controls() -> impl Strategy<Value = (Granularity, bool)> {
    (prop::sample::select(vec![Granularity::Token, Granularity::Sequence]), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(48)
    })]

    #[test]
    fn micro_batches_add_up(
        rows in rows(),
        mode in modes(),
        (granularity, per_turn) in controls(),
        cut in 1usize..4,
    ) {
        let control = control(granularity, per_turn);
        let whole = TokenBatch::new(rows.layout(), mode);
        let want = run(&control, &rows, &whole);
        let (mut loss, mut metrics, mut gradients) = (0.0, None, [vec![], vec![]]);
        let order: Vec<usize> = (0..rows.count()).collect();
        for chunk in order.chunks(cut) {
            let picked = rows.pick(chunk, 0);
            let (output, parts) = run(&control, &picked, &whole.select(chunk).unwrap());
            loss += host(&output.loss)[0];
            metrics.get_or_insert_with(epo::objective::Metrics::new).merge(&output.metrics);
            gradients.iter_mut().zip(parts).for_each(|(sum, part)| sum.extend(part));
        }
        let loss = Tensor::new(loss, &Device::Cpu).unwrap();
        let output = LossOutput { loss, metrics: metrics.unwrap() };
        assert_same("micro-batches", &(output, gradients), &want);
    }

    #[test]
    fn padding_changes_nothing(
        rows in rows(),
        mode in modes(),
        (granularity, per_turn) in controls(),
        padding in 1usize..4,
    ) {
        // This mode divides by the padded width, by definition.
        prop_assume!(mode != Aggregation::SeqMeanTokenSumNorm);
        let control = control(granularity, per_turn);
        let want = run(&control, &rows, &TokenBatch::new(rows.layout(), mode));
        let order: Vec<usize> = (0..rows.count()).collect();
        let mut padded = rows.pick(&order, padding);
        // and a row of nothing but padding
        padded.trajectories.push(77);
        padded.turns.extend(vec![0; padded.width]);
        padded.mask.extend(vec![false; padded.width]);
        let width = padded.width;
        padded.values.iter_mut().for_each(|v| v.extend(vec![f64::NAN; width]));
        let mut got = run(&control, &padded, &TokenBatch::new(padded.layout(), mode));
        for gradient in &mut got.1 {
            let row = |row: usize| gradient[row * width..row * width + rows.width].to_vec();
            *gradient = order.iter().flat_map(|&i| row(i)).collect();
        }
        assert_same("padding", &got, &want);
    }

    #[test]
    fn the_order_of_rows_changes_nothing(
        rows in rows(),
        mode in modes(),
        (granularity, per_turn) in controls(),
        shift in 1usize..6,
    ) {
        let control = control(granularity, per_turn);
        let want = run(&control, &rows, &TokenBatch::new(rows.layout(), mode));
        let shifted = |row| (row + shift) % rows.count();
        let order: Vec<usize> = (0..rows.count()).rev().map(shifted).collect();
        let moved = rows.pick(&order, 0);
        let mut got = run(&control, &moved, &TokenBatch::new(moved.layout(), mode));
        for gradient in &mut got.1 {
            let mut back = vec![0.0; gradient.len()];
            for (to, &from) in order.iter().enumerate() {
                let w = rows.width;
                back[from * w..(from + 1) * w].copy_from_slice(&gradient[to * w..(to + 1) * w]);
            }
            *gradient = back;
        }
        assert_same("order", &got, &want);
    }
}

/// Three trajectories of 2, 1 and 3 turns, as turns (one row each) and concatenated (prompt tokens
/// between the turns masked out).
fn both_layouts() -> (Rows, Rows) {
    let lengths: [&[usize]; 3] = [&[3, 1], &[2], &[1, 2, 3]];
    let (turn_width, whole_width) = (4, 12);
    let new = |rows: usize, width: usize| Rows {
        width,
        trajectories: vec![0; rows],
        turns: vec![0; rows * width],
        mask: vec![false; rows * width],
        values: std::array::from_fn(|_| vec![f64::NAN; rows * width]),
    };
    let (mut by_turn, mut whole) = (new(6, turn_width), new(3, whole_width));
    let (mut row, mut seed) = (0, 0);
    for (trajectory, turns) in lengths.iter().enumerate() {
        let mut at = trajectory * whole_width;
        whole.trajectories[trajectory] = trajectory;
        for (turn, &length) in turns.iter().enumerate() {
            by_turn.trajectories[row] = trajectory;
            at += 1; // a prompt token
            for i in 0..length {
                seed += 1;
                let values = random(seed, 5, -1.0, 1.0);
                let values =
                    [1.0 + values[0], values[1] - 1.5, values[2] - 1.5, values[3] - 1.5, values[4]];
                for (rows, position) in [(&mut by_turn, row * turn_width + i), (&mut whole, at + i)]
                {
                    (rows.turns[position], rows.mask[position]) = (turn, true);
                    rows.values.iter_mut().zip(values).for_each(|(v, value)| v[position] = value);
                }
            }
            at += length;
            row += 1;
        }
    }
    (by_turn, whole)
}

#[test]
fn rows_of_turns_and_concatenated_rows_agree_where_the_mathematics_does() {
    let (by_turn, whole) = both_layouts();
    let masked = |rows: &Rows, values: &[f64]| -> Vec<f64> {
        values.iter().zip(&rows.mask).filter(|(_, &m)| m).map(|(&v, _)| v).collect()
    };
    for granularity in [Granularity::Token, Granularity::Sequence] {
        for per_turn in [false, true] {
            let control = control(granularity, per_turn);
            let both = |mode| {
                let of = |rows: &Rows| {
                    let (output, gradients) =
                        run(&control, rows, &TokenBatch::new(rows.layout(), mode));
                    (output, gradients.map(|g| masked(rows, &g)))
                };
                (of(&by_turn), of(&whole))
            };
            for mode in [Aggregation::TokenMean, Aggregation::TurnMean] {
                let (a, b) = both(mode);
                assert_same(&format!("{mode:?} {granularity:?}"), &a, &b);
            }
            // A "sequence" is a row: the sequence modes differ between the layouts, by definition.
            let (a, b) = both(Aggregation::SeqMeanTokenMean);
            assert!((host(&a.0.loss)[0] - host(&b.0.loss)[0]).abs() > 1e-6);
        }
    }
}

#[test]
fn the_official_normaliser_depends_on_the_cut_and_the_global_one_does_not() {
    let (rows, _) = both_layouts();
    let control = control(Granularity::Token, false);
    let layout = rows.layout();
    let mean_of_parts = |cut: usize| -> f64 {
        let order: Vec<usize> = (0..rows.count()).collect();
        let parts: Vec<f64> = order
            .chunks(cut)
            .map(|chunk| {
                let batch =
                    TokenBatch::official(layout.select(chunk).unwrap(), Aggregation::TokenMean)
                        .unwrap();
                host(&run(&control, &rows.pick(chunk, 0), &batch).0.loss)[0]
            })
            .collect();
        parts.iter().sum::<f64>() / parts.len() as f64
    };
    assert!((mean_of_parts(6) - mean_of_parts(2)).abs() > 1e-6);
    let global = host(
        &run(&control, &rows, &TokenBatch::new(layout.clone(), Aggregation::TokenMean)).0.loss,
    )[0];
    assert!((mean_of_parts(6) - global).abs() < 1e-7);
}
