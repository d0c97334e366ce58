//! Tables of rooms, furniture and objects.

/// A room: its furniture, with the smallest and the largest number of each.
pub(crate) struct Room {
    pub(crate) name: &'static str,
    pub(crate) furniture: &'static [(&'static str, usize, usize)],
}

/// A kind of receptacle.
pub(crate) struct Furniture {
    pub(crate) name: &'static str,
    /// The predicates that hold for it, of `hinged`, `washes`, `heats` and `cools`.
    pub(crate) traits: &'static str,
}

/// A kind of portable object, or of lamp.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) rooms: &'static str,
    /// The furniture that can hold it.
    pub(crate) places: &'static str,
    /// The predicates that hold for it, of `washable`, `heatable` and `coolable`.
    pub(crate) traits: &'static str,
    /// `true` if only the split `valid_unseen` has it.
    pub(crate) held_out: bool,
}

impl Kind {
    pub(crate) fn is_in(&self, room: &Room) -> bool {
        has_word(self.rooms, room.name)
    }

    pub(crate) fn suits(&self, furniture: &Furniture) -> bool {
        has_word(self.places, furniture.name)
    }
}

/// Tests if `words` contains `word`.
pub(crate) fn has_word(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Returns the index of a name in [`FURNITURE`].
///
/// A test checks that every name used in [`ROOMS`] is there.
pub(crate) fn furniture(name: &str) -> usize {
    FURNITURE.iter().position(|furniture| furniture.name == name).unwrap_or_default()
}

pub(crate) const ROOMS: [Room; 5] = [
    Room {
        name: "kitchen",
        furniture: &[
            ("countertop", 1, 2),
            ("cabinet", 2, 4),
            ("drawer", 1, 3),
            ("table", 1, 2),
            ("fridge", 1, 1),
            ("microwave", 1, 1),
            ("sink", 1, 1),
            ("stove", 0, 1),
            ("bin", 0, 1),
        ],
    },
    Room {
        name: "bathroom",
        furniture: &[
            ("sink", 1, 2),
            ("cabinet", 1, 3),
            ("shelf", 1, 2),
            ("bathtub", 1, 1),
            ("drawer", 0, 2),
            ("basket", 0, 1),
            ("stool", 0, 1),
        ],
    },
    Room {
        name: "bedroom",
        furniture: &[
            ("bed", 1, 1),
            ("nightstand", 1, 2),
            ("drawer", 1, 4),
            ("dresser", 1, 1),
            ("wardrobe", 1, 1),
            ("desk", 0, 1),
            ("shelf", 0, 2),
        ],
    },
    Room {
        name: "parlour",
        furniture: &[
            ("sofa", 1, 1),
            ("armchair", 1, 2),
            ("table", 1, 2),
            ("shelf", 1, 3),
            ("cabinet", 0, 2),
            ("nightstand", 0, 1),
            ("basket", 0, 1),
        ],
    },
    Room {
        name: "study",
        furniture: &[
            ("desk", 1, 2),
            ("shelf", 1, 3),
            ("drawer", 1, 3),
            ("cabinet", 0, 2),
            ("armchair", 0, 1),
            ("bin", 1, 1),
            ("stool", 0, 1),
        ],
    },
];

pub(crate) const FURNITURE: [Furniture; 20] = [
    piece("countertop", ""),
    piece("cabinet", "hinged"),
    piece("drawer", "hinged"),
    piece("table", ""),
    piece("fridge", "hinged cools"),
    piece("microwave", "hinged heats"),
    piece("sink", "washes"),
    piece("stove", ""),
    piece("bin", ""),
    piece("shelf", ""),
    piece("bathtub", ""),
    piece("basket", ""),
    piece("stool", ""),
    piece("bed", ""),
    piece("nightstand", ""),
    piece("dresser", ""),
    piece("wardrobe", "hinged"),
    piece("desk", ""),
    piece("sofa", ""),
    piece("armchair", ""),
];

/// Lamps stand on furniture and cannot be carried.
pub(crate) const LAMPS: [Kind; 3] = [
    kind("desklamp", "bedroom parlour study", "desk nightstand dresser table shelf", ""),
    kind("lantern", "bedroom parlour study", "shelf table nightstand desk", ""),
    kind("spotlight", "bedroom parlour study", "shelf dresser desk table", ""),
];

pub(crate) const KINDS: [Kind; 40] = [
    kind("apple", "kitchen", "countertop table fridge microwave bin", "washable heatable coolable"),
    kind(
        "potato",
        "kitchen",
        "countertop table fridge microwave sink",
        "washable heatable coolable",
    ),
    kind("tomato", "kitchen", "countertop table fridge microwave", "washable heatable coolable"),
    kind("carrot", "kitchen", "countertop fridge sink bin table", "washable heatable coolable"),
    kind("egg", "kitchen", "countertop fridge microwave table", "washable heatable coolable"),
    kind("bun", "kitchen", "countertop table cabinet fridge microwave", "heatable coolable"),
    kind("mug", "kitchen", "countertop table cabinet microwave sink", "washable heatable coolable"),
    kind(
        "bowl",
        "kitchen",
        "countertop table cabinet fridge microwave",
        "washable heatable coolable",
    ),
    kind(
        "plate",
        "kitchen",
        "countertop table cabinet microwave sink",
        "washable heatable coolable",
    ),
    kind("pan", "kitchen", "stove countertop cabinet sink table", "washable coolable"),
    kind("fork", "kitchen", "drawer table countertop sink", "washable"),
    kind("spoon", "kitchen", "drawer table countertop sink", "washable"),
    kind("knife", "kitchen", "drawer table countertop sink", "washable"),
    kind("bottle", "kitchen", "fridge cabinet table bin countertop", "washable coolable"),
    held_out(
        "pear",
        "kitchen",
        "countertop table fridge microwave bin",
        "washable heatable coolable",
    ),
    held_out(
        "jug",
        "kitchen",
        "countertop table cabinet fridge microwave",
        "washable heatable coolable",
    ),
    held_out("ladle", "kitchen", "drawer table countertop sink", "washable"),
    kind("sponge", "kitchen bathroom", "sink countertop cabinet drawer bathtub", "washable"),
    kind("towel", "bathroom", "shelf basket cabinet stool bathtub", "washable"),
    kind("cloth", "bathroom", "drawer cabinet bathtub basket sink", "washable"),
    kind("soap", "bathroom", "sink bathtub cabinet shelf drawer", "washable"),
    kind("comb", "bathroom bedroom", "shelf drawer sink dresser cabinet", "washable"),
    kind(
        "candle",
        "bathroom parlour bedroom",
        "shelf bathtub cabinet table nightstand dresser drawer",
        "",
    ),
    kind("shampoo", "bathroom", "shelf bathtub cabinet stool", ""),
    held_out("brush", "bathroom", "shelf bathtub drawer sink cabinet stool", "washable"),
    held_out("lotion", "bathroom bedroom", "shelf drawer cabinet stool dresser nightstand", ""),
    kind(
        "book",
        "bedroom parlour study",
        "shelf desk bed nightstand sofa table armchair drawer",
        "",
    ),
    kind("pen", "bedroom study", "desk drawer nightstand shelf bin", ""),
    kind("pencil", "bedroom study", "desk drawer shelf dresser bin", ""),
    kind("watch", "bedroom parlour", "nightstand drawer dresser table shelf", ""),
    kind("phone", "bedroom parlour study", "desk bed nightstand sofa table armchair dresser", ""),
    kind("key", "bedroom parlour study", "drawer desk table nightstand shelf armchair sofa", ""),
    kind("pillow", "bedroom parlour", "bed sofa armchair wardrobe basket", ""),
    kind("shirt", "bedroom", "wardrobe drawer bed dresser", ""),
    kind("vase", "parlour bedroom study", "table shelf dresser cabinet desk nightstand", ""),
    kind("laptop", "bedroom study parlour", "desk bed sofa table stool", ""),
    kind("letter", "study parlour", "desk table drawer bin cabinet shelf", ""),
    held_out(
        "wallet",
        "bedroom parlour study",
        "drawer desk table nightstand sofa armchair bed",
        "",
    ),
    held_out(
        "notebook",
        "bedroom parlour study",
        "desk shelf drawer table bed armchair cabinet",
        "",
    ),
    held_out("scarf", "bedroom parlour", "wardrobe bed sofa drawer armchair basket", ""),
];

const fn piece(name: &'static str, traits: &'static str) -> Furniture {
    Furniture { name, traits }
}

const fn kind(
    name: &'static str,
    rooms: &'static str,
    places: &'static str,
    traits: &'static str,
) -> Kind {
    Kind { name, rooms, places, traits, held_out: false }
}

const fn held_out(
    name: &'static str,
    rooms: &'static str,
    places: &'static str,
    traits: &'static str,
) -> Kind {
    Kind { name, rooms, places, traits, held_out: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_name_only_what_they_have_and_nothing_twice() {
        let furniture: Vec<_> = FURNITURE.iter().map(|piece| piece.name).collect();
        let rooms: Vec<_> = ROOMS.iter().map(|room| room.name).collect();
        let things = || LAMPS.iter().chain(&KINDS);
        let in_rooms = ROOMS.iter().flat_map(|room| room.furniture).map(|(name, ..)| *name);
        let places = things().flat_map(|kind| kind.places.split(' '));
        for name in in_rooms.clone().chain(places) {
            assert!(furniture.contains(&name), "{name}");
        }
        assert!(things().flat_map(|kind| kind.rooms.split(' ')).all(|name| rooms.contains(&name)));
        assert!(
            furniture.iter().all(|name| in_rooms.clone().any(|used| used == *name)),
            "unused furniture"
        );
        let mut names: Vec<_> = things().map(|kind| kind.name).chain(furniture).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn every_kind_has_two_places_in_each_of_its_rooms() {
        for kind in LAMPS.iter().chain(&KINDS) {
            for room in ROOMS.iter().filter(|room| kind.is_in(room)) {
                let places =
                    room.furniture.iter().filter(|(name, ..)| has_word(kind.places, name)).count();
                assert!(places >= 2, "{} in the {}", kind.name, room.name);
            }
        }
    }
}
