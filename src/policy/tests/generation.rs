//! KV caches, sampling and stopping.

use crate::policy::tests::*;

fn stream(member: u32) -> Stream {
    Stream::new(17, Purpose::Rollout, 0, 0, member)
}

fn request(row: usize, prompt: &[u32]) -> Request<'_> {
    Request { row, prompt, stream: stream(row as u32), turn: 0, choices: None }
}

fn sampling(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens, ..SamplingParams::default() }
}

/// log p and entropy of every sampled token, computed by the forward pass.
fn rescored(
    decoder: &Decoder,
    prompt: &[u32],
    out: &Generated,
    temperature: f64,
) -> (Vec<f32>, Vec<f32>) {
    let row = [prompt, &out.ids].concat();
    let hidden = decoder.forward_packed(&[&row]).unwrap();
    let hidden = hidden.narrow(0, prompt.len() - 1, out.ids.len()).unwrap();
    let ids = Tensor::new(out.ids.clone(), &Device::Cpu).unwrap();
    let (a, b) = logprob_entropy(&decoder.logits(&hidden).unwrap(), &ids, temperature).unwrap();
    (a.to_vec1().unwrap(), b.to_vec1().unwrap())
}

#[test]
fn sampled_log_probs_and_entropies_match_the_forward_pass_at_the_temperature() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 2);
    let sampling = SamplingParams { temperature: 0.6, ..sampling(20) };
    let a = ids(30, 1, 40);
    let b = ids(3, 2, 40);
    let out = decoder.generate(&mut cache, &[request(1, &a), request(0, &b)], &sampling).unwrap();
    for (out, prompt) in out.iter().zip([&a, &b]) {
        assert_eq!((out.ids.len(), out.finish), (20, Finish::Length));
        let (log_probs, entropies) = rescored(&decoder, prompt, out, 0.6);
        for (x, y) in out.log_probs.iter().zip(log_probs).chain(out.entropies.iter().zip(entropies))
        {
            assert!((x - y).abs() < 1e-4, "{x} against {y}");
        }
    }
    assert_eq!((cache.len(1), cache.len(0)), (50, 23));
}

#[test]
fn tokens_are_counted_as_read_where_they_are_computed() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 4);
    let [same, other, next] = [ids(12, 1, 40), ids(5, 2, 40), ids(3, 3, 40)];
    let full = ids(config().max_position_embeddings, 4, 40);
    let mut read = |prompts: [&[u32]; 4]| {
        let requests = [0, 1, 2, 3].map(|row| request(row, prompts[row]));
        let out = decoder.generate(&mut cache, &requests, &sampling(2)).unwrap();
        out.iter().map(|out| out.read).collect::<Vec<_>>()
    };
    assert_eq!(read([&same, &other, &same, &full]), [12, 5, 0, 0]);
    // The last sampled token of a turn is computed with the next prompt, but it is no part of it.
    assert_eq!(read([&next, &next, &next, &next]), [3, 3, 3, 3]);
}

#[test]
fn only_the_choices_are_sampled_with_their_renormalised_probabilities() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let sequences = [vec![5, 1, 0], vec![5, 1, 2, 0], vec![3, 0]];
    let choices = TokenTrie::new(&sequences).unwrap();
    let sampling = SamplingParams { stop_ids: vec![0], temperature: 5.0, ..sampling(1) };
    let mut seen = std::collections::BTreeMap::new();
    let prompt = [4, 9];
    for turn in 0..200 {
        let mut cache = KvCache::new(&config(), 1);
        let request = Request { turn, choices: Some(&choices), ..request(0, &prompt) };
        let out = decoder.generate(&mut cache, &[request], &sampling).unwrap().remove(0);
        assert!(sequences.contains(&out.ids) && out.finish == Finish::Stop);
        let row = [&prompt[..], &out.ids].concat();
        let hidden = decoder.forward_packed(&[&row]).unwrap();
        let logits = decoder
            .logits(&hidden)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec2::<f64>()
            .unwrap();
        for (i, support) in out.supports.iter().enumerate() {
            let kept: Vec<f64> =
                support.iter().map(|&id| logits[prompt.len() - 1 + i][id as usize]).collect();
            let chosen = support.iter().position(|&id| id == out.ids[i]).unwrap();
            let (log_prob, entropy) =
                crate::kernels::reference::logprob_entropy(&kept, chosen, 5.0);
            assert!((f64::from(out.log_probs[i]) - log_prob).abs() < 1e-4);
            assert!((f64::from(out.entropies[i]) - entropy).abs() < 1e-4);
        }
        seen.insert(out.ids.clone(), out.log_probs.iter().sum::<f32>().exp());
    }
    let total: f32 = seen.values().sum();
    assert!(seen.len() == 3 && (total - 1.0).abs() < 1e-4, "{seen:?}");
}

