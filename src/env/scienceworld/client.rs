//! The raw simulator behind one connection, and a client with the official wrapper's semantics.

use std::path::Path;
use std::time::Duration;

use crate::env::environment::Task;
use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::link::{expect_reference, Endpoint, Link};
use crate::env::scienceworld::gateway::protocol::{self, Arg, Value};
use crate::env::scienceworld::tasks::{self, Split};

type Outcome<T> = Result<T, SimulatorError>;

const INTERFACE: &str = "scienceworld.runtime.pythonapi.PythonInterface";

/// One simulator in a Java process.
///
/// The simulator keeps its world, its random generator and its counters in global variables. Each
/// `Simulator` therefore has a class loader of its own, which isolates it from the others in the
/// process. Methods are the simulator's own calls: a finished episode goes on, nothing is masked.
pub struct Simulator {
    link: Link,
    object: String,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("object", &self.object).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Connects to a running gateway and creates a simulator from `jar`, a path that its process
    /// can open ([`Jvm::simulator_jar`](crate::env::scienceworld::Jvm::simulator_jar)). `limit`
    /// holds for every call.
    ///
    /// # Errors
    /// [`SimulatorError::Connect`] for a closed port, [`SimulatorError::Refused`] for a wrong
    /// token, [`SimulatorError::Exception`] for a jar without the simulator,
    /// [`SimulatorError::Timeout`] for a gateway that does not reply.
    pub fn connect(endpoint: &Endpoint, jar: &Path, limit: Duration) -> Outcome<Self> {
        let mut link = Link::open(endpoint, limit)?;
        let object = instantiate(&mut link, jar)?;
        Ok(Self { link, object })
    }

    /// Loads a task. With `gold`, also computes its gold path, which takes seconds instead of
    /// milliseconds.
    ///
    /// # Errors
    /// An unknown task, variation or simplification; [`SimulatorError::Load`] with the simulator's
    /// message if it refuses to load.
    pub fn load(&mut self, task: &Task, simplification: &str, gold: bool) -> Outcome<()> {
        tasks::check_task(task)?;
        tasks::check_simplification(&task.name, simplification)?;
        let args = [
            Arg::Text(&task.name),
            Arg::Int(task.variation as i32),
            Arg::Text(simplification),
            Arg::Bool(gold),
        ];
        match self.link.call(&self.object, "load", &args)? {
            Value::Text(message) if message.to_ascii_uppercase().contains("ERROR") => {
                Err(SimulatorError::Load { task: format!("{task} ({simplification})"), message })
            }
            _ => Ok(()),
        }
    }

    /// Loads the current task again.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn reset(&mut self) -> Outcome<()> {
        self.link.call(&self.object, "reset", &[]).map(|_| ())
    }

    /// Plays an action and returns the observation.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn step(&mut self, action: &str) -> Outcome<String> {
        self.link.text(&self.object, "step", &[Arg::Text(action)])
    }

    /// Returns the score in points, −100..=100: the simulator's fraction times 100, rounded half to
    /// even like Python's `round`.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn score(&mut self) -> Outcome<i32> {
        self.link.double(&self.object, "getScore").map(points)
    }

    /// Returns true if the task is completed or failed.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn completed(&mut self) -> Outcome<bool> {
        self.link.boolean(&self.object, "getCompleted")
    }

    /// Returns the simulated ticks so far. Looking around takes none, waiting takes several.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn moves(&mut self) -> Outcome<u32> {
        self.link.int(&self.object, "getNumMoves", &[]).map(|moves| moves as u32)
    }

    /// Describes the surroundings; no side effects.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn look(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionLook", &[])
    }

    /// Describes the inventory; no side effects.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn inventory(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionInventory", &[])
    }

    /// Returns the description of the task; no side effects.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn task_description(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionTaskDesc", &[])
    }

    /// Returns the valid actions, sorted by code point. The call draws random numbers, which
    /// changes later responses.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn valid_actions(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getValidActionObjectCombinations")
    }

    /// Returns the action templates, sorted. The call draws random numbers, which changes later
    /// responses.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn possible_actions(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getPossibleActions")
    }

    /// Returns the observable objects, sorted. The call draws random numbers, which changes later
    /// responses.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn possible_objects(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getPossibleObjects")
    }

    /// Returns the gold path of a task that was loaded with one.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn gold_path(&mut self) -> Outcome<Vec<String>> {
        self.link.texts(&self.object, "getGoldActionSequence", &[])
    }

    /// Returns the names of all tasks.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn task_names(&mut self) -> Outcome<Vec<String>> {
        self.link.texts(&self.object, "getTaskNames", &[])
    }

    /// Returns the number of variations of a task.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn variation_count(&mut self, task: &str) -> Outcome<i64> {
        self.link.int(&self.object, "getTaskMaxVariations", &[Arg::Text(task)])
    }

    /// Returns the variations of the loaded task in `split`.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn variations(&mut self, split: Split) -> Outcome<Vec<i64>> {
        let method = match split {
            Split::Train => "getVariationsTrain",
            Split::Dev => "getVariationsDev",
            Split::Test => "getVariationsTest",
        };
        self.link.ints(&self.object, method, &[])
    }

    /// Returns the names of all simplifications except `easy`.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn simplifications(&mut self) -> Outcome<Vec<String>> {
        let text = self.link.text(&self.object, "getPossibleSimplifications", &[])?;
        Ok(text.split(", ").map(str::to_owned).collect())
    }

    fn sorted(&mut self, method: &str) -> Outcome<Vec<String>> {
        let mut list = self.link.texts(&self.object, method, &[])?;
        list.sort_unstable();
        Ok(list)
    }
}

