//! Complete settings under three names: for a small policy on a CPU, as the paper says, and as its published code does.

use std::str::FromStr;

use crate::entropy::config::{EntropyConfig, HistoryConfig};
use crate::objective::aggregate::Aggregation;
use crate::objective::settings::PolicyLoss;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedule::LrSchedule;
use crate::rollout::action::ActionFormat;
use crate::rollout::config::{ActionSpace, RolloutConfig};
use crate::rollout::rows::RowKind;
use crate::train::config::dump_megabytes;
use crate::train::config::model::{DeviceKind, ModelConfig, WeightType};
use crate::train::config::update::UpdateConfig;
use crate::train::config::TrainConfig;
use crate::train::credit::gae::{GaeConfig, GaeLevel};
use crate::train::credit::group::AdvantageConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::evaluate::EvaluationConfig;
use crate::train::learn::agent::PolicyConfig;
use crate::train::learn::cloning::CloningConfig;
use crate::train::learn::critic::CriticConfig;
use crate::train::watch::alarm::AlarmConfig;
use crate::{Error, Result};

/// A complete set of settings by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// `small`: [`TrainConfig::small`].
    #[default]
    Small,
    /// `paper`: [`TrainConfig::paper`].
    Paper,
    /// `official`: [`TrainConfig::official`].
    Official,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "small" => Ok(Self::Small),
            "paper" => Ok(Self::Paper),
            "official" => Ok(Self::Official),
            _ => Err(Error::setting("preset", name, "must be `small`, `paper` or `official`")),
        }
    }
}

/// The worlds of the paper's experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// ScienceWorld: up to 30 turns.
    ScienceWorld,
    /// ALFWorld: up to 50 turns.
    AlfWorld,
}

/// The two ways to advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Episodes of a group are compared (GRPO, arXiv 2402.03300).
    Grpo,
    /// A critic's values and generalised advantage estimation (PPO, arXiv 1707.06347).
    Ppo,
}

impl<E> TrainConfig<E> {
    /// The settings called `preset`.
    pub fn preset(
        preset: Preset,
        benchmark: Benchmark,
        algorithm: Algorithm,
        environment: E,
    ) -> Self {
        match preset {
            Preset::Small => Self::small(benchmark, algorithm, environment),
            Preset::Paper => Self::paper(benchmark, algorithm, environment),
            Preset::Official => Self::official(benchmark, algorithm, environment),
        }
    }

    /// A small policy from nothing on a CPU: minutes.
    pub fn small(benchmark: Benchmark, algorithm: Algorithm, environment: E) -> Self {
        let base = Self::common(60, 2e-4, environment);
        let mut config = match benchmark {
            Benchmark::ScienceWorld => base,
            Benchmark::AlfWorld => Self {
                steps: 150,
                environments: 16,
                // At GRPO's rate PPO loses in late turns what it has gained (docs/ALFWORLD.md).
                learning_rate: if algorithm == Algorithm::Ppo { 1.5e-4 } else { 3e-4 },
                evaluation: EvaluationConfig { every: 50, ..base.evaluation },
                reward: RewardConfig::Progress { points: 1.0 },
                policy: PolicyConfig { context: 1536, ..base.policy },
                cloning: CloningConfig { demonstrations: 500, epochs: 2, ..base.cloning },
                rollout: RolloutConfig {
                    max_turns: 20,
                    actions: ActionSpace::Admissible,
                    ..base.rollout
                },
                ..base
            },
        };
        let (warmup_steps, total_steps) = (3, config.steps);
        config.schedule =
            LrSchedule::Cosine { warmup_steps, total_steps, min_ratio: 0.1, cycles: 0.5 };
        // A discount makes a turn towards the shorter way the better one; ScienceWorld pays on the way.
        // A game pays once at its end: at 0.1 an action, a policy with free text learns to be understood and no more.
        let (gamma, invalid_penalty) =
            if benchmark == Benchmark::AlfWorld { (0.95, 0.02) } else { (1.0, 0.1) };
        config.small_credit(algorithm, gamma, invalid_penalty)
    }