#[test]
fn a_second_turn_continues_where_the_first_one_ended() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 1);
    let first = decoder.generate(&mut cache, &[request(0, &[1, 2, 3])], &sampling(5)).unwrap();
    let second = Request { turn: 1, ..request(0, &[7, 8]) };
    let second = decoder.generate(&mut cache, &[second], &sampling(4)).unwrap();
    let prompt = [&[1, 2, 3], first[0].ids.as_slice(), &[7, 8]].concat();
    let (log_probs, _) = rescored(&decoder, &prompt, &second[0], 1.0);
    for (x, y) in second[0].log_probs.iter().zip(log_probs) {
        assert!((x - y).abs() < 1e-4, "{x} against {y}");
    }
    assert_eq!(cache.len(0), 3 + 5 + 2 + 4);
}

#[test]
fn batch_composition_changes_logits_by_rounding_only() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let rows: Vec<Vec<u32>> = (0..20).map(|i| ids(1 + 7 * i, i as u64, 40)).collect();
    let chunks: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut cache = KvCache::new(&config(), 20);
    let together = decoder.extend(&mut cache, &(0..20).collect::<Vec<_>>(), &chunks).unwrap();
    for (i, row) in rows.iter().enumerate() {
        let mut cache = KvCache::new(&config(), 1);
        let alone = decoder.extend(&mut cache, &[0], &[row]).unwrap();
        for (x, y) in alone.iter().zip(&together[i * 40..]) {
            assert!((x - y).abs() < 1e-5, "row {i}: {x} against {y}");
        }
    }
}

#[test]
fn samples_are_reproducible_and_independent_of_other_rows() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| ids(3 + i, i as u64, 40)).collect();
    let run = |rows: &[usize]| {
        let mut cache = KvCache::new(&config(), 6);
        let requests: Vec<Request> = rows.iter().map(|&i| request(i, &prompts[i])).collect();
        decoder.generate(&mut cache, &requests, &sampling(12)).unwrap()
    };
    let all = run(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(all, run(&[0, 1, 2, 3, 4, 5]));
    for (i, out) in run(&[5, 3, 0]).iter().zip([5, 3, 0]).map(|(out, i)| (i, out)) {
        assert_eq!(out.ids, all[i].ids);
    }
    assert_ne!(all[0].ids, all[1].ids);
}

#[test]
fn frequencies_match_probabilities() {
    let config = DecoderConfig { vocab_size: 5, ..config() };
    let (decoder, _) = decoder(&config, DType::F32);
    let mut cache = KvCache::new(&config, 1);
    let logits = decoder.extend(&mut cache, &[0], &[&[1, 2]]).unwrap();
    let temperature = 1.7;
    let z: f64 = logits.iter().map(|&x| (f64::from(x) / temperature).exp()).sum();
    let n = 4000u64;
    let mut counts = [0.0; 5];
    for turn in 0..n {
        cache.truncate(0, 1).unwrap();
        let sampling = SamplingParams { temperature, ..sampling(1) };
        let request = Request { turn, ..request(0, &[2]) };
        counts[decoder.generate(&mut cache, &[request], &sampling).unwrap()[0].ids[0] as usize] +=
            1.0;
    }
    for (count, logit) in counts.into_iter().zip(logits) {
        let p = (f64::from(logit) / temperature).exp() / z;
        let sigma = (p * (1.0 - p) / n as f64).sqrt();
        assert!((count / n as f64 - p).abs() < 4.0 * sigma, "{count} of {n}, expected p = {p}");
    }
}

