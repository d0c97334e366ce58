//! An expert that plays by searching, from observations and admissible commands alone.
//!
//! It knows what a player knows, so its episodes are demonstrations that a policy can imitate. A
//! planner on the full state would go straight to objects that no observation has mentioned.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::alfworld::error::{AlfworldError, Result};

/// Words of task sentences that name neither the object nor the receptacle.
const FUNCTION_WORDS: &str =
    "a an and another at both bring by clean cold cool examine find heat hold hot in it light \
     lit look of on one put same some the them then to two under with";
/// Receptacles with doors, which take one more step to search; numerous kinds come first.
const DOORS: [&str; 6] = ["cabinet", "drawer", "safe", "wardrobe", "fridge", "microwave"];
/// The number of kinds in [`DOORS`] of which a room can have many.
const MANY: usize = 2;

/// The task, parsed from its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    /// The kind of object to find.
    object: String,
    /// The kind of receptacle to bring it to, or the kind of lamp.
    target: String,
    /// The treatment before that: `clean`, `heat` or `cool`.
    treatment: Option<&'static str>,
    /// `true` to look at the object under a lamp.
    in_light: bool,
    /// `true` to bring two objects.
    two: bool,
}

impl Job {
    fn parse(sentence: &str) -> Option<Self> {
        let sentence = sentence.to_lowercase();
        let words: Vec<&str> = words(&sentence).collect();
        let has = |options: &[&str]| options.iter().any(|word| words.contains(word));
        let names = words
            .iter()
            .filter(|word| !FUNCTION_WORDS.split_whitespace().any(|known| known == **word));
        let mut names: Vec<&str> = names.copied().collect();
        names.dedup(); // "a mug and another mug"
        let [object, target] = names[..] else { return None };
        let treatments: [(_, &[&str]); 3] =
            [("clean", &["clean"]), ("heat", &["heat", "hot"]), ("cool", &["cool", "cold"])];
        Some(Self {
            object: object.to_owned(),
            target: target.to_owned(),
            treatment: treatments.iter().find(|(_, words)| has(words)).map(|(verb, _)| *verb),
            in_light: has(&["look", "examine", "light", "lit"]),
            two: has(&["two", "another"]),
        })
    }

    /// The search rank of a kind of receptacle; lower ranks are searched first.
    fn reluctance(&self, receptacle: &str) -> u32 {
        let is_target = receptacle == self.target && !self.two && self.treatment.is_none();
        let door = DOORS.iter().position(|door| *door == receptacle);
        3 * u32::from(is_target) + door.map_or(0, |door| if door < MANY { 2 } else { 1 })
    }
}

/// An expert that searches receptacle after receptacle until it has seen what the task needs.
///
/// It reads observations and admissible commands, never the state of a game. It does not rely on
/// its own past actions, so other actions may be played in between.
#[derive(Debug, Clone)]
pub struct Expert {
    job: Job,
    /// The receptacles, in the order of the search.
    receptacles: Vec<String>,
    /// The receptacles whose contents are known.
    searched: BTreeSet<String>,
    /// The last known receptacle of each object.
    seen: BTreeMap<String, String>,
    /// The object that has had the treatment.
    treated: Option<String>,
}

/// The situation that the admissible commands imply.
struct Moment<'a> {
    commands: Vec<&'a str>,
    /// The receptacles within reach.
    here: Vec<&'a str>,
    held: Option<&'a str>,
}

impl<'a> Moment<'a> {
    fn new(commands: Vec<&'a str>, receptacles: &[String]) -> Self {
        let examined = commands.iter().filter_map(|command| command.strip_prefix("examine "));
        let is_receptacle = |name: &&str| receptacles.iter().any(|known| known == name);
        let (here, objects): (Vec<_>, Vec<_>) = examined.partition(is_receptacle);
        Self { here, held: objects.first().copied(), commands }
    }

    fn allows(&self, command: &str) -> bool {
        self.commands.contains(&command)
    }

    /// The command, if it is admissible.
    fn allowed(&self, command: String) -> Option<String> {
        self.allows(&command).then_some(command)
    }