    fn small_credit(mut self, algorithm: Algorithm, gamma: f64, invalid_penalty: f64) -> Self {
        match algorithm {
            Algorithm::Grpo => {
                // Turns alone: an episode's ending says little about most of its turns, and is much noise.
                let base = AdvantageConfig::default();
                self.advantage =
                    Some(AdvantageConfig { episode_weight: 0.0, gamma, invalid_penalty, ..base });
            }
            Algorithm::Ppo => {
                (self.rollout.tasks, self.rollout.group) = (64, 1);
                let optimizer = self.optimizer.clone();
                self.critic =
                    Some(CriticConfig { warmup_steps: 3, optimizer, ..CriticConfig::default() });
                let (level, lambda) = (GaeLevel::Turn, 0.95);
                self.gae = Some(GaeConfig {
                    level,
                    gamma,
                    lambda,
                    invalid_penalty,
                    ..GaeConfig::default()
                });
            }
        }
        self
    }

    /// What small runs on either world have in common; complete but for the algorithm's settings.
    fn common(steps: u64, learning_rate: f64, environment: E) -> Self {
        Self {
            seed: 0,
            steps,
            checkpoint_every: 10,
            environments: 2,
            learning_rate,
            schedule: LrSchedule::default(),
            evaluation: EvaluationConfig::default(),
            dump: false,
            dump_megabytes: dump_megabytes(),
            alarm: AlarmConfig::default(),
            reward: RewardConfig::Progress { points: 100.0 },
            advantage: None,
            gae: None,
            critic: None,
            dynamic_sampling: None,
            overlong: None,
            kl_reward: None,
            policy: PolicyConfig::default(),
            model: ModelConfig::default(),
            cloning: CloningConfig::default(),
            rollout: RolloutConfig::default(),
            update: UpdateConfig::default(),
            optimizer: AdamWConfig { beta2: 0.98, ..AdamWConfig::default() },
            entropy: EntropyConfig::paper_v2(),
            environment,
        }
    }

    /// The hyper-parameters of paper v2, tables 2 and 3: Qwen2.5-7B-Instruct on ScienceWorld, 3B on ALFWorld, no
    /// demonstrations, 128 episodes a step (16 tasks of 8 for GRPO, 128 of 1 for PPO), a solved episode paid 10.
    ///
    /// Where the paper's numbers do not carry over: its mini-batches are of rows of turns, these of episodes (128 over its
    /// size, at least one); it gives no learning rate for the critic, 10⁻⁵ is verl's; its prompts are cut to 2048 tokens
    /// with two turns of history, here an episode is one conversation in the model's context; it evaluates on 16 episodes,
    /// here on whole panels. Nothing here has been trained with these settings.
    pub fn paper(benchmark: Benchmark, algorithm: Algorithm, environment: E) -> Self {
        let science = benchmark == Benchmark::ScienceWorld;
        let (steps, max_turns) = if science { (125, 30) } else { (150, 50) };
        let grpo = algorithm == Algorithm::Grpo;
        let base = Self::common(steps, if science && !grpo { 3e-6 } else { 5e-6 }, environment);
        let (tasks, group) = if grpo { (16, 8) } else { (128, 1) };
        let entropy = EntropyConfig::paper_v2();
        let config = Self {
            environments: 128,
            schedule: LrSchedule::Cosine {
                warmup_steps: steps / 10,
                total_steps: steps,
                min_ratio: 0.2,
                cycles: 0.5,
            },
            evaluation: EvaluationConfig { every: 5, episodes: 1, temperature: 0.4, greedy: false },
            reward: RewardConfig::Success { value: 10.0 },
            model: paper_model(science),
            cloning: CloningConfig { demonstrations: 1, epochs: 0, ..base.cloning },
            rollout: RolloutConfig {
                tasks,
                group,
                max_turns,
                max_action_tokens: 512,
                max_observation_tokens: 2048,
                ..base.rollout
            },
            update: UpdateConfig {
                mini_batches: if science && !grpo { 2 } else { 1 },
                policy: PolicyLoss::default(),
                ..base.update
            },
            optimizer: AdamWConfig::default(),
            entropy: if science { entropy.scienceworld() } else { entropy.alfworld() },
            ..base
        };
        config.paid_by_episodes(algorithm)
    }

