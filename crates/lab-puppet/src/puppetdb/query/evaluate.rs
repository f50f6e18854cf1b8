//! Carrying out a parsed query on the store. No I/O.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::entity::Row;
use super::{Comparison, Expr, Field, Query, Values};
use crate::puppetdb::store::Store;

/// The rows of a query, and how many there are without paging. They are those of active nodes, unless the query or a
/// subquery has a condition on `node_state`.
pub(super) fn run(query: &Query, store: &Store) -> (Vec<Value>, usize) {
    select(query, store, !names_node_state(query))
}

fn select(query: &Query, store: &Store, active_only: bool) -> (Vec<Value>, usize) {
    let filter = query.filter.as_ref().map(|filter| with_answers(filter, store));
    let named = filter.as_ref().and_then(certnames);
    let mut rows = query.entity.rows(store, named.as_ref(), active_only);
    rows.retain(|row| filter.as_ref().is_none_or(|filter| holds(filter, row, store)));
    for (field, descending) in query.paging.order_by.iter().rev() {
        rows.sort_by(|one, other| {
            let order = order(&value(one, field), &value(other, field)).unwrap_or(Ordering::Equal);
            if *descending { order.reverse() } else { order }
        });
    }
    let total = rows.len();
    let page = rows.into_iter().skip(query.paging.offset).take(query.paging.limit.unwrap_or(usize::MAX));
    let shown = page.map(|row| match &query.extract {
        None => Value::Object(row.into_fields()),
        Some(fields) => {
            let chosen = fields.iter().map(|field| (field.text.clone(), value(&row, field)));
            Value::Object(chosen.collect::<Map<_, _>>())
        }
    });
    (shown.collect(), total)
}

/// The condition with its subqueries carried out, once and not for each row.
fn with_answers(filter: &Expr, store: &Store) -> Expr {
    let all = |parts: &[Expr]| parts.iter().map(|part| with_answers(part, store)).collect();
    match filter {
        Expr::And(parts) => Expr::And(all(parts)),
        Expr::Or(parts) => Expr::Or(all(parts)),
        Expr::Not(inner) => Expr::Not(Box::new(with_answers(inner, store))),
        Expr::In(fields, Values::Query(query)) => {
            let (rows, _) = select(query, store, false);
            let wanted = query.extract.as_deref().unwrap_or_default();
            let text = |row: &Value| wanted.iter().map(|field| row[&field.text].clone()).collect::<Value>().to_string();
            Expr::In(fields.clone(), Values::Rows(rows.iter().map(text).collect()))
        }
        other => other.clone(),
    }
}

/// The only names for which the condition can hold; `None`: it may hold for any. Spares making the rows of all other nodes.
fn certnames(filter: &Expr) -> Option<BTreeSet<&str>> {
    let is_certname = |field: &Field| field.text == "certname";
    match filter {
        Expr::Compare(Comparison::Equal, field, Value::String(name)) if is_certname(field) => {
            Some([name.as_str()].into())
        }
        Expr::In(fields, Values::List(names)) if matches!(fields.as_slice(), [field] if is_certname(field)) => {
            Some(names.iter().filter_map(Value::as_str).collect())
        }
        Expr::And(parts) => parts.iter().filter_map(certnames).min_by_key(BTreeSet::len),
        Expr::Or(parts) => {
            let each: Option<Vec<_>> = parts.iter().map(certnames).collect();
            Some(each?.into_iter().flatten().collect())
        }
        _ => None,
    }
}

fn names_node_state(query: &Query) -> bool {
    fn in_filter(filter: &Expr) -> bool {
        match filter {
            Expr::NodeState(_) => true,
            Expr::And(parts) | Expr::Or(parts) => parts.iter().any(in_filter),
            Expr::Not(inner) => in_filter(inner),
            Expr::In(_, Values::Query(query)) => names_node_state(query),
            _ => false,
        }
    }
    query.filter.as_ref().is_some_and(in_filter)
}

fn holds(filter: &Expr, row: &Row<'_>, store: &Store) -> bool {
    match filter {
        Expr::And(parts) => parts.iter().all(|part| holds(part, row, store)),
        Expr::Or(parts) => parts.iter().any(|part| holds(part, row, store)),
        Expr::Not(inner) => !holds(inner, row, store),
        Expr::NodeState(state) => match state.as_str() {
            "active" => row.active,
            "inactive" => !row.active,
            _ => true,
        },
        Expr::Compare(comparison, field, wanted) => compares(*comparison, &value(row, field), wanted),
        Expr::Null(field, wanted) => value(row, field).is_null() == *wanted,
        Expr::Path(field, wanted) => {
            let path = value(row, field);
            let path = path.as_array().map(Vec::as_slice).unwrap_or_default();
            let is_like = |(held, wanted): (&Value, &Option<String>)| wanted.as_ref().is_none_or(|name| held == name);
            path.len() == wanted.len() && path.iter().zip(wanted).all(is_like)
        }
        Expr::In(fields, values) => is_in(fields, values, row),
        Expr::Fact(name, wanted) => row
            .get("certname")
            .and_then(|certname| store.nodes.get(certname.as_str()?)?.facts.get(name))
            .is_some_and(|held| held == wanted),
    }
}

fn is_in(fields: &[Field], values: &Values, row: &Row<'_>) -> bool {
    let held: Vec<Value> = fields.iter().map(|field| value(row, field)).collect();
    match values {
        Values::List(list) => held.iter().all(|held| list.contains(held)),
        Values::Rows(rows) => rows.contains(&Value::from(held).to_string()),
        // Was carried out before.
        Values::Query(_) => false,
    }
}

fn compares(comparison: Comparison, held: &Value, wanted: &Value) -> bool {
    let order = order(held, wanted);
    match comparison {
        Comparison::Equal => held == wanted || (order == Some(Ordering::Equal) && are_times(held, wanted)),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn are_times(one: &Value, other: &Value) -> bool {
    time(one).is_some() && time(other).is_some()
}

fn order(one: &Value, other: &Value) -> Option<Ordering> {
    if let (Some(one), Some(other)) = (time(one), time(other)) {
        return Some(one.cmp(&other));
    }
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn value(row: &Row<'_>, field: &Field) -> Value {
    let Some((first, below)) = field.path.split_first() else { return Value::Null };
    match row.get(first) {
        None => Value::Null,
        Some(value) if below.is_empty() => value.into_owned(),
        Some(value) => below.iter().try_fold(&*value, |value, key| value.get(key)).cloned().unwrap_or(Value::Null),
    }
}
