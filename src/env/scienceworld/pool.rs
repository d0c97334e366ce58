//! Many environments over few Java processes.

use std::sync::Arc;
use std::time::Duration;

use crate::env::scienceworld::config::ScienceWorldConfig;
use crate::env::scienceworld::environment::ScienceWorld;
use crate::env::scienceworld::gateway::host::Host;
use crate::env::scienceworld::memory::Memory;
use crate::env::scienceworld::provision::Installation;
use crate::{Error, Result};

/// Environments that are stepped in parallel, each isolated, several to a Java process.
///
/// ```no_run
/// use epo::env::scienceworld::{Provision, ScienceWorldConfig, ScienceWorldPool};
/// use epo::env::{Environment, Task};
/// # fn main() -> epo::Result<()> {
/// let installation = Provision::default().install(&|line| eprintln!("{line}"))?;
/// let mut pool = ScienceWorldPool::new(&installation, &ScienceWorldConfig::default(), 4)?;
/// let env = &mut pool.environments()[0];
/// let start = env.reset(&Task { name: "boil".into(), variation: 0 })?;
/// println!("{}\n{}", start.goal, start.observation);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ScienceWorldPool {
    hosts: Vec<Arc<Host>>,
    environments: Vec<ScienceWorld>,
}

impl ScienceWorldPool {
    /// Starts the processes for `count` environments; a simulator is created when its environment is first
    /// reset.
    ///
    /// # Errors
    /// A setting out of range, or a process that does not start.
    pub fn new(
        installation: &Installation,
        config: &ScienceWorldConfig,
        count: usize,
    ) -> Result<Self> {
        config.validate()?;
        if count == 0 {
            return Err(Error::setting("environments", count, "at least 1"));
        }
        let shared = Arc::new(config.clone());
        let memory = Arc::new(Memory::new(config.memory_mib << 20));
        let call_limit = Duration::from_secs_f64(config.call_limit_s);
        let mut pool = Self { hosts: Vec::new(), environments: Vec::new() };
        while pool.environments.len() < count {
            let size = config.environments_per_jvm.min(count - pool.environments.len());
            let host =
                Arc::new(Host::new(installation.clone(), config.jvm.clone(), size, call_limit));
            host.ensure_started()?;
            for _ in 0..size {
                pool.environments.push(ScienceWorld::new(
                    host.clone(),
                    shared.clone(),
                    memory.clone(),
                ));
            }
            pool.hosts.push(host);
        }
        Ok(pool)
    }

    /// The environments that were not taken out.
    pub fn environments(&mut self) -> &mut [ScienceWorld] {
        &mut self.environments
    }

    /// Takes the environments out, for threads or trait objects of one's own; the pool goes on counting
    /// restarts.
    pub fn take_environments(&mut self) -> Vec<ScienceWorld> {
        std::mem::take(&mut self.environments)
    }

    /// How many processes were replaced so far, each counted once.
    pub fn restarts(&self) -> u64 {
        self.hosts.iter().map(|host| host.restarts()).sum()
    }

    /// The process ids, in the order of the environments they serve.
    pub fn process_ids(&self) -> Vec<u32> {
        self.hosts.iter().filter_map(|host| host.process_id()).collect()
    }
}
