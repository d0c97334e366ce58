//! Filters that group, sort and choose items.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::{equal, order, sort};
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::filters::choice::attribute;
use crate::policy::chat::python::filters::registry::ignore_case;
use crate::policy::chat::python::numbers::expect_index;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Generator, Group, Type};
use minijinja::{Error, Value};

pub(crate) fn call(name: &str, args: &Args) -> Result<Value, Error> {
    match name {
        "batch" => batch(args),
        "slice" => slice(args),
        "dictsort" => dictsort(args),
        "groupby" => groupby(args),
        "sort" => sorted(args),
        "unique" => unique(args),
        _ => extreme(name, args),
    }
}

fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

fn batch(args: &Args) -> Result<Value, Error> {
    let [value, size, fill] = args.bind(["value", "linecount", "fill_with"], 2)?;
    let size = size.unwrap_or_default();
    let fill = fill.filter(|fill| !fill.is_none());
    let mut out = Vec::new();
    let mut row: Vec<Value> = Vec::new();
    for item in items(&value.unwrap_or_default())? {
        if equal(&Value::from(row.len()), &size) {
            out.push(Value::from(std::mem::take(&mut row)));
        }
        row.push(item);
    }
    if !row.is_empty() {
        if let Some(fill) = fill {
            let size = expect_index(&size, "batch")?.min(1 << 20);
            let size = usize::try_from(size).unwrap_or(0);
            while row.len() < size {
                row.push(fill.clone());
            }
        }
        out.push(Value::from(row));
    }
    Ok(Generator::value(out))
}

fn slice(args: &Args) -> Result<Value, Error> {
    let [value, slices, fill] = args.bind(["value", "slices", "fill_with"], 2)?;
    let all = items(&value.unwrap_or_default())?;
    let slices = expect_index(&slices.unwrap_or_default(), "slice")?;
    if slices == 0 || slices > 1 << 20 {
        return Err(failed("slice: the number of slices is zero or too large"));
    }
    let slices = usize::try_from(slices).unwrap_or(0);
    let fill = fill.filter(|fill| !fill.is_none());
    let mut out = Vec::new();
    let mut at = 0;
    for i in 0..slices {
        let longer = i < all.len() % slices;
        let end = at + all.len() / slices + usize::from(longer);
        let mut part = all[at..end].to_vec();
        if !longer {
            part.extend(fill.clone());
        }
        out.push(Value::from(part));
        at = end;
    }
    Ok(Generator::value(out))
}

fn dictsort(args: &Args) -> Result<Value, Error> {
    let [value, case, by, reverse] = args.bind(["value", "case_sensitive", "by", "reverse"], 1)?;
    let value = value.unwrap_or_default();
    let position = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => 0,
        Some(Some("value")) => 1,
        Some(_) => return Err(failed("dictsort: by must be \"key\" or \"value\"")),
    };
    if type_of(&value) != Type::Dict {
        return Err(wrong_type("dictsort", &value));
    }
    let case = is_true(case.as_ref());
    let mut keyed = Vec::new();
    for entry in dicts::entries(&value)? {
        let key = if position == 0 { entry.0.clone() } else { entry.1.clone() };
        keyed.push((if case { key } else { ignore_case(key) }, dicts::pair(entry)));
    }
    sort(&mut keyed, is_true(reverse.as_ref()), |(key, _)| key)?;
    Ok(Value::from(keyed.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>()))
}

/// Items with their keys of a comparison.
fn keyed(
    all: Vec<Value>,
    path: Option<&Value>,
    default: Option<&Value>,
    case: bool,
) -> Result<Vec<(Value, Value)>, Error> {
    let mut out = Vec::with_capacity(all.len());
    for item in all {
        let key = match path.filter(|path| !path.is_none()) {
            Some(path) => attribute(&item, path, default)?,
            None => item.clone(),
        };
        out.push((if case { key } else { ignore_case(key) }, item));
    }
    Ok(out)
}

fn groupby(args: &Args) -> Result<Value, Error> {
    let [value, path, default, case] =
        args.bind(["value", "attribute", "default", "case_sensitive"], 2)?;
    let path = path.unwrap_or_default();
    let case = is_true(case.as_ref());
    let all = items(&value.unwrap_or_default())?;
    let mut rows = keyed(all, Some(&path), default.as_ref(), case)?;
    sort(&mut rows, false, |(key, _)| key)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in rows {
        match groups.last_mut() {
            Some((known, list)) if equal(known, &key) => list.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut out = Vec::new();
    for (_, list) in groups {
        let grouper = attribute(&list[0], &path, default.as_ref())?;
        out.push(Value::from_object(Group { grouper, list: Value::from(list) }));
    }
    Ok(Value::from(out))
}

fn sorted(args: &Args) -> Result<Value, Error> {
    let [value, reverse, case, path] =
        args.bind(["value", "reverse", "case_sensitive", "attribute"], 1)?;
    let case = is_true(case.as_ref());
    let all = items(&value.unwrap_or_default())?;
    let paths: Vec<Value> = match path.as_ref().map(|path| (path, path.as_str())) {
        Some((_, Some(text))) => text.split(',').map(Value::from).collect(),
        Some((path, None)) => vec![path.clone()],
        None => vec![Value::from(())],
    };
    let mut rows = Vec::new();
    for item in all {
        let mut key = Vec::new();
        for path in &paths {
            key.extend(keyed(vec![item.clone()], Some(path), None, case)?.into_iter().map(|r| r.0));
        }
        rows.push((Value::from(key), item));
    }
    sort(&mut rows, is_true(reverse.as_ref()), |(key, _)| key)?;
    Ok(Value::from(rows.into_iter().map(|(_, item)| item).collect::<Vec<_>>()))
}

fn unique(args: &Args) -> Result<Value, Error> {
    let [value, case, path] = args.bind(["value", "case_sensitive", "attribute"], 1)?;
    let all = items(&value.unwrap_or_default())?;
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for (key, item) in keyed(all, path.as_ref(), None, is_true(case.as_ref()))? {
        dicts::hashable(&key)?;
        if !seen.iter().any(|known| equal(known, &key)) {
            seen.push(key);
            out.push(item);
        }
    }
    Ok(Generator::value(out))
}

fn extreme(name: &str, args: &Args) -> Result<Value, Error> {
    let [value, case, path] = args.bind(["value", "case_sensitive", "attribute"], 1)?;
    let all = items(&value.unwrap_or_default())?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(all, path.as_ref(), None, is_true(case.as_ref()))? {
        let better = match &best {
            None => true,
            Some((known, _)) => {
                let order = order(&key, known)?;
                order.is_some_and(|order| if name == "max" { order.is_gt() } else { order.is_lt() })
            }
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}
