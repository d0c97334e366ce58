//! Python's types of minijinja's values, and objects for those that minijinja lacks.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::{dicts, globals, methods};
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A Python type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Undefined,
    None,
    Bool,
    Int,
    Float,
    Str,
    Bytes,
    List,
    Tuple,
    Dict,
    Range,
    View,
    Generator,
    Namespace,
    Loop,
    Macro,
    Other,
}

pub(crate) fn failed(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// The error of a type that an operation does not take.
pub(crate) fn wrong_type(operation: &str, value: &Value) -> Error {
    if value.is_undefined() {
        return Error::new(
            ErrorKind::UndefinedError,
            format!("{operation}: the value is undefined"),
        );
    }
    failed(format!("{operation} does not take {}", type_of(value).name()))
}

impl Type {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Undefined => "an undefined value",
            Self::None => "None",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Str => "str",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Tuple => "tuple",
            Self::Dict => "dict",
            Self::Range => "range",
            Self::View => "a view of a dict",
            Self::Generator => "a generator",
            Self::Namespace => "a namespace",
            Self::Loop => "a loop",
            Self::Macro => "a macro",
            Self::Other => "this object",
        }
    }
}

pub(crate) fn type_of(value: &Value) -> Type {
    match value.kind() {
        ValueKind::Undefined => Type::Undefined,
        ValueKind::None => Type::None,
        ValueKind::Bool => Type::Bool,
        ValueKind::Number if value.is_integer() => Type::Int,
        ValueKind::Number => Type::Float,
        ValueKind::String => Type::Str,
        ValueKind::Bytes => Type::Bytes,
        _ => value.as_object().map_or(Type::Other, |object| object_type(value, object)),
    }
}

fn object_type(value: &Value, object: &DynObject) -> Type {
    if value.is_tuple() {
        return Type::Tuple;
    }
    if object.is::<Range>() {
        return Type::Range;
    }
    if object.is::<View>() {
        return Type::View;
    }
    if object.is::<Generator>() {
        return Type::Generator;
    }
    let name = object.type_name();
    match value.kind() {
        _ if name.ends_with("::Loop") => Type::Loop,
        _ if name.ends_with("::Macro") => Type::Macro,
        _ if name.ends_with("::Namespace") => Type::Namespace,
        ValueKind::Seq | ValueKind::Iterable => Type::List,
        ValueKind::Map => Type::Dict,
        _ => Type::Other,
    }
}

/// A `range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: i64,
    pub(crate) stop: i64,
    pub(crate) step: i64,
}

impl Range {
    pub(crate) fn len(&self) -> usize {
        let (start, stop, step) =
            (i128::from(self.start), i128::from(self.stop), i128::from(self.step));
        let span = if step > 0 { stop - start } else { start - stop };
        let step = step.abs().max(1);
        usize::try_from((span + step - 1) / step).unwrap_or(0)
    }

    pub(crate) fn items(&self) -> Vec<Value> {
        (0..self.len() as i64).map(|i| Value::from(self.start + i * self.step)).collect()
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items().get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items())
    }
}

/// What `items()`, `keys()` and `values()` of a dict return.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: &'static str,
    pub(crate) items: Vec<Value>,
}

impl View {
    /// Tells if this is `values()`, which Python can hash.
    pub(crate) fn is_values(&self) -> bool {
        self.name == "dict_values"
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

/// What filters such as `map` return: items that can be read once.
#[derive(Debug)]
pub(crate) struct Generator(Mutex<VecDeque<Value>>);

impl Generator {
    pub(crate) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self(Mutex::new(items.into())))
    }

    pub(crate) fn next(&self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn rest(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.rest())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// A method that was read and not called.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) of: Value,
    pub(crate) name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        methods::call(&self.of, &self.name, &Args::of(args)?)
    }
}

/// A function or type among the globals.
#[derive(Debug)]
pub(crate) struct Global(pub(crate) &'static str);

impl Object for Global {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        globals::call(self.0, state, args)
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match (self.0, method) {
            ("dict", "fromkeys") => dicts::call(&Value::UNDEFINED, method, &Args::of(args)?),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// A `cycler`.
#[derive(Debug)]
pub(crate) struct Cycler {
    pub(crate) items: Vec<Value>,
    pub(crate) at: Mutex<usize>,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        match key.as_str()? {
            "current" => self.items.get(at).cloned(),
            "items" => Some(Value::from(minijinja::value::Tuple::from(self.items.clone()))),
            "pos" => Some(Value::from(at)),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        Args::of(args)?.only(0, 0)?;
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        match method {
            "next" => {
                let item = self.items[*at].clone();
                *at = (*at + 1) % self.items.len();
                Ok(item)
            }
            "reset" => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// A `joiner`: empty at its first call, the separator at all others.
#[derive(Debug)]
pub(crate) struct Joiner {
    pub(crate) separator: Value,
    pub(crate) used: Mutex<bool>,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "sep" => Some(self.separator.clone()),
            "used" => Some(Value::from(*self.used.lock().unwrap_or_else(PoisonError::into_inner))),
            _ => None,
        }
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        Args::of(args)?.only(0, 0)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *used, true) {
            Ok(self.separator.clone())
        } else {
            Ok(Value::from(""))
        }
    }
}

/// Text that is as safe as `like`: Python's `Markup` methods return `Markup`.
pub(crate) fn text_like(like: &Value, text: String) -> Value {
    if like.is_safe() {
        Value::from_safe_string(text)
    } else {
        Value::from(text)
    }
}

/// A named pair of a value and its list, as `groupby` yields.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) grouper: Value,
    pub(crate) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (_, Some(0)) => Some(self.grouper.clone()),
            (Some("list"), _) | (_, Some(1)) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}
