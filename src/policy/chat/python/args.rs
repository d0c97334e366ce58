//! Arguments of filters, tests, functions and methods, bound as Python binds them.

use crate::policy::chat::python::types::failed;
use minijinja::value::{from_args, Kwargs, Rest, ValueOrKwargs};
use minijinja::{Error, Value};

/// Positional and named arguments of a call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(String, Value)>,
}

impl Args {
    pub(crate) fn of(values: &[Value]) -> Result<Self, Error> {
        let (positional, kwargs): (&[Value], Kwargs) = from_args(values)?;
        let names: Vec<String> = kwargs.args().map(str::to_owned).collect();
        let mut named = Vec::with_capacity(names.len());
        for name in names {
            let value = kwargs.get::<Value>(&name)?;
            named.push((name, value));
        }
        Ok(Self { positional: positional.to_vec(), named })
    }

    pub(crate) fn rest(values: Rest<ValueOrKwargs>) -> Result<Self, Error> {
        let values: Vec<Value> = values.0.into_iter().map(ValueOrKwargs::into_value).collect();
        Self::of(&values)
    }

    pub(crate) fn one(value: Value) -> Self {
        Self { positional: vec![value], named: Vec::new() }
    }

    /// The values of the parameters `names`, of which the first `required` must be given.
    pub(crate) fn bind<const N: usize>(
        &self,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N], Error> {
        if self.positional.len() > N {
            let given = self.positional.len();
            return Err(failed(format!("too many arguments: {given} were given, {N} are known")));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(&self.positional) {
            *slot = Some(value.clone());
        }
        for (name, value) in &self.named {
            let at = names.iter().position(|known| known == name);
            let at = at.ok_or_else(|| failed(format!("unknown keyword argument {name}")))?;
            if bound[at].replace(value.clone()).is_some() {
                return Err(failed(format!("the argument {name} was given twice")));
            }
        }
        if let Some(missing) = (0..required).find(|&i| bound[i].is_none()) {
            return Err(failed(format!("missing argument: {}", names[missing])));
        }
        Ok(bound)
    }

    /// Refuses named arguments and checks the number of the others.
    pub(crate) fn only(&self, least: usize, most: usize) -> Result<&[Value], Error> {
        if let Some((name, _)) = self.named.first() {
            return Err(failed(format!("unknown keyword argument {name}")));
        }
        let given = self.positional.len();
        if given < least || given > most {
            return Err(failed(format!("{given} arguments were given, {least} to {most} fit")));
        }
        Ok(&self.positional)
    }
}