    fn is_closed(&self, receptacle: &str) -> bool {
        self.allows(&format!("open {receptacle}"))
    }

    /// Iterates over the objects within reach and their receptacles.
    fn takes(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.commands
            .iter()
            .filter_map(|command| command.strip_prefix("take ")?.split_once(" from "))
    }
}

impl Expert {
    /// Reads the task and the receptacles from the first observation of a game.
    ///
    /// # Errors
    /// Returns [`AlfworldError::UnknownTask`] if the sentence of the task is not one of ALFWorld's
    /// templates or of the household games, or if it names a receptacle that does not exist.
    pub fn new(first_observation: &str) -> Result<Self> {
        let (room, sentence) =
            first_observation.split_once(TASK_MARKER).unwrap_or(("", first_observation));
        let mut receptacles = names(room);
        let is_known =
            |job: &Job| job.in_light || receptacles.iter().any(|name| kind(name) == job.target);
        let unknown = || AlfworldError::UnknownTask { sentence: sentence.trim().to_owned() };
        let job = Job::parse(sentence).filter(is_known).ok_or_else(unknown)?;
        receptacles.sort_by_cached_key(|receptacle| job.reluctance(kind(receptacle)));
        Ok(Self {
            job,
            receptacles,
            searched: BTreeSet::new(),
            seen: BTreeMap::new(),
            treated: None,
        })
    }

    /// Chooses the next action from the last observation and the admissible commands.
    pub fn next(&mut self, observation: &str, admissible: &[impl AsRef<str>]) -> String {
        let commands = admissible.iter().map(AsRef::as_ref).collect();
        let receptacles = std::mem::take(&mut self.receptacles);
        let moment = Moment::new(commands, &receptacles);
        self.receptacles.clone_from(&receptacles);
        self.learn(observation, &moment);
        let action = match moment.held {
            Some(object) if kind(object) == self.job.object => self.carry(object, &moment),
            Some(object) => self.drop(object, &moment),
            None => self.fetch(&moment),
        };
        action.or_else(|| self.search(&moment)).unwrap_or_else(|| "look".to_owned())
    }

    /// Updates the known contents of receptacles and the treated object.
    fn learn(&mut self, observation: &str, moment: &Moment) {
        let named = names(observation);
        if let (Some(verb), Some(object)) = (self.job.treatment, named.first()) {
            let is_done = |verb| observation.starts_with(&format!("You {verb} "));
            if is_done(verb) {
                self.treated = Some(object.clone());
            } else if verb != "clean" && (is_done("heat") || is_done("cool")) {
                self.treated.take_if(|treated| treated == object);
            }
        }
        for &receptacle in moment.here.iter().filter(|receptacle| !moment.is_closed(receptacle)) {
            let is_described = named.first().is_some_and(|first| first == receptacle);
            if is_described || moment.held.is_none() {
                self.searched.insert(receptacle.to_owned());
                self.seen.retain(|_, place| place != receptacle);
            }
            if is_described {
                let objects = named.iter().filter(|object| !self.receptacles.contains(object));
                self.seen.extend(objects.map(|object| (object.clone(), receptacle.to_owned())));
            }
        }
        self.seen
            .extend(moment.takes().map(|(object, place)| (object.to_owned(), place.to_owned())));
        if let Some(held) = moment.held {
            self.seen.remove(held);
        }
        let lamps = moment.commands.iter().filter_map(|command| command.strip_prefix("use "));
        if let Some(&place) = moment.here.first() {
            self.seen.extend(lamps.map(|lamp| (lamp.to_owned(), place.to_owned())));
        }
    }

