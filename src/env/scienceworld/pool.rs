//! Many environments over few Java processes.

use std::sync::Arc;
use std::time::Duration;

use crate::env::scienceworld::config::ScienceWorldConfig;
use crate::env::scienceworld::environment::ScienceWorld;
use crate::env::scienceworld::host::Host;
use crate::env::scienceworld::memory::Memory;
use crate::env::scienceworld::provision::install::Installation;
use crate::{Error, Result};

/// Isolated environments to be stepped in parallel, several per Java process.
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
    /// Starts the processes for `count` environments. The first reset of an environment creates its
    /// simulator.
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
            return Err(Error::setting("environments", count, "must be at least 1"));
        }
        let shared = Arc::new(config.clone());
        let memory = Arc::new(Memory::new(config.memory_mib << 20));
        let call_limit = Duration::from_secs_f64(config.call_limit_s);
        let mut pool = Self { hosts: Vec::new(), environments: Vec::new() };
        while pool.environments.len() < count {
            let size = config.environments_per_jvm.min(count - pool.environments.len());
            let host = Host::new(installation.clone(), config.jvm.clone(), size, call_limit);
            let host = Arc::new(host);
            host.ensure_started()?;
            for _ in 0..size {
                let env = ScienceWorld::new(host.clone(), shared.clone(), memory.clone());
                pool.environments.push(env);
            }
            pool.hosts.push(host);
        }
        Ok(pool)
    }

    /// Returns the environments that have not been taken out.
    pub fn environments(&mut self) -> &mut [ScienceWorld] {
        &mut self.environments
    }

    /// Takes the environments out, for use in threads or as trait objects. The pool still counts
    /// their restarts.
    pub fn take_environments(&mut self) -> Vec<ScienceWorld> {
        std::mem::take(&mut self.environments)
    }

    /// Returns the number of process replacements so far.
    pub fn restarts(&self) -> u64 {
        self.hosts.iter().map(|host| host.restarts()).sum()
    }

    /// Returns the process ids, in the order of their environments.
    pub fn process_ids(&self) -> Vec<u32> {
        self.hosts.iter().filter_map(|host| host.process_id()).collect()
    }
}
