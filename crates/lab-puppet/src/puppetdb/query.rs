//! Queries in PuppetDB's AST, on an entity's endpoint and on the root endpoint. A small part of the language; what is not
//! simulated is refused, PQL included. No I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/query/v4/query.html>)

mod ast;
mod entity;
mod evaluate;

use std::collections::BTreeSet;

use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;
use stagedoor_lab_core::server::{Reply, Request};

use self::entity::Entity;
use super::ok;
use crate::reply::{PLAIN_UTF8, typed};
use crate::site::Site;

const PARAMETERS: [&str; 10] =
    ["query", "limit", "offset", "order_by", "include_total", "pretty", "timeout", "origin", "explain", "ast_only"];

/// A query after parsing.
#[derive(Clone, Debug, PartialEq)]
struct Query {
    entity: Entity,
    /// None: whole rows.
    extract: Option<Vec<Field>>,
    filter: Option<Expr>,
    paging: Paging,
}

impl Query {
    /// Every row of an entity.
    fn all(entity: Entity) -> Self {
        Self { entity, extract: None, filter: None, paging: Paging::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Paging {
    limit: Option<usize>,
    offset: usize,
    /// Field, and whether descending.
    order_by: Vec<(Field, bool)>,
}

/// A field of a row: its path, and how the query wrote it.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    path: Vec<String>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Comparison, Field, Value),
    Null(Field, bool),
    In(Vec<Field>, Values),
    /// A path whose elements are these; `None` is any.
    Path(Field, Vec<Option<String>>),
    /// `active`, `inactive` or `any`.
    NodeState(String),
    /// A fact of the node with this name and value.
    Fact(String, Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    List(Vec<Value>),
    Query(Box<Query>),
    /// The rows of a query that was carried out, as JSON.
    Rows(BTreeSet<String>),
}

impl Field {
    /// Reads `facts.ec2_metadata."instance-id"` for an entity that has such a field.
    fn known(text: &str, entity: Entity) -> Option<Self> {
        let path = split_dotted(text);
        let first = path.first().map_or("", String::as_str);
        let is_known = entity.fields().contains(&first) && (path.len() == 1 || entity.is_dotted(first));
        is_known.then(|| Self { path, text: text.to_owned() })
    }

    /// As [`Self::known`], with PuppetDB's words about a condition on a field that there is not.
    fn parse(text: &str, entity: Entity) -> Result<Self, String> {
        Self::known(text, entity).ok_or_else(|| {
            let (name, known) = (entity.name(), entity.listed_fields());
            format!("'{text}' is not a queryable object for {name}. Known queryable objects are {known}")
        })
    }
}

/// Splits at dots that are not inside double quotes, and takes the quotes off.
fn split_dotted(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match (c, parts.last_mut()) {
            ('"', _) => quoted = !quoted,
            ('.', _) if !quoted => parts.push(String::new()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

/// Answers a query on the root endpoint (`entity` is None) or on an entity's.
pub(super) fn answer(site: &Site, request: &Request, entity: Option<&str>) -> Reply {
    let bad = |text: &str| typed(StatusCode::BAD_REQUEST, PLAIN_UTF8, text.to_owned());
    let parameters = match parameters(request) {
        Ok(parameters) => parameters,
        Err(text) => return bad(&text),
    };
    let query = match parse(&parameters, entity) {
        Ok(query) => query,
        Err(Unusable::Query(text)) => return bad(&text),
        Err(Unusable::Entity) => {
            return typed(StatusCode::NOT_FOUND, "text/html; charset=utf-8", "Not Found");
        }
    };
    let mut store = site.puppetdb();
    let (rows, total) = evaluate::run(&query, &store);
    store.was_read();
    let mut reply = ok(&Value::Array(rows));
    if find(&parameters, "include_total").is_some_and(|wanted| wanted == "true" || *wanted == true) {
        reply.headers_mut().insert("X-Records", HeaderValue::from(total));
    }
    reply
}

/// Why a query is not carried out.
enum Unusable {
    Query(String),
    Entity,
}

impl From<String> for Unusable {
    fn from(text: String) -> Self {
        Self::Query(text)
    }
}

fn find<'a>(parameters: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Parameters from the URL, or from the body of a POST, where a query may be JSON in JSON.
fn parameters(request: &Request) -> Result<Vec<(String, Value)>, String> {
    let parameters: Vec<(String, Value)> = if request.method == Method::POST {
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|error| format!("Malformed JSON in the request body: {error}"))?;
        let Value::Object(map) = body else {
            return Err("The request body must be a JSON map.".to_owned());
        };
        map.into_iter().collect()
    } else {
        request.query.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect()
    };
    match parameters.iter().find(|(key, _)| !PARAMETERS.contains(&key.as_str())) {
        Some((unknown, _)) => Err(format!("Unsupported query parameter '{unknown}'")),
        None => Ok(parameters),
    }
}

fn parse(parameters: &[(String, Value)], endpoint: Option<&str>) -> Result<Query, Unusable> {
    let json = |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| format!("Malformed JSON for query: {text} ({error})"))
    };
    let endpoint = match endpoint.map(Entity::named) {
        Some(None) => return Err(Unusable::Entity),
        Some(Some(entity)) => Some(entity),
        None => None,
    };
    let query = match find(parameters, "query") {
        Some(Value::String(text)) if endpoint.is_none() && !text.trim_start().starts_with('[') => {
            return Err("PQL is not simulated; send the query as JSON".to_owned().into());
        }
        Some(Value::String(text)) => Some(json(text)?),
        Some(Value::Null) | None => None,
        Some(query) => Some(query.clone()),
    };
    let query = match (endpoint, query) {
        (Some(entity), Some(query)) => ast::query(entity, &query)?,
        (Some(entity), None) => Query::all(entity),
        (None, Some(query)) => ast::from(&query)?,
        (None, None) => return Err("Missing required query parameter 'query'".to_owned().into()),
    };
    finish(query, parameters)
}

/// Adds the paging of the parameters.
fn finish(mut query: Query, parameters: &[(String, Value)]) -> Result<Query, Unusable> {
    let number = |name: &str| {
        let Some(value) = find(parameters, name) else {
            return Ok(None);
        };
        let number = value.as_str().map_or_else(
            || value.as_u64().and_then(|number| usize::try_from(number).ok()),
            |text| text.parse::<usize>().ok(),
        );
        number.map(Some).ok_or_else(|| format!("Illegal value '{value}' for :{name}; expected a non-negative integer."))
    };
    query.paging.limit = number("limit")?.or(query.paging.limit);
    query.paging.offset = number("offset")?.unwrap_or(query.paging.offset);
    if let Some(order) = find(parameters, "order_by") {
        let order = match order {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|_| format!("Illegal value '{text}' for :order_by; expected a JSON array of maps."))?,
            list => list.clone(),
        };
        query.paging.order_by = ast::order_by(query.entity, &order)?;
    }
    Ok(query)
}
