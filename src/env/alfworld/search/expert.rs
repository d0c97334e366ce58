//! An expert that searches: it knows what a player knows, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::alfworld::error::{AlfworldError, Result};

/// Words of task sentences that name neither the thing nor the place.
const FUNCTION_WORDS: &str =
    "a an and another at both bring by clean cold cool examine find heat hold hot in it light \
                              lit look of on one put same some the them then to two under with";
/// Receptacles with doors, which cost a step more to look into; those of which there are many in front.
const DOORS: [&str; 6] = ["cabinet", "drawer", "safe", "wardrobe", "fridge", "microwave"];
/// How many kinds in [`DOORS`] there can be many of.
const MANY: usize = 2;

/// What is to be done, as the task's sentence says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    /// The kind of thing.
    thing: String,
    /// The kind of receptacle that it is to be brought to, or the kind of lamp.
    target: String,
    /// What it is to undergo before: `clean`, `heat` or `cool`.
    treatment: Option<&'static str>,
    in_light: bool,
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
        names.dedup(); // a mug and another mug
        let [thing, target] = names[..] else { return None };
        let treatments: [(_, &[&str]); 3] =
            [("clean", &["clean"]), ("heat", &["heat", "hot"]), ("cool", &["cool", "cold"])];
        Some(Self {
            thing: thing.to_owned(),
            target: target.to_owned(),
            treatment: treatments.iter().find(|(_, words)| has(words)).map(|(verb, _)| *verb),
            in_light: has(&["look", "examine", "light", "lit"]),
            two: has(&["two", "another"]),
        })
    }

    /// The less, the sooner a receptacle of a kind is searched.
    fn reluctance(&self, receptacle: &str) -> u32 {
        let is_target = receptacle == self.target && !self.two && self.treatment.is_none();
        let door = DOORS.iter().position(|door| *door == receptacle);
        3 * u32::from(is_target) + door.map_or(0, |door| if door < MANY { 2 } else { 1 })
    }
}

/// Plays by searching: it goes from receptacle to receptacle until it has seen what the task needs.
///
/// It sees the first observation, later observations and the admissible commands; never a game's state. It keeps
/// no account of its own actions, so others may be played in between.
#[derive(Debug, Clone)]
pub struct Expert {
    job: Job,
    /// The receptacles, those to search first in front.
    receptacles: Vec<String>,
    /// The receptacles whose contents are known.
    searched: BTreeSet<String>,
    /// Where things were seen last.
    seen: BTreeMap<String, String>,
    /// The thing that underwent the treatment.
    treated: Option<String>,
}

/// What the admissible commands say about the moment.
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
        let (here, things): (Vec<_>, Vec<_>) = examined.partition(is_receptacle);
        Self { here, held: things.first().copied(), commands }
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

    /// The things within reach and their receptacles.
    fn takes(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.commands
            .iter()
            .filter_map(|command| command.strip_prefix("take ")?.split_once(" from "))
    }
}

impl Expert {
    /// Reads the task and the receptacles in a game's first observation.
    ///
    /// # Errors
    /// [`AlfworldError::UnknownTask`] if the task's sentence is none of those that ALFWorld and the household games
    /// use, or names a place that there is not.
    pub fn new(first_observation: &str) -> Result<Self> {
        let (room, sentence) =
            first_observation.split_once(TASK_MARKER).unwrap_or(("", first_observation));
        let mut receptacles = names(room);
        let is_known =
            |job: &Job| job.in_light || receptacles.iter().any(|name| kind(name) == job.target);
        let unknown = || AlfworldError::UnknownTask { sentence: sentence.trim().to_owned() };
        let job = Job::parse(sentence).filter(is_known).ok_or_else(unknown)?;
        receptacles.sort_by_cached_key(|receptacle| job.reluctance(kind(receptacle)));
        let (searched, seen, treated) = (BTreeSet::new(), BTreeMap::new(), None);
        Ok(Self { job, receptacles, searched, seen, treated })
    }

    /// The next action, after `observation` and with the commands that are `admissible` now.
    pub fn next(&mut self, observation: &str, admissible: &[impl AsRef<str>]) -> String {
        let commands = admissible.iter().map(AsRef::as_ref).collect();
        let receptacles = std::mem::take(&mut self.receptacles);
        let moment = Moment::new(commands, &receptacles);
        self.receptacles.clone_from(&receptacles);
        self.learn(observation, &moment);
        let action = match moment.held {
            Some(thing) if kind(thing) == self.job.thing => self.carry(thing, &moment),
            Some(thing) => self.drop(thing, &moment),
            None => self.fetch(&moment),
        };
        action.or_else(|| self.search(&moment)).unwrap_or_else(|| "look".to_owned())
    }

