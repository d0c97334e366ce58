//! Settings without effect beside the others: an error where somebody wrote them, and left out of what is written down.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::advantage::group::OutcomeEstimator;
use crate::objective::settings::PolicyLossKind;
use crate::rollout::config::ActionSpace;
use crate::train::config::to_table;
use crate::train::config::TrainConfig;
use crate::train::watch::alarm::AlarmAction;
use crate::{Error, Result};

/// A setting, or a table of them, that has no effect beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Its dotted name.
    pub key: String,
    /// Why, and what would use it.
    pub reason: String,
}

impl Unused {
    /// A setting and the reason.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }

    fn covers(&self, key: &str) -> bool {
        key.strip_prefix(&self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// What `[environment]` of a [`TrainConfig`] has to be.
pub trait TaskSettings: Sized {
    /// The settings of `[environment]` that have no effect in `config`, named from `environment.` on; none by default.
    fn unused(_config: &TrainConfig<Self>) -> Vec<Unused> {
        Vec::new()
    }
}

impl<E: TaskSettings> TrainConfig<E> {
    /// Every setting that has no effect beside the others.
    ///
    /// [`TrainConfig::with`] refuses those that a file or an option gives; a configuration that is written down leaves them
    /// out, and read back they have their defaults.
    pub fn unused(&self) -> Vec<Unused> {
        let rows = self.unused_of_agent().into_iter().chain(self.unused_of_training());
        let rows =
            rows.filter(|(unused, ..)| *unused).map(|(_, key, reason)| Unused::new(key, reason));
        let entropy = self.entropy.unused().into_iter();
        let entropy = entropy.map(|(key, reason)| Unused::new(format!("entropy.{key}"), reason));
        rows.chain(entropy).chain(E::unused(self)).collect()
    }

    fn unused_of_agent(&self) -> Vec<(bool, &'static str, &'static str)> {
        let checkpoint = self.model.source.is_some();
        let no_cloning = self.cloning.epochs == 0;
        let (none_cloned, decays) =
            ("cloning.epochs = 0 clones nothing", "nothing decays at weight_decay = 0");
        let critic_decays =
            self.critic.as_ref().is_none_or(|critic| critic.optimizer.weight_decay != 0.0);
        vec![
            (!self.dump, "dump_megabytes", "dump = false keeps no training episodes"),
            (checkpoint, "policy", "the checkpoint of model.source has a shape of its own"),
            (!checkpoint, "model.format", "a small policy writes its actions plainly; needs model.source"),
            (!checkpoint, "model.context", "a small policy has policy.context; needs model.source"),
            (!checkpoint, "model.lora", "needs a checkpoint: set model.source"),
            (!self.learns_from_demonstrations(), "cloning.demonstrations", none_cloned),
            (no_cloning, "cloning.batch", none_cloned),
            (no_cloning, "cloning.learning_rate", none_cloned),
            (no_cloning, "cloning.observation_weight", none_cloned),
            (self.optimizer.weight_decay == 0.0, "optimizer.no_decay", decays),
            (!critic_decays, "critic.optimizer.no_decay", decays),
            (
                self.rollout.actions == ActionSpace::Admissible,
                "rollout.max_action_tokens",
                "limits free text; with rollout.actions = \"admissible\" an action is as long as its command",
            ),
        ]
    }

    fn unused_of_training(&self) -> Vec<(bool, &'static str, &'static str)> {
        let (action, kind) = (self.alarm.action, self.update.policy.kind);
        let off = "alarm.action = \"off\" watches nothing";
        let no_clip = "`reinforce` has no ratio to clip";
        let compares = |f: &dyn Fn(&crate::train::credit::group::AdvantageConfig) -> bool| {
            self.advantage.as_ref().is_some_and(f)
        };
        let undiscounted = compares(&|a| {
            let of_episodes =
                a.estimator == OutcomeEstimator::ReinforcePp && a.episode_weight > 0.0;
            a.turn_weight == 0.0 && !of_episodes
        });
        let off_keys = [
            "alarm.window",
            "alarm.zero_variance",
            "alarm.valid_drop",
            "alarm.entropy_share",
            "alarm.success_drop",
            "alarm.late_share",
        ];
        let mut rows: Vec<_> = off_keys.map(|key| (action == AlarmAction::Off, key, off)).to_vec();
        rows.extend([
            (
                action != AlarmAction::LowerLr,
                "alarm.lr_factor",
                "only alarm.action = \"lower-lr\" follows it",
            ),
            (
                self.rollout.group == 1,
                "alarm.zero_variance",
                "with rollout.group = 1 no group has variance, and every threshold is reached",
            ),
            (kind == PolicyLossKind::Reinforce, "update.policy.clip_low", no_clip),
            (kind == PolicyLossKind::Reinforce, "update.policy.clip_high", no_clip),
            (kind != PolicyLossKind::Ppo, "update.policy.dual_clip", "only `ppo` has a dual clip"),
            (
                undiscounted,
                "advantage.gamma",
                "discounts the rewards of turns, which advantage.turn_weight = 0 leaves out",
            ),
            (
                compares(&|a| a.episode_weight == 0.0),
                "advantage.estimator",
                "compares episodes, which advantage.episode_weight = 0 leaves out",
            ),
        ]);
        rows
    }

    /// Whether demonstrations teach the policy or a small policy's tokenizer anything.
    pub(crate) fn learns_from_demonstrations(&self) -> bool {
        self.cloning.epochs > 0 || self.model.source.is_none()
    }

    /// Refuses the first of the settings `written` somewhere, by dotted name and value, that has no effect.
    pub(crate) fn refuse_unused(&self, written: &BTreeMap<String, String>) -> Result<()> {
        let unused = self.unused();
        for (key, value) in written {
            if let Some(found) = unused.iter().find(|unused| unused.covers(key)) {
                return Err(Error::setting(key, value, format!("has no effect: {}", found.reason)));
            }
        }
        Ok(())
    }

    /// The settings that have an effect.
    pub(crate) fn used(&self) -> std::result::Result<toml::Table, toml::ser::Error>
    where
        E: Serialize,
    {
        let mut table = self.whole()?;
        self.unused().iter().for_each(|unused| remove(&mut table, &unused.key));
        Ok(table)
    }

    /// All settings, those without effect among them.
    pub(crate) fn whole(&self) -> std::result::Result<toml::Table, toml::ser::Error>
    where
        E: Serialize,
    {
        to_table(&self.with_environment(toml::Table::try_from(&self.environment)?))
    }
}

fn remove(table: &mut toml::Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((first, rest)) => {
            if let Some(inner) = table.get_mut(first).and_then(toml::Value::as_table_mut) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::presets::{Algorithm, Benchmark};
    use crate::train::config::Overrides;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    impl TaskSettings for Nothing {}

    type Config = TrainConfig<Nothing>;

    /// The error that `text` in a file and `overrides` lead to over a small run.
    fn refusal(algorithm: Algorithm, text: &str, overrides: &Overrides) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let base = Config::small(Benchmark::ScienceWorld, algorithm, Nothing {});
        match base.with(Some(&path), overrides) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{text:?} was accepted"),
        }
    }

    /// What is refused and the start of the error; of both algorithms where a comment does not say otherwise.
    const CASES: [(&str, &str); 46] = [
        ("dump_megabytes = 9", "`dump_megabytes` = 9"),
        ("[alarm]\naction = \"off\"\nwindow = 10", "`alarm.window` = 10"),
        ("[alarm]\naction = \"off\"\nzero_variance = 0.5", "`alarm.zero_variance` = 0.5"),
        ("[alarm]\naction = \"off\"\nvalid_drop = 0.5", "`alarm.valid_drop` = 0.5"),
        ("[alarm]\naction = \"off\"\nentropy_share = 0.5", "`alarm.entropy_share` = 0.5"),
        ("[alarm]\naction = \"off\"\nsuccess_drop = 0.5", "`alarm.success_drop` = 0.5"),
        ("[alarm]\naction = \"off\"\nlate_share = 0.25", "`alarm.late_share` = 0.25"),
        (
            "[alarm]\nlr_factor = 0.25",
            "`alarm.lr_factor` = 0.25: has no effect: only alarm.action = \"lower-lr\"",
        ),
        ("[model]\nformat = \"plain\"", "`model.format` = \"plain\""),
        ("[model]\ncontext = 99", "`model.context` = 99"),
        ("[model.lora]\nrank = 4", "`model.lora.rank` = 4"),
        ("[model]\nsource = \"x\"\n[policy]\nlayers = 2", "`policy.layers` = 2"),
        ("[model]\nsource = \"x\"\n[policy]\ncontext = 99", "`policy.context` = 99"),
        ("[cloning]\nepochs = 0\nbatch = 4", "`cloning.batch` = 4"),
        ("[cloning]\nepochs = 0\nlearning_rate = 0.001", "`cloning.learning_rate` = 0.001"),
        ("[cloning]\nepochs = 0\nobservation_weight = 0.5", "`cloning.observation_weight` = 0.5"),
        (
            "model = { source = \"x\" }\ncloning = { epochs = 0, demonstrations = 9 }",
            "`cloning.demonstrations` = 9",
        ),
        ("[optimizer]\nweight_decay = 0.0\nno_decay = [\"x\"]", "`optimizer.no_decay`"),
        (
            "[rollout]\nactions = \"admissible\"\nmax_action_tokens = 8",
            "`rollout.max_action_tokens` = 8",
        ),
        ("[update.policy]\nkind = \"reinforce\"\nclip_low = 0.0", "`update.policy.clip_low` = 0"),
        (
            "[update.policy]\nkind = \"reinforce\"\nclip_high = 0.2",
            "`update.policy.clip_high` = 0.2",
        ),
        ("[update.policy]\nkind = \"gspo\"\ndual_clip = 3.0", "`update.policy.dual_clip` = 3.0"),
        (
            "[update.policy]\nkind = \"cispo\"\ndual_clip = false",
            "`update.policy.dual_clip` = false",
        ),
        (
            "[entropy]\nmethod = \"none\"\nlambda = 0.001",
            "`entropy.lambda` = 0.001: has no effect: only `bonus`",
        ),
        ("[entropy]\nmethod = \"none\"\nalpha = 0.1", "`entropy.alpha` = 0.1"),
        (
            "[entropy]\nmethod = \"none\"\ngranularity = \"token\"",
            "`entropy.granularity` = \"token\"",
        ),
        ("[entropy]\nmethod = \"none\"\ngate = 25", "`entropy.gate` = 25"),
        (
            "[entropy]\nmethod = \"none\"\nbeta = { kind = \"constant\", value = 1.0 }",
            "`entropy.beta.kind`",
        ),
        (
            "[entropy]\nmethod = \"bonus\"\nalpha = 0.1",
            "`entropy.alpha` = 0.1: has no effect: only `epo`",
        ),
        (
            "[entropy]\nmethod = \"bonus\"\n[entropy.beta]\ngamma = 3.0",
            "`entropy.beta.gamma` = 3.0",
        ),
        (
            "[entropy]\nmethod = \"bonus\"\nadaptive = { target = 1.0 }",
            "`entropy.adaptive.target` = 1.0",
        ),
        ("[entropy]\nmethod = \"decayed-bonus\"\nalpha = 0.2", "`entropy.alpha` = 0.2"),
        (
            "[entropy]\nmethod = \"adaptive\"\n[entropy.beta]\ntotal_steps = 9",
            "`entropy.beta.total_steps` = 9",
        ),
        ("[entropy]\nmethod = \"clip-cov\"\nlambda = 0.1", "`entropy.lambda` = 0.1"),
        (
            "[entropy]\nmethod = \"clip-cov\"\nkl_cov = { coef = 1.0 }",
            "`entropy.kl_cov.coef` = 1.0",
        ),
        ("[entropy]\nmethod = \"kl-cov\"\ngranularity = \"sequence\"", "`entropy.granularity`"),
        (
            "[entropy]\nmethod = \"kl-cov\"\nclip_cov = { low = 1.0 }",
            "`entropy.clip_cov.low` = 1.0",
        ),
        ("[entropy]\nmethod = \"top-entropy\"\nalpha = 0.1", "`entropy.alpha` = 0.1"),
        (
            "[entropy]\ntop_entropy = { share = 0.5 }",
            "`entropy.top_entropy.share` = 0.5: has no effect: only `top-entropy`",
        ),
        ("[entropy]\ngate = 3", "`entropy.gate` = 3: has no effect: only `epo-official`"),
        (
            "[entropy]\nmethod = \"epo-official\"\nclip_cov = { low = 1.0 }",
            "`entropy.clip_cov.low`",
        ),
        // GRPO's alone from here on: an episode counts nothing in a small run.
        ("[advantage]\nestimator = \"rloo\"", "`advantage.estimator` = \"rloo\""),
        (
            "[advantage]\nepisode_weight = 1.0\nturn_weight = 0.0\ngamma = 0.9",
            "`advantage.gamma` = 0.9",
        ),
        // PPO's alone.
        ("[alarm]\nzero_variance = 0.5", "`alarm.zero_variance` = 0.5"),
        (
            "[critic.optimizer]\nweight_decay = 0.0\nno_decay = []",
            "`critic.optimizer.no_decay` = []",
        ),
        ("[rollout]\ngroup = 1\n[alarm]\nzero_variance = 0.9", "`alarm.zero_variance` = 0.9"),
    ];

    #[test]
    fn every_written_setting_without_effect_is_refused_with_its_value() {
        for (i, (text, named)) in CASES.into_iter().enumerate() {
            let algorithms: &[Algorithm] = match i {
                40 | 41 => &[Algorithm::Grpo],
                42.. => &[Algorithm::Ppo],
                _ => &[Algorithm::Grpo, Algorithm::Ppo],
            };
            for &algorithm in algorithms {
                let error = refusal(algorithm, text, &Overrides::default());
                assert!(
                    error.starts_with(&format!("setting {named}"))
                        && error.contains("has no effect"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn options_count_as_written_and_decide_what_the_file_may_say() {
        let error = |text: &str, overrides: &Overrides| refusal(Algorithm::Grpo, text, overrides);
        let none = Overrides { entropy: Some("none"), ..Overrides::default() };
        assert!(error("[entropy]\nalpha = 0.2", &none).contains("`entropy.alpha` = 0.2"));
        let lora = Overrides { lora: Some(4), ..Overrides::default() };
        let named = error("", &lora);
        assert!(
            named.contains("`model.lora.rank` = 4") && named.contains("model.source"),
            "{named}"
        );
        let model = Overrides { model: Some("x"), ..Overrides::default() };
        assert!(error("[policy]\nhidden_size = 64", &model).contains("`policy.hidden_size` = 64"));
        let admissible =
            Overrides { actions: Some(ActionSpace::Admissible), ..Overrides::default() };
        assert!(error("[rollout]\nmax_action_tokens = 9", &admissible)
            .contains("rollout.max_action_tokens"));
    }

    #[test]
    fn a_file_over_an_option_keeps_what_the_option_does_not_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let of = |text: &str, overrides: &Overrides| {
            std::fs::write(&path, text).unwrap();
            let base = Config::small(Benchmark::ScienceWorld, Algorithm::Grpo, Nothing {});
            base.with(Some(&path), overrides).unwrap()
        };
        let official =
            Overrides { entropy: Some("epo-official"), seed: Some(7), ..Overrides::default() };
        let config =
            of("seed = 1\n[entropy]\nmethod = \"epo\"\ngate = 3\nkappa_high = 1.2", &official);
        assert_eq!(
            (config.seed, config.entropy.gate, config.entropy.kappa_high),
            (7, Some(3), 1.2)
        );
        let lora = Overrides { model: Some("x"), lora: Some(4), ..Overrides::default() };
        let lora = of("[model.lora]\nrank = 8\ndropout = 0.1", &lora).model.lora.unwrap();
        assert_eq!((lora.rank, lora.alpha, lora.dropout), (4, 8.0, 0.1));
        // `reinforce-pp` discounts without turns, and an estimator that counts is one.
        let advantage =
            "[advantage]\nestimator = \"reinforce-pp\"\nepisode_weight = 1.0\nturn_weight = 0.0\n";
        let discounted = of(&format!("{advantage}gamma = 0.9"), &Overrides::default());
        assert_eq!(discounted.grpo().unwrap().gamma, 0.9);
        // The band is reported, and watched, whatever the method.
        let band = of("[entropy]\nmethod = \"none\"\nkappa_low = 0.7", &Overrides::default());
        assert_eq!(band.entropy.kappa_low, 0.7);
    }
}
