//! PuppetDB's AST: queries as JSON arrays. What is not simulated is refused, in PuppetDB's words where it refuses
//! the same. No I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/query/v4/ast.html>)

use serde_json::Value;

use super::entity::Entity;
use super::{Comparison, Expr, Field, Query, Values};

/// Operators of PuppetDB that are not simulated.
const NOT_SIMULATED: [&str; 4] = ["~", "function", "group_by", "subquery"];

/// `["from", entity, …]`, the form of the root endpoint and of subqueries.
pub(super) fn from(query: &Value) -> Result<Query, String> {
    let (entity, rest) = match query.as_array().map(Vec::as_slice) {
        Some([operator, Value::String(entity), rest @ ..]) if operator == "from" => (entity, rest),
        _ => {
            let text = r#"Your initial query must be of the form: ["from",<entity>,(<optional-query>)]. Check your query and try again."#;
            return Err(text.to_owned());
        }
    };
    let entity = Entity::named(entity)
        .ok_or_else(|| format!("Invalid entity '{entity}' in query: it does not exist or is not simulated"))?;
    let (mut query, options) = match rest {
        [inner, options @ ..] if !is_paging(inner) => (self::query(entity, inner)?, options),
        options => (Query::all(entity), options),
    };
    for option in options {
        paging(&mut query, option)?;
    }
    Ok(query)
}

/// A query on a known entity: `["extract", fields, filter]`, or a filter.
pub(super) fn query(entity: Entity, query: &Value) -> Result<Query, String> {
    let (extract, filter) = match list(query)? {
        [operator, fields] if operator == "extract" => (Some(extracted(entity, fields)?), None),
        [operator, fields, filter] if operator == "extract" => (Some(extracted(entity, fields)?), Some(filter)),
        _ => (None, Some(query)),
    };
    let filter = filter.map(|filter| expression(entity, filter)).transpose()?;
    Ok(Query { extract, filter, ..Query::all(entity) })
}

/// `[{"field": …, "order": "desc"}]` or `[["field", "desc"], …]`.
pub(super) fn order_by(entity: Entity, order: &Value) -> Result<Vec<(Field, bool)>, String> {
    let one = |entry: &Value| {
        let (field, direction) = match entry {
            Value::Object(map) => (map.get("field"), map.get("order")),
            Value::Array(pair) => (pair.first(), pair.get(1)),
            field => (Some(field), None),
        };
        let field = field
            .and_then(Value::as_str)
            .ok_or_else(|| format!("Illegal value '{entry}' in :order_by; missing required key 'field'."))?;
        let direction = direction.map_or(Some("asc"), Value::as_str).map(str::to_ascii_lowercase);
        let descending = match direction.as_deref() {
            Some("asc") => false,
            Some("desc") => true,
            _ => return Err(format!("Illegal value '{entry}' in :order_by; 'order' must be either 'asc' or 'desc'")),
        };
        Ok((Field::parse(field, entity)?, descending))
    };
    list(order)?.iter().map(one).collect()
}

fn is_paging(clause: &Value) -> bool {
    clause.get(0).and_then(Value::as_str).is_some_and(|name| ["limit", "offset", "order_by"].contains(&name))
}

fn paging(query: &mut Query, option: &Value) -> Result<(), String> {
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    match list(option)? {
        [name, value] if name == "limit" => {
            query.paging.limit = Some(number(value).ok_or_else(|| invalid(option))?);
        }
        [name, value] if name == "offset" => query.paging.offset = number(value).ok_or_else(|| invalid(option))?,
        [name, value] if name == "order_by" => query.paging.order_by = order_by(query.entity, value)?,
        _ => return Err(invalid(option)),
    }
    Ok(())
}

fn expression(entity: Entity, query: &Value) -> Result<Expr, String> {
    let [Value::String(operator), operands @ ..] = list(query)? else {
        return Err(invalid(query));
    };
    let all = || -> Result<Vec<Expr>, String> { operands.iter().map(|operand| expression(entity, operand)).collect() };
    match (operator.as_str(), operands) {
        ("and" | "or", []) => Err(format!("'{operator}' takes at least one argument, but none were supplied")),
        ("and", _) => Ok(Expr::And(all()?)),
        ("or", _) => Ok(Expr::Or(all()?)),
        ("not", [inner]) => Ok(Expr::Not(Box::new(expression(entity, inner)?))),
        ("not", several) => Err(format!("'not' takes exactly one argument, but {} were supplied", several.len())),
        ("null?", [Value::String(field), Value::Bool(wanted)]) => Ok(Expr::Null(Field::parse(field, entity)?, *wanted)),
        ("in", [fields, set]) => membership(entity, fields, set),
        ("~>", [Value::String(field), path]) if field == "path" => path_match(entity, path),
        _ => match comparison(operator) {
            Some(comparison) => compare(entity, operator, comparison, operands),
            None if NOT_SIMULATED.contains(&operator.as_str()) => {
                Err(format!("the operator '{operator}' is not simulated"))
            }
            None => Err(invalid(query)),
        },
    }
}

/// `["~>", "path", …]`: each element is a regular expression. Only names and `.*` are simulated.
fn path_match(entity: Entity, path: &Value) -> Result<Expr, String> {
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let elements = list(path)?.iter().map(|element| match element.as_str() {
        Some(".*") => Ok(None),
        Some(name) if is_name(name) => Ok(Some(name.to_owned())),
        _ => Err(format!("the regular expression {element} is not simulated")),
    });
    Ok(Expr::Path(Field::parse("path", entity)?, elements.collect::<Result<_, _>>()?))
}

