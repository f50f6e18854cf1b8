//! PuppetDB's AST: queries as JSON arrays. No I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/query/v4/ast.html>)

use serde_json::Value;

use super::entity::Entity;
use super::{Comparison, Expr, Field, Paging, Query, Values};

/// `["from", entity, …]`, the form of the root endpoint and of subqueries.
pub(super) fn from(query: &Value) -> Result<Query, String> {
    match list(query)? {
        [operator, Value::String(entity), rest @ ..] if operator == "from" => {
            let known = Entity::named(entity)
                .ok_or_else(|| format!("Invalid query: the entity '{entity}' is not simulated"))?;
            match rest {
                [] => self::query(known, &Value::Null),
                [inner] => self::query(known, inner),
                [inner, options @ ..] => {
                    let mut query = self::query(known, inner)?;
                    for option in options {
                        paging(&mut query, option)?;
                    }
                    Ok(query)
                }
            }
        }
        _ => Err(unusable(query)),
    }
}

/// A query on a known entity: `["extract", fields, filter]`, a filter, or null for everything.
pub(super) fn query(entity: Entity, query: &Value) -> Result<Query, String> {
    let plain = |extract, filter| Query { entity, extract, filter, paging: Paging::default() };
    if query.is_null() {
        return Ok(plain(None, None));
    }
    match list(query)? {
        [] => Ok(plain(None, None)),
        [operator, fields, rest @ ..] if operator == "extract" => {
            let fields = Some(fields_of(entity, fields)?);
            match rest {
                [] => Ok(plain(fields, None)),
                [filter] => Ok(plain(fields, Some(expression(entity, filter)?))),
                _ => Err(unusable(query)),
            }
        }
        _ => Ok(plain(None, Some(expression(entity, query)?))),
    }
}

/// `[{"field": …, "order": "desc"}]` or `[["field", "desc"], …]`.
pub(super) fn order_by(entity: Entity, order: &Value) -> Result<Vec<(Field, bool)>, String> {
    let one = |entry: &Value| {
        let (field, direction) = match entry {
            Value::Object(map) => (map.get("field"), map.get("order")),
            Value::Array(pair) => (pair.first(), pair.get(1)),
            field => (Some(field), None),
        };
        let field = field.and_then(Value::as_str).ok_or_else(|| unusable(order))?;
        let descending = direction.and_then(Value::as_str).is_some_and(|word| word.eq_ignore_ascii_case("desc"));
        Ok((Field::parse(field, entity)?, descending))
    };
    list(order)?.iter().map(one).collect()
}

fn paging(query: &mut Query, option: &Value) -> Result<(), String> {
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    match list(option)? {
        [name, value] if name == "limit" => {
            query.paging.limit = Some(number(value).ok_or_else(|| unusable(option))?);
        }
        [name, value] if name == "offset" => {
            query.paging.offset = number(value).ok_or_else(|| unusable(option))?;
        }
        [name, value] if name == "order_by" => query.paging.order_by = order_by(query.entity, value)?,
        _ => return Err(unusable(option)),
    }
    Ok(())
}

fn expression(entity: Entity, query: &Value) -> Result<Expr, String> {
    let parts = list(query)?;
    let [Value::String(operator), operands @ ..] = parts else {
        return Err(unusable(query));
    };
    let all = || -> Result<Vec<Expr>, String> { operands.iter().map(|operand| expression(entity, operand)).collect() };
    match (operator.as_str(), operands) {
        ("and", [_, ..]) => Ok(Expr::And(all()?)),
        ("or", [_, ..]) => Ok(Expr::Or(all()?)),
        ("not", [inner]) => Ok(Expr::Not(Box::new(expression(entity, inner)?))),
        ("=", [Value::String(field), Value::String(state)]) if field == "node_state" => node_state(state),
        ("=", [Value::Array(fact), wanted]) if entity == Entity::Nodes => match &fact[..] {
            [kind, Value::String(name)] if kind == "fact" => Ok(Expr::Fact(name.clone(), wanted.clone())),
            _ => Err(unusable(query)),
        },
        ("null?", [Value::String(field), Value::Bool(wanted)]) => Ok(Expr::Null(Field::parse(field, entity)?, *wanted)),
        ("in", [fields, set]) => Ok(Expr::In(fields_of(entity, fields)?, values(set)?)),
        (symbol, [Value::String(field), wanted]) => {
            let comparison = comparison(symbol).ok_or_else(|| unusable(query))?;
            Ok(Expr::Compare(comparison, Field::parse(field, entity)?, wanted.clone()))
        }
        _ => Err(unusable(query)),
    }
}

pub(super) fn comparison(symbol: &str) -> Option<Comparison> {
    match symbol {
        "=" => Some(Comparison::Equal),
        "<" => Some(Comparison::Less),
        "<=" => Some(Comparison::LessOrEqual),
        ">" => Some(Comparison::Greater),
        ">=" => Some(Comparison::GreaterOrEqual),
        _ => None,
    }
}

pub(super) fn node_state(state: &str) -> Result<Expr, String> {
    if ["active", "inactive", "any"].contains(&state) {
        return Ok(Expr::NodeState(state.to_owned()));
    }
    Err(format!("Unsupported value for node_state: '{state}'; expected 'active', 'inactive' or 'any'"))
}

/// `["array", […]]`, `["from", …]` or `["extract", fields, ["select_nodes", filter]]`.
fn values(set: &Value) -> Result<Values, String> {
    match list(set)? {
        [operator, Value::Array(values)] if operator == "array" => Ok(Values::List(values.clone())),
        [operator, ..] if operator == "from" => Ok(Values::Query(Box::new(from(set)?))),
        [operator, fields, selection] if operator == "extract" => {
            let (entity, filter) = match list(selection)? {
                [Value::String(select)] => (select, None),
                [Value::String(select), filter] => (select, Some(filter)),
                _ => return Err(unusable(set)),
            };
            let entity = entity.strip_prefix("select_").and_then(Entity::named).ok_or_else(|| unusable(set))?;
            let filter = filter.map(|filter| expression(entity, filter)).transpose()?;
            let extract = Some(fields_of(entity, fields)?);
            Ok(Values::Query(Box::new(Query { entity, extract, filter, paging: Paging::default() })))
        }
        _ => Err(unusable(set)),
    }
}

fn fields_of(entity: Entity, fields: &Value) -> Result<Vec<Field>, String> {
    let one = |field: &Value| {
        let name = field.as_str().ok_or_else(|| unusable(fields))?;
        Field::parse(name, entity)
    };
    match fields {
        Value::Array(several) => several.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}

fn list(query: &Value) -> Result<&[Value], String> {
    query.as_array().map(Vec::as_slice).ok_or_else(|| unusable(query))
}

fn unusable(query: &Value) -> String {
    format!("Invalid query: {query} is not well-formed or uses an operator that is not simulated")
}
