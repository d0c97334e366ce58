//! A Java process shared by several environments, replaced when it dies or hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::scienceworld::client::Simulator;
use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::process::{Jvm, JvmConfig};
use crate::env::scienceworld::provision::install::Installation;

/// The process of one group of environments. The generation counts its replacements.
#[derive(Debug)]
pub(crate) struct Host {
    installation: Installation,
    config: JvmConfig,
    environments: usize,
    call_limit: Duration,
    state: Mutex<State>,
    restarts: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    jvm: Option<Jvm>,
}

impl Host {
    pub(crate) fn new(
        installation: Installation,
        config: JvmConfig,
        environments: usize,
        call_limit: Duration,
    ) -> Self {
        Self {
            installation,
            config,
            environments,
            call_limit,
            state: Mutex::default(),
            restarts: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<Jvm, SimulatorError> {
        Jvm::start(&self.installation, &self.config, self.environments)
    }

    /// Starts the process if there is none, and returns the generation.
    pub(crate) fn ensure_started(&self) -> Result<u64, SimulatorError> {
        let mut state = self.lock();
        if state.jvm.is_none() {
            state.jvm = Some(self.start()?);
        }
        Ok(state.generation)
    }

    /// Creates an isolated simulator in the process of `generation`, or returns `None` if that
    /// process has been replaced.
    pub(crate) fn connect(&self, generation: u64) -> Result<Option<Simulator>, SimulatorError> {
        let (endpoint, jar) = {
            let state = self.lock();
            match &state.jvm {
                Some(jvm) if state.generation == generation => {
                    (jvm.endpoint().clone(), jvm.simulator_jar().to_owned())
                }
                _ => return Ok(None),
            }
        };
        Simulator::connect(&endpoint, &jar, self.call_limit).map(Some)
    }

    /// Replaces the process of `generation`; returns false if another environment has done so.
    pub(crate) fn replace(&self, generation: u64) -> Result<bool, SimulatorError> {
        let mut state = self.lock();
        if state.generation != generation {
            return Ok(false);
        }
        state.generation += 1;
        state.jvm = None;
        self.restarts.fetch_add(1, Ordering::Relaxed);
        state.jvm = Some(self.start()?);
        Ok(true)
    }

    /// Returns the last lines printed by the process of `generation`, if it is the current one.
    pub(crate) fn output(&self, generation: u64) -> String {
        let state = self.lock();
        let jvm = state.jvm.as_ref().filter(|_| state.generation == generation);
        jvm.map(Jvm::output).unwrap_or_default()
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.lock().jvm.as_ref().map(Jvm::id)
    }
}
