//! The Jinja environment of chat templates, set up as in transformers.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::filters::registry;
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::Global;
use crate::policy::chat::python::{filters, globals, methods, operators, tests};
use crate::policy::chat::source::Name;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, Output, State, Value};

/// Most steps of a template; one that runs longer, such as an endless loop, is an error.
const FUEL: u64 = 50_000_000;

pub(crate) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::empty();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(methods::unknown_method);
    environment.set_formatter(format);
    environment.set_fuel(Some(FUEL));
    for name in operators::NAMES {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            operators::call(name, state, &Args::rest(args)?)
        });
    }
    for name in registry::NAMES.into_iter().chain(["xmlattr"]) {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            filters::call(name, state, &Args::rest(args)?)
        });
    }
    for name in globals::NAMES {
        environment.add_global(name, Value::from_object(Global(name)));
    }
    Ok(environment)
}

/// Tells if a filter or a test exists.
pub(crate) fn knows(name: Name<'_>) -> bool {
    match name {
        Name::Filter(name) => filters::knows(name),
        Name::Test(name) => tests::knows(name),
    }
}

/// Prints a value as Python does.
fn format(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    out.write_str(&text(value)?).map_err(Error::from)
}
