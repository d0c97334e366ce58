//! Operators: ground actions, with an index that keeps the applicable ones up to date.
//!
//! Each literal lists the operators whose condition contains it. A changed fact therefore rechecks
//! only these operators, instead of all.

use crate::env::alfworld::engine::bits::{Bits, Rows};
use crate::env::alfworld::pddl::atom::ObjectId;

/// A fluent fact and its truth value, packed into one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Literal(u32);

impl Literal {
    pub(crate) fn new(fact: u32, value: bool) -> Self {
        Self(fact << 1 | u32::from(value))
    }

    fn opposite(self) -> Self {
        Self(self.0 ^ 1)
    }

    pub(crate) fn fact(self) -> u32 {
        self.0 >> 1
    }

    pub(crate) fn value(self) -> bool {
        self.0 & 1 == 1
    }

    pub(crate) fn holds(self, facts: &Bits) -> bool {
        facts.get(self.fact()) == self.value()
    }
}

/// A conjunction of literals.
pub(crate) type Conjunction = Vec<Literal>;

/// A conditional effect.
#[derive(Debug)]
pub(crate) struct Conditional {
    pub(crate) literal: Literal,
    /// The disjuncts of the condition.
    pub(crate) when: Vec<Conjunction>,
}

/// The operators of a game, one row per operator.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    /// The action of each operator.
    pub(crate) actions: Vec<u16>,
    pub(crate) args: Rows<ObjectId>,
    pub(crate) conditions: Rows<Literal>,
    /// The unconditional effects, add effects first.
    pub(crate) effects: Rows<Literal>,
    pub(crate) conditional: Rows<Conditional>,
    /// For each literal, the operators with it in their condition.
    needing: Rows<u32>,
}

impl Operators {
    /// The number of operators.
    pub(crate) fn len(&self) -> usize {
        self.actions.len()
    }

    /// Creates empty tables with room for `count` operators, their arguments and conditions.
    pub(crate) fn with_capacity(count: usize, args: usize, conditions: usize) -> Self {
        Self {
            actions: Vec::with_capacity(count),
            args: Rows::with_capacity(count, args),
            conditions: Rows::with_capacity(count, conditions + count),
            effects: Rows::with_capacity(count, 4 * count),
            conditional: Rows::with_capacity(count, 0),
            needing: Rows::default(),
        }
    }

    /// Completes the operator whose condition and effects were added.
    ///
    /// An operator without effects is dropped.
    pub(crate) fn finish(&mut self, action: u16, args: &[ObjectId]) {
        if self.effects.open().is_empty() && self.conditional.open().is_empty() {
            return self.conditions.cancel();
        }
        self.actions.push(action);
        self.args.push(args);
        self.conditions.close();
        self.effects.close();
        self.conditional.close();
    }

    /// Indexes the operators by the literals of their conditions.
    pub(crate) fn index(&mut self, facts: usize) {
        let pairs = (0..).zip(self.conditions.rows());
        let pairs =
            pairs.flat_map(|(operator, row)| row.iter().map(move |literal| (literal.0, operator)));
        self.needing = Rows::group(2 * facts, pairs);
        self.actions.shrink_to_fit();
        self.args.shrink();
        self.conditions.shrink();
        self.effects.shrink();
        self.conditional.shrink();
    }

    /// Finds the operators that are applicable in `facts`, from scratch.
    pub(crate) fn applicable(&self, facts: &Bits) -> Bits {
        let mut applicable = Bits::new(self.len());
        for (operator, row) in (0..).zip(self.conditions.rows()) {
            applicable.set(operator, row.iter().all(|literal| literal.holds(facts)));
        }
        applicable
    }

    fn is_applicable(&self, operator: u32, facts: &Bits) -> bool {
        self.conditions.row(operator as usize).iter().all(|literal| literal.holds(facts))
    }

    /// Applies an operator and updates `applicable`.
    pub(crate) fn apply(&self, operator: u32, facts: &mut Bits, applicable: &mut Bits) {
        let fires = |effect: &&Conditional| {
            effect.when.iter().any(|case| case.iter().all(|l| l.holds(facts)))
        };
        let firing = self.conditional.row(operator as usize).iter().filter(fires);
        let firing: Conjunction = firing.map(|effect| effect.literal).collect();
        let always = self.effects.row(operator as usize);
        for value in [false, true] {
            // Add effects come last: they win over delete effects of the same fact.
            for &literal in firing.iter().chain(always).filter(|literal| literal.value() == value) {
                self.change(literal, facts, applicable);
            }
        }
    }

    fn change(&self, literal: Literal, facts: &mut Bits, applicable: &mut Bits) {
        if literal.holds(facts) {
            return;
        }
        facts.set(literal.fact(), literal.value());
        for &operator in self.needing.row(literal.opposite().0 as usize) {
            applicable.set(operator, false);
        }
        for &operator in self.needing.row(literal.0 as usize) {
            applicable.set(operator, self.is_applicable(operator, facts));
        }
    }
}