fn comparison(symbol: &str) -> Option<Comparison> {
    match symbol {
        "=" => Some(Comparison::Equal),
        "<" => Some(Comparison::Less),
        "<=" => Some(Comparison::LessOrEqual),
        ">" => Some(Comparison::Greater),
        ">=" => Some(Comparison::GreaterOrEqual),
        _ => None,
    }
}

fn compare(entity: Entity, symbol: &str, comparison: Comparison, operands: &[Value]) -> Result<Expr, String> {
    let is_equal = comparison == Comparison::Equal;
    match operands {
        [Value::String(field), Value::String(state)] if is_equal && field == "node_state" => {
            if ["active", "inactive", "any"].contains(&state.as_str()) {
                Ok(Expr::NodeState(state.clone()))
            } else {
                Err(format!("No matching clause: {state}"))
            }
        }
        [Value::String(text), wanted] => {
            let field = Field::parse(text, entity)?;
            if !is_equal && field.path.len() == 1 && !Entity::is_ordered(text) {
                return Err(format!("Query operators >,>=,<,<= are not allowed on field {text}"));
            }
            Ok(Expr::Compare(comparison, field, wanted.clone()))
        }
        [Value::Array(fact), wanted] if is_equal && entity == Entity::Nodes => match &fact[..] {
            [kind, Value::String(name)] if kind == "fact" => Ok(Expr::Fact(name.clone(), wanted.clone())),
            _ => Err(format!("Invalid {symbol} clause")),
        },
        [_, _] => Err(format!("Invalid {symbol} clause")),
        _ => Err(format!("{symbol} requires exactly two arguments")),
    }
}

/// What stands after `in`: `["array", […]]`, `["from", …]` or `["extract", fields, ["select_nodes", filter]]`.
fn membership(entity: Entity, fields: &Value, set: &Value) -> Result<Expr, String> {
    let field = |field: &Value| {
        let field = Field::parse(field.as_str().ok_or_else(|| invalid(fields))?, entity)?;
        // PuppetDB fails at these with an error of its own.
        if field.path.len() > 1 {
            Err(format!("the dotted field {} is not simulated in 'in'", field.text))
        } else {
            Ok(field)
        }
    };
    let fields: Vec<Field> = match fields {
        Value::Array(several) if !is_array(set) => several.iter().map(field).collect::<Result<_, _>>()?,
        single => vec![field(single)?],
    };
    let values = match list(set)? {
        [operator, values] if operator == "array" => {
            let values = values.as_array().ok_or("Operator array requires a vector argument")?;
            Values::List(as_read(values)?)
        }
        [operator, ..] if operator == "from" => {
            let query = from(set)?;
            if query.extract.is_none() {
                return Err(invalid(set));
            }
            Values::Query(Box::new(query))
        }
        [operator, chosen, selection] if operator == "extract" => {
            let (select, filter) = match list(selection)? {
                [Value::String(select)] => (select, None),
                [Value::String(select), filter] => (select, Some(filter)),
                _ => return Err(invalid(set)),
            };
            let entity = select
                .strip_prefix("select_")
                .and_then(Entity::named)
                .ok_or_else(|| format!("Unsupported subquery `{select}`"))?;
            let filter = filter.map(|filter| expression(entity, filter)).transpose()?;
            Values::Query(Box::new(Query { extract: Some(extracted(entity, chosen)?), filter, ..Query::all(entity) }))
        }
        _ => return Err(invalid(set)),
    };
    Ok(Expr::In(fields, values))
}

fn is_array(set: &Value) -> bool {
    set.get(0).is_some_and(|operator| operator == "array")
}

/// The values of an `array` as PuppetDB reads them. It looks for expressions in this list too, so the list must not
/// look like one: see `validate-query-fields`, `validate-binary-operators` and `expand-query-node` in
/// <https://github.com/puppetlabs/puppetdb/blob/8.8.1/src/puppetlabs/puppetdb/query_eng/engine.clj>.
fn as_read(values: &[Value]) -> Result<Vec<Value>, String> {
    let is_refused = match values {
        [Value::String(word), rest @ ..] => match word.as_str() {
            "extract" | "in" => !rest.is_empty(),
            "subquery" => rest.len() == 2,
            "not" => rest.len() != 1,
            "and" | "or" => rest.is_empty(),
            _ => false,
        },
        _ => false,
    };
    if is_refused {
        return Err(format!("{} begins with an operator and is read as an expression", clojure(&values.into())));
    }
    let mut values = values.to_vec();
    if let [_, field, _] = &mut values[..]
        && field == "tag"
    {
        *field = "tags".into();
    }
    Ok(values)
}

fn extracted(entity: Entity, fields: &Value) -> Result<Vec<Field>, String> {
    let one = |field: &Value| {
        let text = field.as_str().ok_or_else(|| invalid(fields))?;
        Field::known(text, entity).ok_or_else(|| {
            let (name, known) = (entity.name(), entity.listed_fields());
            format!("Can't extract unknown '{name}' field '{text}'. Acceptable fields are {known}")
        })
    };
    match fields {
        Value::Array(several) => several.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}

fn list(query: &Value) -> Result<&[Value], String> {
    query.as_array().map(Vec::as_slice).ok_or_else(|| invalid(query))
}

/// What PuppetDB says of a clause that it does not know, under `extract`. Elsewhere it answers with 400 as well, but
/// with an error of its own.
fn invalid(clause: &Value) -> String {
    format!("{} is not a valid expression for \"extract\"", clojure(clause))
}

/// A value as Clojure prints it.
fn clojure(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(clojure).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}