    /// Chooses the action for an object of the right kind in hand.
    fn carry(&self, object: &str, moment: &Moment) -> Option<String> {
        if self.job.in_light {
            let lit = |command: &&&str| {
                command.strip_prefix("use ").is_some_and(|lamp| kind(lamp) == self.job.target)
            };
            let lamp = self.seen.iter().find(|(name, _)| kind(name) == self.job.target);
            let lit = moment.commands.iter().find(lit).map(|&command| command.to_owned());
            return lit.or_else(|| self.go(lamp?.1, moment));
        }
        if let Some(verb) = self.job.treatment.filter(|_| self.treated.as_deref() != Some(object)) {
            let treat = format!("{verb} {object} with ");
            let treat = moment.commands.iter().find(|command| command.starts_with(&treat));
            let appliance = self.receptacles.iter().find(|name| name.starts_with(appliance(verb)));
            return treat
                .map(|&command| command.to_owned())
                .or_else(|| self.go(appliance?, moment));
        }
        let mut places = self.places();
        if !self.job.two {
            // Prefer a receptacle within reach, then one without a door.
            places
                .sort_by_key(|place| (!moment.here.contains(place), DOORS.contains(&kind(place))));
        }
        let place = places.first()?;
        let put = moment.allowed(format!("move {object} to {place}"));
        put.or_else(|| moment.allowed(format!("open {place}"))).or_else(|| self.go(place, moment))
    }

    /// The target receptacles; first the one with most objects of the right kind.
    fn places(&self) -> Vec<&str> {
        let right = self
            .receptacles
            .iter()
            .map(String::as_str)
            .filter(|place| kind(place) == self.job.target);
        let mut places: Vec<&str> = right.collect();
        places.sort_by_key(|place| {
            let there =
                |(object, at): &(&String, &String)| kind(object) == self.job.object && at == place;
            std::cmp::Reverse(self.seen.iter().filter(there).count())
        });
        places
    }

    /// Puts down an object that the task does not need.
    fn drop(&self, object: &str, moment: &Moment) -> Option<String> {
        let put = format!("move {object} to ");
        moment
            .commands
            .iter()
            .find(|command| command.starts_with(&put))
            .map(|&command| command.to_owned())
    }

    /// Takes an object of the right kind, or goes to a receptacle where one was seen.
    fn fetch(&self, moment: &Moment) -> Option<String> {
        let done = self.places().first().copied().filter(|_| self.job.two);
        let wanted =
            |object: &str, place: &str| kind(object) == self.job.object && Some(place) != done;
        let take = moment.takes().find(|(object, place)| wanted(object, place));
        let take = take.map(|(object, place)| format!("take {object} from {place}"));
        take.or_else(|| {
            let (_, place) = self.seen.iter().find(|(object, place)| wanted(object, place))?;
            moment.allowed(format!("open {place}")).or_else(|| self.go(place, moment))
        })
    }

    /// Searches the next receptacle; starts over once all are searched.
    fn search(&mut self, moment: &Moment) -> Option<String> {
        if self.receptacles.iter().all(|receptacle| self.searched.contains(receptacle)) {
            self.searched.clear();
        }
        let unknown = |receptacle: &&str| !self.searched.contains(*receptacle);
        let here = moment.here.iter().copied().filter(unknown);
        let open = here.clone().find_map(|receptacle| moment.allowed(format!("open {receptacle}")));
        let examine =
            || here.clone().find_map(|receptacle| moment.allowed(format!("examine {receptacle}")));
        let names = self.receptacles.iter().map(String::as_str);
        let go = || names.filter(unknown).find_map(|receptacle| self.go(receptacle, moment));
        open.or_else(examine).or_else(go)
    }

    fn go(&self, receptacle: &str, moment: &Moment) -> Option<String> {
        moment.allowed(format!("go to {receptacle}"))
    }
}

/// The prefix of the names of receptacles that do a treatment.
fn appliance(treatment: &str) -> &'static str {
    match treatment {
        "clean" => "sink",
        "heat" => "microwave",
        _ => "fridge",
    }
}

/// The text before the sentence of the task in the first observation.
pub(crate) const TASK_MARKER: &str = "Your task is to: ";