#[test]
fn greedy_takes_the_most_probable_token_and_draws_nothing() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let greedy = SamplingParams { greedy: true, ..sampling(6) };
    let run = |member: u32| {
        let mut cache = KvCache::new(&config(), 1);
        let request = Request { stream: stream(member), ..request(0, &[3, 4]) };
        decoder.generate(&mut cache, &[request], &greedy).unwrap()
    };
    assert_eq!(run(0), run(1));
    let out = &run(0)[0];
    let row = [&[3, 4], out.ids.as_slice()].concat();
    let logits = decoder
        .logits(&decoder.forward_packed(&[&row]).unwrap())
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    for (i, &id) in out.ids.iter().enumerate() {
        assert!(logits[1 + i].iter().all(|&x| x <= logits[1 + i][id as usize] + 1e-5));
    }
}

#[test]
fn a_stop_token_ends_the_row_and_is_kept() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 2);
    let free =
        decoder.generate(&mut cache, &[request(0, &[1]), request(1, &[2])], &sampling(10)).unwrap();
    let stop = free[0].ids[3];
    let first = free[0].ids.iter().position(|&id| id == stop).unwrap();
    cache.reset(0).unwrap();
    let stopping = SamplingParams { stop_ids: vec![stop], ..sampling(10) };
    let out = decoder.generate(&mut cache, &[request(0, &[1])], &stopping).unwrap();
    assert_eq!(out[0].ids, free[0].ids[..=first]);
    assert_eq!((out[0].finish, cache.len(0)), (Finish::Stop, 1 + first + 1));
}

#[test]
fn a_full_context_ends_the_row_and_a_prompt_without_room_changes_nothing() {
    let config = DecoderConfig { max_position_embeddings: 8, ..config() };
    let (decoder, _) = decoder(&config, DType::F32);
    let mut cache = KvCache::new(&config, 2);
    let out = decoder
        .generate(&mut cache, &[request(0, &[1; 8]), request(1, &[1; 5])], &sampling(10))
        .unwrap();
    assert_eq!((out[0].ids.len(), out[0].finish, cache.len(0)), (0, Finish::ContextFull, 0));
    assert_eq!((out[1].ids.len(), out[1].finish, cache.len(1)), (3, Finish::ContextFull, 8));
    assert!(decoder
        .extend(&mut cache, &[1], &[&[1]])
        .unwrap_err()
        .to_string()
        .contains("room for 0"));
}

#[test]
fn a_reset_row_is_as_good_as_new() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 2);
    let fresh = decoder.extend(&mut cache, &[0, 1], &[&[1, 2, 3], &[4]]).unwrap();
    decoder.generate(&mut cache, &[request(0, &[9])], &sampling(3)).unwrap();
    cache.reset(0).unwrap();
    assert_eq!(cache.len(0), 0);
    assert_eq!(decoder.extend(&mut cache, &[0], &[&[1, 2, 3]]).unwrap(), fresh[..40]);
}