    /// The advantages of the paper's runs, which no turn has of its own.
    fn paid_by_episodes(self, algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Grpo => Self {
                advantage: Some(AdvantageConfig { turn_weight: 0.0, ..AdvantageConfig::default() }),
                ..self
            },
            Algorithm::Ppo => {
                let gae = GaeConfig { level: GaeLevel::Token, ..GaeConfig::default() };
                let critic = CriticConfig { learning_rate: 1e-5, ..CriticConfig::default() };
                Self { gae: Some(gae), critic: Some(critic), ..self }
            }
        }
    }

    /// The published code with the commands of its README: as [`TrainConfig::paper`], with rows of turns, the token mean, the
    /// indicator penalty (which has no gradient), its gate, its history and its β of two phases with K = 150.
    ///
    /// Where the code differs still: it normalises every micro-batch by itself and weighs long episodes more in GRPO's means
    /// (it compares rows of turns); its ScienceWorld groups mix tasks; its script never switches the penalty on for PPO,
    /// which `--entropy bonus` reproduces. On ScienceWorld its rule of success, done with any positive score, is the tasks'
    /// to set (`ScienceWorldTasks::of`).
    pub fn official(benchmark: Benchmark, algorithm: Algorithm, environment: E) -> Self {
        let mut config = Self::paper(benchmark, algorithm, environment);
        config.rollout.rows = RowKind::Turn;
        config.update.aggregation = Aggregation::TokenMean;
        let (official, max_steps) = (EntropyConfig::official_code(), config.rollout.max_turns);
        let entropy = match benchmark {
            Benchmark::ScienceWorld => official.scienceworld(),
            Benchmark::AlfWorld => official.alfworld(),
        };
        config.entropy =
            EntropyConfig { history: HistoryConfig::Official { max_steps }, ..entropy };
        config
    }

    /// A run of less than two minutes that goes through everything.
    #[must_use]
    pub fn smoke(mut self) -> Self {
        (self.steps, self.checkpoint_every, self.evaluation.episodes) = (2, 1, 1);
        self.policy = PolicyConfig { vocabulary: 512, hidden_size: 64, layers: 2, ..self.policy };
        self.cloning = CloningConfig { demonstrations: 4, batch: 2, ..self.cloning };
        (self.rollout.tasks, self.rollout.group) = (2, 4);
        if let Some(critic) = &mut self.critic {
            critic.warmup_steps = 1;
        }
        self
    }
}