impl Drop for Simulator {
    /// Deletes the simulator in the gateway, without waiting for the reply.
    fn drop(&mut self) {
        self.link.abandon(&self.object);
    }
}

/// Creates a class loader that sees only `jar` and the platform, and a simulator in it.
fn instantiate(link: &mut Link, jar: &Path) -> Outcome<String> {
    let path = jar.to_string_lossy();
    let file = construct(link, "java.io.File", &[Arg::Text(&path)])?;
    let uri = link.reference(&file, "toURI", &[])?;
    let url = link.reference(&uri, "toURL", &[])?;
    let array = link.run("new array", &protocol::new_array("java.net.URL", 1))?;
    let array = expect_reference("new array", array)?;
    link.run("set array", &protocol::set_array(&array, 0, Arg::Ref(&url)))?;
    let parent = link.reference("z:java.lang.ClassLoader", "getPlatformClassLoader", &[])?;
    let loader =
        construct(link, "java.net.URLClassLoader", &[Arg::Ref(&array), Arg::Ref(&parent)])?;
    let class = link.reference(&loader, "loadClass", &[Arg::Text(INTERFACE)])?;
    let object = link.reference(&class, "newInstance", &[])?;
    for id in [file, uri, url, array, parent, loader, class] {
        link.delete(&id)?;
    }
    Ok(object)
}

fn construct(link: &mut Link, class: &str, args: &[Arg<'_>]) -> Outcome<String> {
    let value = link.run(class, &protocol::construct(class, args))?;
    expect_reference(class, value)
}

/// Converts a fraction to points: 100·x, rounded half to even.
fn points(fraction: f64) -> i32 {
    (100.0 * fraction).round_ties_even() as i32
}

/// Everything that the official wrapper returns for one action.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frame {
    /// The observation after the action.
    pub observation: String,
    /// The change of the score, in points.
    pub reward: i32,
    /// The score so far, in points, −100..=100.
    pub score: i32,
    /// True if the task is completed, the moves exceed the limit or the score is negative.
    pub done: bool,
    /// The simulated ticks so far.
    pub moves: u32,
    /// The surroundings.
    pub look: String,
    /// The inventory.
    pub inventory: String,
    /// The description of the task.
    pub task_description: String,
    /// The valid actions, sorted by code point, including `reset task`.
    pub valid: Vec<String>,
}

/// A client that makes the same calls as the official Python wrapper.
///
/// As in the wrapper, an episode can be continued after `done`. Source: scienceworld 1.2.3,
/// `ScienceWorldEnv.load`, `reset` and `step`.
#[derive(Debug)]
pub struct OfficialClient {
    simulator: Simulator,
    step_limit: u32,
    last_score: i32,
}

impl OfficialClient {
    /// Wraps `simulator`. An episode is done after more than `step_limit` moves (wrapper: 100).
    pub fn new(simulator: Simulator, step_limit: u32) -> Self {
        Self { simulator, step_limit, last_score: 0 }
    }

    /// Returns the wrapped simulator.
    pub fn simulator(&mut self) -> &mut Simulator {
        &mut self.simulator
    }

    /// Makes the calls of the wrapper's `load` and `reset`: loads the task twice and plays
    /// `look around`.
    ///
    /// # Errors
    /// The same as [`Simulator::load`].
    pub fn reset(&mut self, task: &Task, simplification: &str) -> Outcome<Frame> {
        self.simulator.load(task, simplification, false)?;
        self.simulator.reset()?;
        self.last_score = 0;
        self.step("look around")
    }

    /// Plays `action` and requests all fields, in the order of the wrapper.
    ///
    /// # Errors
    /// A lost process or an exception of the simulator.
    pub fn step(&mut self, action: &str) -> Outcome<Frame> {
        let observation = self.simulator.step(action)?;
        let score = self.simulator.score()?;
        let completed = self.simulator.completed()?;
        let moves = self.simulator.moves()?;
        let reward = score - std::mem::replace(&mut self.last_score, score);
        Ok(Frame {
            observation,
            reward,
            score,
            done: is_done(completed, moves, self.step_limit, score),
            moves,
            look: self.simulator.look()?,
            inventory: self.simulator.inventory()?,
            task_description: self.simulator.task_description()?,
            valid: self.simulator.valid_actions()?,
        })
    }
}

/// The wrapper's condition for the end of an episode: completed ∨ moves > limit ∨ score < 0.
pub(crate) fn is_done(completed: bool, moves: u32, step_limit: u32, score: i32) -> bool {
    completed || moves > step_limit || score < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_rounded_half_to_even() {
        assert_eq!([0.005, 0.015, 0.025, 0.035, 0.125].map(points), [0, 2, 2, 4, 12]);
        assert_eq!([-1.0, -0.025, 0.666_666, 1.0].map(points), [-100, -2, 67, 100]);
    }

    #[test]
    fn an_episode_ends_as_in_the_wrapper() {
        assert!(!is_done(false, 100, 100, 0), "the limit itself does not end the episode");
        assert!(is_done(false, 101, 100, 0));
        assert!(is_done(false, 0, 100, -100));
        assert!(is_done(true, 0, 100, 100));
    }
}