#[test]
fn decoding_sees_an_update_of_the_parameters() {
    let (decoder, parameters) = decoder(&config(), DType::F32);
    let logits = || decoder.extend(&mut KvCache::new(&config(), 1), &[0], &[&[1, 2]]).unwrap();
    let before = logits();
    parameters.assign(&Parameters::init(&config(), 6, DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_ne!(before, logits());
}

#[test]
fn bad_calls_are_named() {
    let (decoder, parameters) = decoder(&config(), DType::F32);
    let mut cache = KvCache::new(&config(), 2);
    let mut error = |rows: &[usize], tokens: &[&[u32]]| {
        let error = decoder.extend(&mut cache, rows, tokens).unwrap_err().to_string();
        assert!(cache.is_empty());
        error
    };
    assert!(error(&[2], &[&[1]]).contains("2 rows"));
    assert!(error(&[0, 0], &[&[1], &[1]]).contains("once"));
    assert!(error(&[0], &[&[]]).contains("rows[0].len"));
    assert!(error(&[0, 1], &[&[1], &[40]]).contains("rows[1][0]"));
    assert!(error(&[0], &[]).contains("tokens"));
    assert!(decoder.extend(&mut cache, &[], &[]).unwrap().is_empty());
    let mut other = KvCache::new(&DecoderConfig { num_hidden_layers: 1, ..config() }, 1);
    assert!(decoder.extend(&mut other, &[0], &[&[1]]).is_err());
    for bad in [SamplingParams { temperature: 0.0, ..sampling(1) }, sampling(0)] {
        assert!(decoder.generate(&mut cache, &[request(0, &[1])], &bad).is_err());
    }
    let twice = decoder.generate(&mut cache, &[request(0, &[1]), request(0, &[1])], &sampling(1));
    assert!(twice.unwrap_err().to_string().contains("once"));
    let nan = Tensor::full(f32::NAN, 32, &Device::Cpu).unwrap();
    parameters.get("model.norm.weight").unwrap().set(&nan).unwrap();
    assert!(decoder.extend(&mut cache, &[0], &[&[1]]).unwrap_err().to_string().contains("logits"));
    assert!(serde_json::from_str::<SamplingParams>(r#"{"top_q": 0.9}"#).is_err());
}

#[test]
fn truncated_sampling_reports_its_support() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let params = SamplingParams { top_k: 3, temperature: 0.7, ..sampling(6) };
    let mut cache = KvCache::new(&config(), 1);
    let out = decoder.generate(&mut cache, &[request(0, &[1, 2, 3])], &params).unwrap().remove(0);
    let mut row = vec![1, 2, 3];
    for (i, &id) in out.ids.iter().enumerate() {
        assert!(out.supports[i].len() == 3 && out.supports[i].contains(&id));
        let logits = decoder.logits(&decoder.forward_packed(&[&row]).unwrap()).unwrap();
        let logits = logits.get(row.len() - 1).unwrap().to_vec1::<f32>().unwrap();
        let mut best: Vec<f32> = logits.clone();
        best.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = best[..3].iter().map(|&z| (f64::from(z) / 0.7).exp()).sum();
        let want = f64::from(logits[id as usize]) / 0.7 - sum.ln();
        assert!((f64::from(out.log_probs[i]) - want).abs() < 1e-4);
        row.push(id);
    }
}

#[test]
fn a_shared_prompt_is_read_once_and_changes_no_sample() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let shared = ids(30, 1, 40);
    let other = ids(25, 2, 40);
    let mut together = KvCache::new(&config(), 4);
    together.reserve(60);
    let prompts = [&shared, &shared, &other, &shared];
    let requests: Vec<Request> = (0..4).map(|i| request(i, prompts[i])).collect();
    let a = decoder.generate(&mut together, &requests, &sampling(12)).unwrap();
    let mut alone = KvCache::new(&config(), 4);
    for (i, a) in a.iter().enumerate() {
        let b = decoder.generate(&mut alone, &requests[i..=i], &sampling(12)).unwrap().remove(0);
        assert_eq!(a.ids, b.ids);
        assert!(a.log_probs.iter().zip(&b.log_probs).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(together.len(i), alone.len(i));
    }
    assert_ne!(a[0].ids, a[1].ids);
    // From here on the rows differ.
    let more: Vec<Request> = (0..4).map(|i| Request { turn: 1, ..request(i, &[3, 4]) }).collect();
    let a = decoder.generate(&mut together, &more, &sampling(5)).unwrap();
    let b = decoder.generate(&mut alone, &more, &sampling(5)).unwrap();
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.ids, b.ids);
    }
}

#[test]
fn rows_with_a_shared_prefix_are_truncated_and_continued_independently() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let prompt = ids(30, 1, 40);
    let requests = [request(0, &prompt), request(1, &prompt)];
    let mut together = KvCache::new(&config(), 2);
    let mut apart = KvCache::new(&config(), 2);
    let shared = decoder.generate(&mut together, &requests, &sampling(12)).unwrap();
    for (request, shared) in requests.chunks(1).zip(&shared) {
        let own = decoder.generate(&mut apart, request, &sampling(12)).unwrap().remove(0);
        assert_eq!((&shared.ids, &shared.log_probs), (&own.ids, &own.log_probs));
    }
    for cut in [33, 20, 20, 0] {
        let [a, b] = [&mut together, &mut apart].map(|cache| {
            cache.truncate(1, cut).unwrap();
            let cut_row = decoder.extend(cache, &[1], &[&[5, 6, 7]]).unwrap();
            (cut_row, cache.len(1), decoder.extend(cache, &[0], &[&[8]]).unwrap())
        });
        assert_eq!(a, b);
        assert_eq!(a.1, cut + 3);
    }
}
