//! The raw simulator: one isolated copy of it behind one connection, and the official wrapper's semantics.

use std::path::Path;
use std::time::Duration;

use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::link::{expect_reference, Endpoint, Link};
use crate::env::scienceworld::gateway::protocol;
use crate::env::scienceworld::gateway::protocol::{Arg, Value};
use crate::env::scienceworld::tasks;
use crate::env::scienceworld::tasks::Split;
use crate::env::Task;

type Outcome<T> = Result<T, SimulatorError>;

const INTERFACE: &str = "scienceworld.runtime.pythonapi.PythonInterface";

/// One simulator inside a Java process, isolated from the others there by a class loader of its own.
///
/// The simulator keeps its world, its random generator and its counters in global variables; a class loader
/// per simulator gives each its own. Methods are the simulator's, nothing is latched or masked.
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
    /// Connects to a running gateway and creates a simulator from `jar` there; no call may take longer than
    /// `limit`.
    ///
    /// # Errors
    /// A closed port ([`SimulatorError::Connect`]), a wrong token ([`SimulatorError::Refused`]), a jar without
    /// the simulator ([`SimulatorError::Exception`]) or a gateway that does not answer.
    pub fn connect(endpoint: &Endpoint, jar: &Path, limit: Duration) -> Outcome<Self> {
        let mut link = Link::open(endpoint, limit)?;
        let object = instantiate(&mut link, jar)?;
        Ok(Self { link, object })
    }

    /// Loads a task; with `gold`, also works out its gold path (seconds instead of milliseconds).
    ///
    /// # Errors
    /// An unknown task, variation or simplification (checked before the simulator is asked), or what the
    /// simulator answers instead of loading.
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
    /// As [`Simulator::reset`].
    pub fn step(&mut self, action: &str) -> Outcome<String> {
        self.link.text(&self.object, "step", &[Arg::Text(action)])
    }

    /// The score in points, −100..=100: the simulator's fraction times 100, ties to even (Python's `round`).
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn score(&mut self) -> Outcome<i32> {
        self.link.double(&self.object, "getScore").map(points)
    }

    /// Whether the simulator holds the task for completed or failed.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn completed(&mut self) -> Outcome<bool> {
        self.link.boolean(&self.object, "getCompleted")
    }

    /// Simulated ticks so far: not the number of actions (looking is free, waiting costs several).
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn moves(&mut self) -> Outcome<u32> {
        self.link.int(&self.object, "getNumMoves", &[]).map(|moves| moves as u32)
    }

    /// What is seen around, at no cost.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn look(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionLook", &[])
    }

    /// What is carried, at no cost.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn inventory(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionInventory", &[])
    }

    /// The task's description, at no cost.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn task_description(&mut self) -> Outcome<String> {
        self.link.text(&self.object, "freeActionTaskDesc", &[])
    }

    /// The valid actions, sorted by code point. Asking draws from the simulator's random generator.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn valid_actions(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getValidActionObjectCombinations")
    }

    /// The action templates, sorted. Asking draws from the simulator's random generator.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn possible_actions(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getPossibleActions")
    }

    /// The observable objects, sorted. Asking draws from the simulator's random generator.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn possible_objects(&mut self) -> Outcome<Vec<String>> {
        self.sorted("getPossibleObjects")
    }

    /// The gold path of a task that was loaded with one.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn gold_path(&mut self) -> Outcome<Vec<String>> {
        self.link.texts(&self.object, "getGoldActionSequence", &[])
    }

    /// The simulator's own list of task names.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn task_names(&mut self) -> Outcome<Vec<String>> {
        self.link.texts(&self.object, "getTaskNames", &[])
    }

    /// The simulator's own count of a task's variations.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn variation_count(&mut self, task: &str) -> Outcome<i64> {
        self.link.int(&self.object, "getTaskMaxVariations", &[Arg::Text(task)])
    }

    /// The simulator's own list of the loaded task's variations in `split`.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
    pub fn variations(&mut self, split: Split) -> Outcome<Vec<i64>> {
        let method = match split {
            Split::Train => "getVariationsTrain",
            Split::Dev => "getVariationsDev",
            Split::Test => "getVariationsTest",
        };
        self.link.ints(&self.object, method, &[])
    }

    /// The simulator's own list of simplifications, `easy` not among them.
    ///
    /// # Errors
    /// As [`Simulator::reset`].
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
    /// Lets the gateway forget the simulator, without waiting for its answer.
    fn drop(&mut self) {
        self.link.abandon(&self.object);
    }
}

/// Builds a class loader that sees only `jar` and the platform, and a simulator in it.
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

/// Points from a fraction: 100·x rounded, ties to even.
fn points(fraction: f64) -> i32 {
    (100.0 * fraction).round_ties_even() as i32
}

/// Everything that the official wrapper answers to one action.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frame {
    /// What the action brought.
    pub observation: String,
    /// Points gained by the action.
    pub reward: i32,
    /// Points so far, −100..=100.
    pub score: i32,
    /// Completed, or too many moves, or a negative score.
    pub done: bool,
    /// Simulated ticks so far.
    pub moves: u32,
    /// What is seen around.
    pub look: String,
    /// What is carried.
    pub inventory: String,
    /// The task's description.
    pub task_description: String,
    /// The valid actions, sorted by code point; `reset task` is among them.
    pub valid: Vec<String>,
}

/// The official Python wrapper's behaviour, call for call: nothing is latched, episodes go on after `done`.
///
/// Source: scienceworld 1.2.3, `ScienceWorldEnv.load`, `reset` and `step`.
#[derive(Debug)]
pub struct OfficialClient {
    simulator: Simulator,
    step_limit: u32,
    last_score: i32,
}

impl OfficialClient {
    /// Wraps `simulator`; an episode is done when more than `step_limit` moves were made (wrapper: 100).
    pub fn new(simulator: Simulator, step_limit: u32) -> Self {
        Self { simulator, step_limit, last_score: 0 }
    }

    /// The simulator below.
    pub fn simulator(&mut self) -> &mut Simulator {
        &mut self.simulator
    }

    /// `load` followed by `reset`: the task is loaded twice and `look around` is played.
    ///
    /// # Errors
    /// As [`Simulator::load`].
    pub fn reset(&mut self, task: &Task, simplification: &str) -> Outcome<Frame> {
        self.simulator.load(task, simplification, false)?;
        self.simulator.reset()?;
        self.last_score = 0;
        self.step("look around")
    }

    /// Plays `action` and asks for everything, in the wrapper's order.
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

/// The wrapper's end of an episode: completed ∨ moves > limit ∨ score < 0.
pub(crate) fn is_done(completed: bool, moves: u32, step_limit: u32, score: i32) -> bool {
    completed || moves > step_limit || score < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_round_ties_to_even() {
        assert_eq!([0.005, 0.015, 0.025, 0.035, 0.125].map(points), [0, 2, 2, 4, 12]);
        assert_eq!([-1.0, -0.025, 0.666_666, 1.0].map(points), [-100, -2, 67, 100]);
    }

    #[test]
    fn the_end_of_an_episode_is_the_wrappers() {
        assert!(!is_done(false, 100, 100, 0), "the limit itself is not over it");
        assert!(is_done(false, 101, 100, 0));
        assert!(is_done(false, 0, 100, -100));
        assert!(is_done(true, 0, 100, 100));
    }
}
