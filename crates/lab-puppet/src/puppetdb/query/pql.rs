//! PQL: `entity[fields] { filter }`. Follows PuppetDB's grammar where it goes, down to the space that a
//! quoted path component needs after it. No I/O.
//! (<https://www.puppet.com/docs/puppetdb/8/api/query/v4/pql.html>)

use serde_json::Value;

use super::entity::Entity;
use super::{Expr, Field, Paging, Query, Values, ast};

/// Parses a whole query. The error text is that of PuppetDB's parser.
pub(super) fn parse(text: &str) -> Result<Query, String> {
    let mut parser = Parser { text, at: 0, furthest: 0, meaning: None };
    let parsed = parser.query().and_then(|query| {
        parser.space();
        if parser.at == text.len() { Some(query) } else { parser.fail() }
    });
    parsed.ok_or_else(|| parser.meaning.take().unwrap_or_else(|| parser.complaint()))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// How far any attempt came: where the error is reported.
    furthest: usize,
    /// An error about what the query means rather than how it is written.
    meaning: Option<String>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&mut self) -> Option<T> {
        self.furthest = self.furthest.max(self.at);
        None
    }

    fn complaint(&self) -> String {
        let before = &self.text[..self.furthest];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let shown = self.text.lines().nth(line - 1).unwrap_or("");
        let marker = " ".repeat(column - 1) + "^";
        format!("PQL parse error at line {line}, column {column}:\n\n{shown}\n{marker}\n\n")
    }

    fn meant<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.meaning = Some(text)).ok()
    }

    fn space(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        rest.len() != trimmed.len()
    }

    fn take(&mut self, token: &str) -> Option<()> {
        if self.rest().starts_with(token) {
            self.at += token.len();
            Some(())
        } else {
            self.fail()
        }
    }

    /// Takes the token, with space before it or not, or stays where it was.
    fn try_take(&mut self, token: &str) -> bool {
        let start = self.at;
        self.space();
        let found = self.take(token).is_some();
        if !found {
            self.at = start;
        }
        found
    }

    /// A word of letters, digits and `_`.
    fn word(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return self.fail();
        }
        self.at += end;
        Some(&rest[..end])
    }

    fn query(&mut self) -> Option<Query> {
        self.space();
        let start = self.at;
        let Some(entity) = self.word().and_then(Entity::named) else {
            self.at = start;
            return self.fail();
        };
        let extract = if self.try_take("[") { Some(self.fields(entity)?) } else { None };
        self.space();
        self.take("{")?;
        self.space();
        let mut paging = Paging::default();
        let mut filter = None;
        if !self.paging(entity, &mut paging)? && !self.rest().starts_with('}') {
            filter = Some(self.or(entity)?);
        }
        loop {
            self.space();
            if !self.paging(entity, &mut paging)? {
                break;
            }
        }
        self.take("}")?;
        Some(Query { entity, extract, filter, paging })
    }

    /// Fields after `[` up to and with `]`.
    fn fields(&mut self, entity: Entity) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        self.space();
        if self.try_take("]") {
            return Some(fields);
        }
        loop {
            self.space();
            let text = self.field()?;
            fields.push(self.known(&text, entity)?);
            if self.try_take("]") {
                return Some(fields);
            }
            self.space();
            self.take(",")?;
        }
    }

    fn known(&mut self, text: &str, entity: Entity) -> Option<Field> {
        let field = Field::parse(text, entity);
        self.meant(field)
    }

    /// `certname`, `latest_report?`, or a dotted path into facts or trusted data.
    fn field(&mut self) -> Option<String> {
        let start = self.at;
        self.word()?;
        if self.rest().starts_with('?') {
            self.at += 1;
        }
        while self.rest().starts_with('.') {
            self.at += 1;
            if self.rest().starts_with('"') {
                let inside = &self.rest()[1..];
                // Only a quote before a dot or a space ends the component.
                let end = inside
                    .match_indices('"')
                    .map(|(at, _)| at)
                    .find(|at| inside[at + 1..].starts_with(|c: char| c == '.' || c.is_whitespace()));
                match end {
                    Some(end) => self.at += end + 2,
                    None => return self.fail(),
                }
            } else {
                let stop = |c: char| c.is_whitespace() || ".\",[]!<=>~".contains(c);
                let rest = self.rest();
                let end = rest.find(stop).unwrap_or(rest.len());
                if end == 0 {
                    return self.fail();
                }
                self.at += end;
            }
        }
        Some(self.text[start..self.at].to_owned())
    }

    fn or(&mut self, entity: Entity) -> Option<Expr> {
        self.chain(entity, "or", Self::and, Expr::Or)
    }

    fn and(&mut self, entity: Entity) -> Option<Expr> {
        self.chain(entity, "and", Self::not, Expr::And)
    }

    fn chain(
        &mut self,
        entity: Entity,
        word: &str,
        part: fn(&mut Self, Entity) -> Option<Expr>,
        joined: fn(Vec<Expr>) -> Expr,
    ) -> Option<Expr> {
        let first = part(self, entity)?;
        let mut parts = vec![first];
        loop {
            let start = self.at;
            // Space on both sides belongs to the operator.
            if !(self.space() && self.take(word).is_some() && self.space()) {
                self.at = start;
                break;
            }
            parts.push(part(self, entity)?);
        }
        Some(if parts.len() == 1 { parts.remove(0) } else { joined(parts) })
    }

    fn not(&mut self, entity: Entity) -> Option<Expr> {
        if self.rest().starts_with('!') {
            self.at += 1;
            self.space();
            return Some(Expr::Not(Box::new(self.not(entity)?)));
        }
        if self.rest().starts_with('(') {
            self.at += 1;
            self.space();
            let inner = self.or(entity)?;
            self.space();
            self.take(")")?;
            return Some(inner);
        }
        self.condition(entity)
    }

    fn condition(&mut self, entity: Entity) -> Option<Expr> {
        if self.rest().starts_with('[') {
            self.at += 1;
            let fields = self.fields(entity)?;
            self.space();
            self.take("in")?;
            return Some(Expr::In(fields, self.values()?));
        }
        let name = self.field()?;
        self.space();
        if name == "node_state" {
            self.take("=")?;
            self.space();
            let state = self.literal()?;
            let state = ast::node_state(state.as_str().unwrap_or_default());
            return self.meant(state);
        }
        let start = self.at;
        if self.take("is not null").is_some() {
            return Some(Expr::Null(self.known(&name, entity)?, false));
        }
        if self.take("is null").is_some() {
            return Some(Expr::Null(self.known(&name, entity)?, true));
        }
        if self.take("in").is_some() {
            let field = self.known(&name, entity)?;
            return Some(Expr::In(vec![field], self.values()?));
        }
        self.at = start;
        for symbol in ["!=", ">=", "<=", "=", "<", ">"] {
            if self.take(symbol).is_none() {
                continue;
            }
            self.space();
            let wanted = self.literal()?;
            let field = self.known(&name, entity)?;
            let comparison = ast::comparison(if symbol == "!=" { "=" } else { symbol })?;
            let compare = Expr::Compare(comparison, field, wanted);
            return Some(if symbol == "!=" { Expr::Not(Box::new(compare)) } else { compare });
        }
        self.fail()
    }

    /// `["a", "b"]` or a query.
    fn values(&mut self) -> Option<Values> {
        self.space();
        if !self.rest().starts_with('[') {
            return Some(Values::Query(Box::new(self.query()?)));
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.space();
            values.push(self.literal()?);
            if self.try_take("]") {
                return Some(Values::List(values));
            }
            self.space();
            self.take(",")?;
        }
    }

    /// A string in either quotes, a number, true or false; a path is a list of these.
    fn literal(&mut self) -> Option<Value> {
        let rest = self.rest();
        match rest.chars().next() {
            Some('[') => match self.values()? {
                Values::List(parts) => Some(parts.into()),
                Values::Query(_) => self.fail(),
            },
            Some(quote @ ('"' | '\'')) => {
                let mut value = String::new();
                let mut chars = rest.char_indices().skip(1);
                while let Some((at, c)) = chars.next() {
                    match c {
                        '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                        c if c == quote => {
                            self.at += at + 1;
                            return Some(value.into());
                        }
                        c => value.push(c),
                    }
                }
                self.at = self.text.len();
                self.fail()
            }
            Some(c) if c.is_ascii_digit() || c == '-' => {
                let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len());
                match serde_json::from_str(&rest[..end]) {
                    Ok(number) => {
                        self.at += end;
                        Some(number)
                    }
                    Err(_) => self.fail(),
                }
            }
            _ => [("true", true), ("false", false)]
                .into_iter()
                .find_map(|(word, value)| self.take(word).map(|()| value.into())),
        }
    }

    /// One of `limit 5`, `offset 5`, `order by certname desc`; false if none is here.
    fn paging(&mut self, entity: Entity, paging: &mut Paging) -> Option<bool> {
        let start = self.at;
        for (word, is_limit) in [("limit", true), ("offset", false)] {
            if self.take(word).is_some() && self.space() {
                let Some(number) = self.word().and_then(|digits| digits.parse().ok()) else {
                    return self.fail();
                };
                if is_limit {
                    paging.limit = Some(number);
                } else {
                    paging.offset = number;
                }
                return Some(true);
            }
            self.at = start;
        }
        if self.take("order by").is_none() || !self.space() {
            self.at = start;
            return Some(false);
        }
        loop {
            let name = self.field()?;
            let field = self.known(&name, entity)?;
            let descending = self.try_take("desc");
            if !descending {
                self.try_take("asc");
            }
            paging.order_by.push((field, descending));
            if !self.try_take(",") {
                return Some(true);
            }
            self.space();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_component_needs_a_space_after_it() {
        let good = r#"inventory[certname] { facts.ec2_metadata."instance-id" = "i-0abc" }"#;
        let query = parse(good).unwrap();
        let Some(Expr::Compare(_, field, wanted)) = query.filter else {
            panic!("no comparison: {query:?}");
        };
        assert_eq!(field.path, ["facts", "ec2_metadata", "instance-id"]);
        assert_eq!(wanted, "i-0abc");
        assert!(parse(&good.replace(r#"" ="#, r#""="#)).is_err());
    }

    #[test]
    fn and_binds_closer_than_or() {
        let text = r#"nodes { certname = "a" or certname = "b" and node_state = "any" }"#;
        let Some(Expr::Or(parts)) = parse(text).unwrap().filter else {
            panic!("not an or");
        };
        assert!(matches!(&parts[1], Expr::And(both) if both.len() == 2));
    }

    #[test]
    fn an_error_names_line_and_column() {
        let error = parse("nodes[certname] { certname == 1 }").unwrap_err();
        assert!(error.starts_with("PQL parse error at line 1, column 29:\n\nnodes[certname]"), "{error}");
        assert!(parse("nodes { foo = 1 }").unwrap_err().contains("not a queryable object"));
    }
}