/// Removes the number from a name.
fn kind(name: &str) -> &str {
    name.split_once(' ').map_or(name, |(kind, _)| kind)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Extracts the names in a text, such as `mug 1`.
fn names(text: &str) -> Vec<String> {
    let words: Vec<&str> = words(text).collect();
    let is_name = |pair: &&[&str]| {
        pair[0].chars().all(char::is_alphabetic) && pair[1].chars().all(|c| c.is_ascii_digit())
    };
    words.windows(2).filter(is_name).map(|pair| pair.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::env::alfworld::engine::library::Library;
    use crate::env::alfworld::engine::play::Play;
    use crate::env::alfworld::task::Split;
    use crate::env::household::generator::Generator;

    fn job(
        object: &str,
        target: &str,
        treatment: Option<&'static str>,
        in_light: bool,
        two: bool,
    ) -> Job {
        Job { object: object.to_owned(), target: target.to_owned(), treatment, in_light, two }
    }

    #[test]
    fn sentences_of_both_kinds_of_games_are_understood() {
        for (sentences, expected) in [
            (
                ["put a mug in shelf.", "put some mug on shelf."],
                job("mug", "shelf", None, false, false),
            ),
            (
                ["bring a mug to a shelf.", "find a mug and bring it to a shelf."],
                job("mug", "shelf", None, false, false),
            ),
            (
                ["look at pen under the desklamp.", "examine the pen with the desklamp."],
                job("pen", "desklamp", None, true, false),
            ),
            (
                ["look at a pen by the light of a lantern.", "hold a pen under a lit lantern."],
                job("pen", "lantern", None, true, false),
            ),
            (
                ["put a clean fork in drawer.", "clean an fork, then bring it to a drawer."],
                job("fork", "drawer", Some("clean"), false, false),
            ),
            (
                ["heat some egg and put it in fridge.", "bring a hot egg to a fridge."],
                job("egg", "fridge", Some("heat"), false, false),
            ),
            (
                ["put a cool pan in stoveburner.", "bring a cold pan to a stoveburner."],
                job("pan", "stoveburner", Some("cool"), false, false),
            ),
            (
                [
                    "find two cup and put them in cabinet.",
                    "bring a cup and another cup to the same cabinet.",
                ],
                job("cup", "cabinet", None, false, true),
            ),
        ] {
            for sentence in sentences {
                assert_eq!(Job::parse(sentence).as_ref(), Some(&expected), "{sentence}");
            }
        }
        let error = Expert::new("A room.\n\nYour task is to: tidy up.\n").unwrap_err();
        assert!(
            matches!(&error, AlfworldError::UnknownTask { sentence } if sentence == "tidy up."),
            "{error}"
        );
    }

    /// Plays a game and counts the actions; `disturb` may replace an action of the expert.
    fn play(
        split: Split,
        index: u64,
        limit: usize,
        disturb: &mut dyn FnMut(&[String]) -> Option<usize>,
    ) -> Option<usize> {
        static GENERATOR: LazyLock<Generator> =
            LazyLock::new(|| Generator::new(Default::default()).unwrap());
        let made = GENERATOR.game(split, index);
        let game = Library::new().parse(&made.name, &made.text).unwrap();
        let mut play = Play::new(game.clone());
        let mut observation = game.first_observation().to_owned();
        let mut expert = Expert::new(&observation).unwrap();
        for step in 1..=limit {
            let admissible: Vec<String> = play.admissible().map(str::to_owned).collect();
            let action = match disturb(&admissible) {
                Some(other) => admissible[other].clone(),
                None => expert.next(&observation, &admissible),
            };
            let outcome = play.step(&action).unwrap();
            assert!(outcome.valid, "{}: {action}", made.name);
            if outcome.won {
                return Some(step);
            }
            observation = outcome.observation;
        }
        None
    }

    #[test]
    fn every_household_game_is_won() {
        for split in Split::ALL {
            let lengths: Vec<_> =
                (0..120).map(|index| play(split, index, 50, &mut |_| None)).collect();
            assert!(lengths.iter().all(Option::is_some), "{split}: {lengths:?}");
        }
    }

    #[test]
    fn games_are_won_although_others_interfere() {
        let mut random = 1_u64;
        let mut draw = |n: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        let mut disturb = |commands: &[String]| (draw(3) == 0).then(|| draw(commands.len()));
        let lost: Vec<u64> = (0..120)
            .filter(|&index| play(Split::Train, index, 100, &mut disturb).is_none())
            .collect();
        assert_eq!(lost, [0; 0]);
    }
}