fn paper_model(science: bool) -> ModelConfig {
    let (size, format) = if science {
        ("7B", ActionFormat::OfficialScienceworld)
    } else {
        ("3B", ActionFormat::OfficialAlfworld)
    };
    ModelConfig {
        source: Some(format!("Qwen/Qwen2.5-{size}-Instruct")),
        dtype: WeightType::Bf16,
        format,
        checkpointing: true,
        device: DeviceKind::Cuda,
        ..ModelConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::beta::BetaSchedule;
    use crate::entropy::config::EntropyMethod;
    use crate::run::folder::{config_text, read_config};
    use crate::train::config::unused::TaskSettings;
    use crate::train::config::Overrides;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Nothing {}

    impl TaskSettings for Nothing {}

    type Config = TrainConfig<Nothing>;

    fn all() -> Vec<Config> {
        let mut all = Vec::new();
        for preset in ["small", "paper", "official"].map(|name| name.parse().unwrap()) {
            for benchmark in [Benchmark::ScienceWorld, Benchmark::AlfWorld] {
                for algorithm in [Algorithm::Grpo, Algorithm::Ppo] {
                    all.push(Config::preset(preset, benchmark, algorithm, Nothing {}));
                }
            }
        }
        all
    }

    fn from_text(base: &Config, text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        base.clone().with(Some(&path), &Overrides::default())
    }

    #[test]
    fn every_preset_validates_and_reads_back_what_it_prints() {
        for config in all() {
            config.validate().unwrap();
            config.clone().smoke().rollout.validate().unwrap();
            assert_eq!(config.grpo().is_ok(), config.ppo().is_err());
            assert_eq!(
                from_text(&config, "").unwrap(),
                config.with(None, &Overrides::default()).unwrap()
            );
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_it_was_for_every_method_over_any_base() {
        let methods = ["none", "bonus", "epo", "epo-official", "decayed-bonus", "adaptive"];
        let (folder, of) =
            (tempfile::tempdir().unwrap(), |entropy| Overrides { entropy, ..Overrides::default() });
        let path = folder.path().join("c.toml");
        for method in methods.into_iter().chain(["clip-cov", "kl-cov", "top-entropy"]) {
            for preset in all() {
                let algorithm =
                    if preset.critic.is_some() { Algorithm::Ppo } else { Algorithm::Grpo };
                let other = Config::small(Benchmark::AlfWorld, algorithm, Nothing {});
                let config = preset.with(None, &of(Some(method))).unwrap();
                let text = config_text(&config).unwrap();
                std::fs::write(&path, &text).unwrap();
                assert_eq!(read_config::<Config>(&path).unwrap(), config, "{text}");
                assert_eq!(other.with(Some(&path), &of(None)).unwrap(), config, "{text}");
                let lambda = !["none", "clip-cov", "kl-cov", "top-entropy"].contains(&method);
                assert_eq!(text.contains("\nlambda = 0.001\n"), lambda, "{text}");
                assert!(text.contains("kappa_low") && text.contains("[entropy.history]"), "{text}");
            }
        }
    }

    #[test]
    fn the_papers_numbers_are_in_the_presets() {
        let of =
            |preset, benchmark, algorithm| Config::preset(preset, benchmark, algorithm, Nothing {});
        let ppo = of(Preset::Paper, Benchmark::ScienceWorld, Algorithm::Ppo);
        assert_eq!((ppo.learning_rate, ppo.steps, ppo.rollout.max_turns), (3e-6, 125, 30));
        assert_eq!(
            (ppo.entropy.alpha, ppo.entropy.kappa_low, ppo.entropy.kappa_high),
            (0.05, 0.0, 2.0)
        );
        assert_eq!(ppo.rollout.tasks * ppo.rollout.group, 128);
        assert_eq!(ppo.ppo().unwrap().0.level, GaeLevel::Token);
        let grpo = of(Preset::Official, Benchmark::AlfWorld, Algorithm::Grpo);
        assert_eq!((grpo.learning_rate, grpo.steps, grpo.rollout.group), (5e-6, 150, 8));
        assert_eq!((grpo.entropy.method, grpo.entropy.alpha), (EntropyMethod::EpoOfficial, 0.1));
        assert_eq!(grpo.entropy.beta, BetaSchedule::OfficialTwoPhase { total_steps: 150 });
        assert_eq!(grpo.update.aggregation, Aggregation::TokenMean);
        assert_eq!(grpo.model.source.as_deref(), Some("Qwen/Qwen2.5-3B-Instruct"));
        assert!("large".parse::<Preset>().unwrap_err().to_string().contains("large"));
    }

    /// Requires `validate` to refuse a small run with each text over it, naming the setting.
    fn refuses(cases: &[(Algorithm, &str, &str)]) {
        for &(algorithm, text, named) in cases {
            let config = from_text(&small(algorithm), text).unwrap();
            assert!(config.validate().is_err(), "{text}");
            let own = match algorithm {
                Algorithm::Grpo => config.grpo().map(drop),
                Algorithm::Ppo => config.ppo().map(drop),
            };
            let error = own.and_then(|()| config.validate()).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    fn small(algorithm: Algorithm) -> Config {
        Config::small(Benchmark::ScienceWorld, algorithm, Nothing {})
    }

    #[test]
    fn what_belongs_to_the_other_algorithm_is_refused_by_name() {
        use Algorithm::{Grpo, Ppo};
        refuses(&[
            (Grpo, "[gae]\nlambda = 0.9", "`gae`"),
            (Grpo, "[critic]\nwarmup_steps = 1", "`critic`"),
            (Ppo, "[advantage]\ngamma = 0.9", "`advantage`"),
            (Ppo, "[dynamic_sampling]\nmax_rounds = 4", "rollout.group"),
            (Ppo, "[dynamic_sampling]\nmax_rounds = 4", "`dynamic_sampling`"),
        ]);
        let error = from_text(&small(Ppo), "[critic]\nlr = 1.0").unwrap_err().to_string();
        assert!(error.contains("lr") && error.contains("critic"), "{error}");
        let kept = from_text(&small(Grpo), "[advantage]\ngamma = 0.9").unwrap().grpo().unwrap();
        assert_eq!((kept.gamma, kept.episode_weight), (0.9, 0.0), "the base's other settings stay");
    }

    #[test]
    fn values_out_of_range_or_that_switch_off_what_was_chosen_are_refused_by_name() {
        use Algorithm::{Grpo, Ppo};
        let negative = "[kl_reward]\nkind = \"k1\"\ncontrol = { kind = \"fixed\", coef = -1.0 }";
        let no_kl = "[entropy]\nmethod = \"kl-cov\"\nkl_cov = { coef = 0.0 }";
        let one_step = "[update]\nmini_batches = 1\n[entropy]\nmethod = \"kl-cov\"";
        let short = "[entropy.history]\nkind = \"official\"\nmax_steps = 9";
        refuses(&[
            (Grpo, "[rollout]\ngroup = 1", "rollout.group"),
            (Ppo, "[gae]\nlambda = 1.5", "gae.lambda"),
            (Ppo, "[critic]\nvalue_clip = 0.0", "critic.value_clip"),
            (Ppo, "[critic.body]\nkind = \"own\"\nhidden_size = 20\nlayers = 1", "hidden_size"),
            (Ppo, "[overlong]\nlimit = 20\nbuffer = 8\npenalty = 1.0", "overlong.limit"),
            (Ppo, "[overlong]\nlimit = 12\nbuffer = 8\npenalty = 0.0", "overlong.penalty"),
            (Ppo, negative, "kl_reward.coef"),
            (Ppo, "environments = 0", "environments"),
            (Ppo, "[entropy]\nlambda = 0.0", "entropy.lambda"),
            (Ppo, "[entropy]\nalpha = 0.0", "entropy.alpha"),
            (Ppo, no_kl, "entropy.kl_cov.coef"),
            (Grpo, one_step, "`entropy.method` = kl-cov"),
            (Grpo, short, "entropy.history.max_steps"),
            (Ppo, "[reward]\nkind = \"success\"\nvalue = 0.0", "reward.value"),
        ]);
    }

    #[test]
    fn a_command_line_changes_what_it_names() {
        let base = Config::small(Benchmark::AlfWorld, Algorithm::Ppo, Nothing {});
        let same = base.clone().with(None, &Overrides::default()).unwrap();
        assert_eq!(same.used().unwrap(), base.used().unwrap());
        let overrides = Overrides {
            seed: Some(7),
            steps: Some(9),
            entropy: Some("none"),
            actions: Some(ActionSpace::Free),
            ..Overrides::default()
        };
        let changed = base.clone().with(None, &overrides).unwrap();
        assert_eq!(
            (changed.seed, changed.steps, changed.rollout.actions),
            (7, 9, ActionSpace::Free)
        );
        assert_eq!(changed.entropy.method, EntropyMethod::None);
        let wrong = Overrides { entropy: Some("more"), ..Overrides::default() };
        assert!(base.with(None, &wrong).unwrap_err().to_string().contains("more"));
    }
}