    fn learn(&mut self, observation: &str, moment: &Moment) {
        let told = names(observation);
        if let (Some(verb), Some(thing)) = (self.job.treatment, told.first()) {
            let is_done = |verb| observation.starts_with(&format!("You {verb} "));
            if is_done(verb) {
                self.treated = Some(thing.clone());
            } else if verb != "clean" && (is_done("heat") || is_done("cool")) {
                self.treated.take_if(|treated| treated == thing);
            }
        }
        for &receptacle in moment.here.iter().filter(|receptacle| !moment.is_closed(receptacle)) {
            let is_told = told.first().is_some_and(|first| first == receptacle);
            if is_told || moment.held.is_none() {
                self.searched.insert(receptacle.to_owned());
                self.seen.retain(|_, place| place != receptacle);
            }
            if is_told {
                let things = told.iter().filter(|thing| !self.receptacles.contains(thing));
                self.seen.extend(things.map(|thing| (thing.clone(), receptacle.to_owned())));
            }
        }
        self.seen.extend(moment.takes().map(|(thing, place)| (thing.to_owned(), place.to_owned())));
        if let Some(held) = moment.held {
            self.seen.remove(held);
        }
        let lamps = moment.commands.iter().filter_map(|command| command.strip_prefix("use "));
        if let Some(&place) = moment.here.first() {
            self.seen.extend(lamps.map(|lamp| (lamp.to_owned(), place.to_owned())));
        }
    }

    /// What to do with a thing of the right kind in hand.
    fn carry(&self, thing: &str, moment: &Moment) -> Option<String> {
        if self.job.in_light {
            let lit = |command: &&&str| {
                command.strip_prefix("use ").is_some_and(|lamp| kind(lamp) == self.job.target)
            };
            let lamp = self.seen.iter().find(|(name, _)| kind(name) == self.job.target);
            let lit = moment.commands.iter().find(lit).map(|&command| command.to_owned());
            return lit.or_else(|| self.go(lamp?.1, moment));
        }
        if let Some(verb) = self.job.treatment.filter(|_| self.treated.as_deref() != Some(thing)) {
            let treat = format!("{verb} {thing} with ");
            let treat = moment.commands.iter().find(|command| command.starts_with(&treat));
            let appliance = self.receptacles.iter().find(|name| name.starts_with(appliance(verb)));
            return treat
                .map(|&command| command.to_owned())
                .or_else(|| self.go(appliance?, moment));
        }
        let mut places = self.places();
        if !self.job.two {
            // One within reach, or one without a door.
            places
                .sort_by_key(|place| (!moment.here.contains(place), DOORS.contains(&kind(place))));
        }
        let place = places.first()?;
        let put = moment.allowed(format!("move {thing} to {place}"));
        put.or_else(|| moment.allowed(format!("open {place}"))).or_else(|| self.go(place, moment))
    }

    /// The receptacles that things are to be brought to; first the one with most of them.
    fn places(&self) -> Vec<&str> {
        let right = self
            .receptacles
            .iter()
            .map(String::as_str)
            .filter(|place| kind(place) == self.job.target);
        let mut places: Vec<&str> = right.collect();
        places.sort_by_key(|place| {
            let there =
                |(thing, at): &(&String, &String)| kind(thing) == self.job.thing && at == place;
            std::cmp::Reverse(self.seen.iter().filter(there).count())
        });
        places
    }

    /// Puts down what is of no use.
    fn drop(&self, thing: &str, moment: &Moment) -> Option<String> {
        let put = format!("move {thing} to ");
        moment
            .commands
            .iter()
            .find(|command| command.starts_with(&put))
            .map(|&command| command.to_owned())
    }

    /// Takes a thing of the right kind, or goes to where one was seen.
    fn fetch(&self, moment: &Moment) -> Option<String> {
        let done = self.places().first().copied().filter(|_| self.job.two);
        let wanted =
            |thing: &str, place: &str| kind(thing) == self.job.thing && Some(place) != done;
        let take = moment.takes().find(|(thing, place)| wanted(thing, place));
        let take = take.map(|(thing, place)| format!("take {thing} from {place}"));
        take.or_else(|| {
            let (_, place) = self.seen.iter().find(|(thing, place)| wanted(thing, place))?;
            moment.allowed(format!("open {place}")).or_else(|| self.go(place, moment))
        })
    }

    /// Looks into the next receptacle; once all are known, begins anew.
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

/// The receptacles that do it have names that begin so.
fn appliance(treatment: &str) -> &'static str {
    match treatment {
        "clean" => "sink",
        "heat" => "microwave",
        _ => "fridge",
    }
}

/// What stands before the task's sentence in the first observation.
pub(crate) const TASK_MARKER: &str = "Your task is to: ";

/// A name without its number.
fn kind(name: &str) -> &str {
    name.split_once(' ').map_or(name, |(kind, _)| kind)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The names in a text, such as `mug 1`.
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
        thing: &str,
        target: &str,
        treatment: Option<&'static str>,
        in_light: bool,
        two: bool,
    ) -> Job {
        Job { thing: thing.to_owned(), target: target.to_owned(), treatment, in_light, two }
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

    /// How many actions the expert needs; before each one of its own, `disturb` may play one of others.
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
