//! Many environments over few Java processes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::config::ScienceWorldConfig;
use super::environment::ScienceWorld;
use super::host::Host;
use super::provision::Installation;
use crate::env::{Demonstration, Environment, Step, Task};
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
    pub fn new(installation: &Installation, config: &ScienceWorldConfig, count: usize) -> Result<Self> {
        config.validate()?;
        if count == 0 {
            return Err(Error::setting("scienceworld.environments", count, "at least 1"));
        }
        let shared = Arc::new(config.clone());
        let call_limit = Duration::from_secs_f64(config.call_limit_s);
        let mut pool = Self { hosts: Vec::new(), environments: Vec::new() };
        while pool.environments.len() < count {
            let size = config.environments_per_jvm.min(count - pool.environments.len());
            let host = Arc::new(Host::new(installation.clone(), config.jvm.clone(), size, call_limit));
            host.ensure_started()?;
            for _ in 0..size {
                pool.environments.push(ScienceWorld::new(host.clone(), shared.clone()));
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

    /// Plays the gold path of each task, changed by `edit`, all environments in parallel; in the order of
    /// `tasks`. `progress` gets the number played, from time to time.
    ///
    /// # Errors
    /// The first task, in order, that has no gold path or does not exist; no environment left in the pool.
    pub fn demonstrations(
        &mut self,
        tasks: &[Task],
        edit: &(dyn Fn(Vec<String>) -> Vec<String> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Demonstration>> {
        if self.environments.is_empty() {
            return Err(Error::setting("scienceworld.environments", 0, "all were taken out of the pool"));
        }
        let next = AtomicUsize::new(0);
        let (sender, played) = std::sync::mpsc::channel();
        let mut done = Vec::with_capacity(tasks.len());
        std::thread::scope(|scope| {
            for environment in &mut self.environments {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || {
                    while let Some((index, task)) = claim(next, tasks) {
                        // The receiver outlives the threads: it is emptied below.
                        let _ = sender.send((index, environment.demonstrate(task, edit)));
                    }
                });
            }
            drop(sender);
            for item in played {
                done.push(item);
                progress(done.len());
            }
        });
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// An edit for [`ScienceWorldPool::demonstrations`]: a look around before the first `focus on` of a room just
/// entered. Gold paths know what is where; whoever is to learn from them has to see it.
pub fn look_before_focus(path: Vec<String>) -> Vec<String> {
    let mut looked = true; // an episode begins with a look around
    let mut shown = Vec::with_capacity(path.len() + 1);
    for action in path {
        if action.starts_with("focus on") && !looked {
            shown.push("look around".to_string());
        }
        looked = !action.starts_with("go to");
        shown.push(action);
    }
    shown
}

fn claim<'a>(next: &AtomicUsize, tasks: &'a [Task]) -> Option<(usize, &'a Task)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    tasks.get(index).map(|task| (index, task))
}

impl ScienceWorld {
    /// Plays the gold path of `task`, changed by `edit`, from a fresh start.
    ///
    /// # Errors
    /// As [`ScienceWorld::gold_path`].
    pub fn demonstrate(
        &mut self,
        task: &Task,
        edit: &dyn Fn(Vec<String>) -> Vec<String>,
    ) -> Result<Demonstration> {
        let path = edit(self.gold_path(task)?);
        let start = self.reset(task)?;
        let mut turns: Vec<(String, Step)> = Vec::with_capacity(path.len());
        for action in path {
            let step = self.step(&action)?;
            let done = step.done;
            turns.push((action, step));
            if done {
                break;
            }
        }
        Ok(Demonstration { task: task.clone(), start, turns })
    }
}

#[cfg(test)]
mod tests {
    use super::look_before_focus;

    #[test]
    fn one_look_for_each_room_entered() {
        let path = [
            "focus on a",
            "go to kitchen",
            "focus on b",
            "focus on c",
            "go to hallway",
            "look around",
            "focus on d",
        ];
        let shown = look_before_focus(path.map(String::from).to_vec());
        let looks: Vec<_> =
            shown.iter().enumerate().filter(|(_, a)| *a == "look around").map(|(i, _)| i).collect();
        assert_eq!((shown.len(), looks), (8, vec![2, 6]));
    }
}
