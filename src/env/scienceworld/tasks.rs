//! The simulator's tasks, variations and splits, available without a process.

use crate::env::environment::Task;
use crate::env::scienceworld::error::SimulatorError;

/// The task names and their numbers of variations, sorted as in the simulator
/// (ScienceWorld 1.2.3, `getTaskNames`, `getTaskMaxVariations`).
const TASKS: [(&str, u32); 30] = [
    ("boil", 30),
    ("change-the-state-of-matter-of", 30),
    ("chemistry-mix", 32),
    ("chemistry-mix-paint-secondary-color", 36),
    ("chemistry-mix-paint-tertiary-color", 36),
    ("find-animal", 300),
    ("find-living-thing", 300),
    ("find-non-living-thing", 300),
    ("find-plant", 300),
    ("freeze", 30),
    ("grow-fruit", 126),
    ("grow-plant", 126),
    ("identify-life-stages-1", 14),
    ("identify-life-stages-2", 10),
    ("inclined-plane-determine-angle", 168),
    ("inclined-plane-friction-named-surfaces", 1386),
    ("inclined-plane-friction-unnamed-surfaces", 162),
    ("lifespan-longest-lived", 125),
    ("lifespan-longest-lived-then-shortest-lived", 125),
    ("lifespan-shortest-lived", 125),
    ("measure-melting-point-known-substance", 436),
    ("measure-melting-point-unknown-substance", 300),
    ("melt", 30),
    ("mendelian-genetics-known-plant", 120),
    ("mendelian-genetics-unknown-plant", 480),
    ("power-component", 20),
    ("power-component-renewable-vs-nonrenewable-energy", 20),
    ("test-conductivity", 900),
    ("test-conductivity-of-unknown-substances", 600),
    ("use-thermometer", 540),
];

/// The valid simplifications. `easy` is a preset of several others.
pub const SIMPLIFICATIONS: [&str; 6] = [
    "easy",
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
];

/// The official splits of the variations of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The first half.
    Train,
    /// The third quarter.
    Dev,
    /// The rest.
    Test,
}

/// Returns all task names, sorted. The index is the task number in EPO's published code.
pub fn task_names() -> impl ExactSizeIterator<Item = &'static str> {
    TASKS.iter().map(|(name, _)| *name)
}

/// Returns the number of variations of `task`.
///
/// # Errors
/// [`SimulatorError::UnknownTask`].
pub fn variation_count(task: &str) -> Result<u32, SimulatorError> {
    let found = TASKS.binary_search_by_key(&task, |(name, _)| name);
    found.map(|index| TASKS[index].1).map_err(|_| SimulatorError::UnknownTask {
        name: task.to_owned(),
        valid: task_names().map(str::to_owned).collect(),
    })
}

/// Returns the variations of `task` in `split`. With g = ⌊n/4⌋, train is 0..2g, dev is 2g..3g and
/// test is 3g..n.
///
/// # Errors
/// [`SimulatorError::UnknownTask`].
pub fn variations(task: &str, split: Split) -> Result<std::ops::Range<u32>, SimulatorError> {
    let count = variation_count(task)?;
    let quarter = count / 4;
    Ok(match split {
        Split::Train => 0..2 * quarter,
        Split::Dev => 2 * quarter..3 * quarter,
        Split::Test => 3 * quarter..count,
    })
}

/// Checks that a task and its variation exist.
///
/// # Errors
/// [`SimulatorError::UnknownTask`], [`SimulatorError::VariationOutOfRange`].
pub fn check_task(task: &Task) -> Result<(), SimulatorError> {
    let count = variation_count(&task.name)?;
    if task.variation < count {
        return Ok(());
    }
    Err(SimulatorError::VariationOutOfRange {
        task: task.name.clone(),
        variation: task.variation,
        count,
    })
}

/// Checks that simplifications exist and do not remove actions that `task` needs.
///
/// `simplification` is a comma-separated list of [`SIMPLIFICATIONS`], or empty.
///
/// # Errors
/// [`SimulatorError::UnknownSimplification`], [`SimulatorError::ContradictorySimplification`].
pub fn check_simplification(task: &str, simplification: &str) -> Result<(), SimulatorError> {
    for name in simplification.split(',').filter(|name| !name.is_empty()) {
        if !SIMPLIFICATIONS.contains(&name) {
            return Err(SimulatorError::UnknownSimplification {
                name: name.to_owned(),
                valid: SIMPLIFICATIONS.map(str::to_owned).to_vec(),
            });
        }
    }
    let electrical = task.contains("power-component") || task.contains("conductivity");
    if electrical && simplification.contains("noElectricalAction") {
        return Err(SimulatorError::ContradictorySimplification {
            task: task.to_owned(),
            simplification: simplification.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_partition_the_variations() {
        for name in task_names() {
            let splits = [Split::Train, Split::Dev, Split::Test];
            let [train, dev, test] = splits.map(|split| variations(name, split).unwrap());
            assert_eq!((train.start, train.end, dev.end), (0, dev.start, test.start), "{name}");
            assert_eq!(test.end, variation_count(name).unwrap(), "{name}");
        }
        // (variations in train, dev, test) as the official wrapper lists them.
        let sizes = |name| {
            [Split::Train, Split::Dev, Split::Test].map(|s| variations(name, s).unwrap().len())
        };
        assert_eq!(sizes("boil"), [14, 7, 9]);
        assert_eq!(sizes("identify-life-stages-2"), [4, 2, 4]);
        assert_eq!(sizes("inclined-plane-friction-named-surfaces"), [692, 346, 348]);
    }

    #[test]
    fn errors_list_the_valid_names() {
        let task = |name: &str, variation| Task { name: name.into(), variation };
        let error = check_task(&task("boyl", 0)).unwrap_err();
        assert!(matches!(&error, SimulatorError::UnknownTask { valid, .. } if valid.len() == 30));
        assert!(error.to_string().contains("use-thermometer"));
        assert!(check_task(&task("boil", 29)).is_ok());
        let error = check_task(&task("boil", 30)).unwrap_err();
        assert!(matches!(
            error,
            SimulatorError::VariationOutOfRange { count: 30, variation: 30, .. }
        ));
        assert!(error.to_string().contains("0..=29"));
        assert!(check_simplification("boil", "").is_ok());
        assert!(check_simplification("boil", "openDoors,noElectricalAction").is_ok());
        let error = check_simplification("boil", "openDoors,eazy").unwrap_err();
        assert!(
            matches!(&error, SimulatorError::UnknownSimplification { name, .. } if name == "eazy")
        );
        assert!(error.to_string().contains("teleportAction"));
        let error = check_simplification("test-conductivity", "noElectricalAction").unwrap_err();
        assert!(matches!(error, SimulatorError::ContradictorySimplification { .. }));
        assert!(check_simplification("test-conductivity", "easy").is_ok());
    }
}
