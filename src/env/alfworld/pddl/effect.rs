//! Effects of actions.

use crate::env::alfworld::error::Result;
use crate::env::alfworld::pddl::atom::Atom;
use crate::env::alfworld::pddl::condition::{Case, Scope};
use crate::env::alfworld::pddl::sexpr::Node;

/// The largest number of effects of one action.
const MAX_EFFECTS: usize = 256;

/// An atom that an action makes true (an add effect) or false (a delete effect).
pub(crate) struct Effect {
    pub(crate) atom: Atom,
    pub(crate) add: bool,
    /// The disjuncts of the condition under which it happens; `None` if it always does.
    pub(crate) when: Option<Vec<Case>>,
}

/// Reads the effects in `node`, all of them under the condition `when`.
pub(crate) fn read_effects<'s>(
    scope: &mut Scope<'_, 's>,
    node: Node<'s>,
    when: Option<&[Case]>,
    effects: &mut Vec<Effect>,
) -> Result<()> {
    if node.items()?.next().is_none() {
        return Ok(());
    }
    let (head, mut items) = node.headed()?;
    match head {
        "and" => items.try_for_each(|item| read_effects(scope, item, when, effects)),
        "increase" => Ok(()), // Costs do not matter to a player.
        "when" if when.is_none() => {
            let (Some(condition), Some(effect), None) = (items.next(), items.next(), items.next())
            else {
                return Err(node.error("`when` takes a condition and an effect"));
            };
            let cases = scope.cases(condition, true)?;
            if cases.iter().any(|case| !case.exists.is_empty()) {
                let reason = "`exists` is not supported in the condition of an effect";
                return Err(condition.error(reason));
            }
            read_effects(scope, effect, Some(&cases), effects)
        }
        "when" | "forall" => Err(node.error(format!("`{head}` is not supported here"))),
        _ => {
            if effects.len() == MAX_EFFECTS {
                return Err(node.error(format!("more than {MAX_EFFECTS} effects")));
            }
            effects.push(read_effect(scope, node, when)?);
            Ok(())
        }
    }
}

fn read_effect<'s>(
    scope: &mut Scope<'_, 's>,
    node: Node<'s>,
    when: Option<&[Case]>,
) -> Result<Effect> {
    let (head, mut items) = node.headed()?;
    let (literal, add) = match (head, items.next()) {
        ("not", Some(inner)) => (inner, false),
        _ => (node, true),
    };
    let atom = scope.atom(literal)?;
    // Variables of `exists` are not visible here, so every variable is a parameter.
    let is_declared = |var: u16| usize::from(var) < scope.vars.len();
    debug_assert!(atom.terms.iter().all(|term| term.as_var().is_none_or(is_declared)));
    Ok(Effect { atom, add, when: when.map(<[Case]>::to_vec) })
}
