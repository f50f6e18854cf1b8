//! Reads one TOML table key by key and collects what is wrong instead of stopping at the first. No I/O.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use toml::{Table, Value};

/// What is wrong, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<String>>);

impl Problems {
    pub(super) fn add(&self, key: &str, problem: impl Display) {
        self.0.borrow_mut().push(format!("{key}: {problem}"));
    }

    pub(super) fn into_inner(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// A table, the path to it, and the keys that were asked for.
pub(super) struct Reader<'a> {
    table: Option<&'a Table>,
    path: String,
    known: BTreeSet<String>,
    problems: &'a Problems,
}

impl<'a> Reader<'a> {
    pub(super) fn new(table: &'a Table, path: String, problems: &'a Problems) -> Self {
        Self { table: Some(table), path, known: BTreeSet::new(), problems }
    }

    fn key(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    pub(super) fn problem(&self, key: &str, problem: impl Display) {
        self.problems.add(&self.key(key), problem);
    }

    fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.known.insert(key.to_owned());
        self.table?.get(key)
    }

    fn required(&self, key: &str) {
        // A missing section has been named already; its keys would only be noise.
        if self.table.is_some() {
            self.problem(key, "is missing");
        }
    }

    fn text_value(&mut self, key: &str) -> Option<&'a str> {
        match self.take(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::String(_) => {
                self.problem(key, "is empty");
                None
            }
            other => {
                self.problem(key, format_args!("must be text, not {}", other.type_str()));
                None
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        if !self.has(key) {
            self.take(key);
            self.required(key);
            return None;
        }
        self.text_value(key).map(str::to_owned)
    }

    /// A text with a default.
    pub(super) fn text_or(&mut self, key: &str, default: &str) -> String {
        self.text_value(key).unwrap_or(default).to_owned()
    }

    /// A list of texts; empty if absent.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let list = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.problem(key, format_args!("must be a list of texts, not {}", other.type_str()));
                return Vec::new();
            }
        };
        let texts: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if texts.len() != list.len() {
            self.problem(key, "must hold nothing but texts");
        }
        texts
    }

    /// A text that is read as a value. Without a default it must be there.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &str, default: Option<T>) -> Option<T> {
        if !self.has(key) {
            self.take(key);
            if default.is_none() {
                self.required(key);
            }
            return default;
        }
        let text = self.text_value(key)?;
        text.parse().map_err(|error| self.problem(key, error)).ok()
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => *flag,
            Some(other) => {
                self.problem(key, format_args!("must be true or false, not {}", other.type_str()));
                default
            }
        }
    }

    /// Yes or no, where the value is no table; one that is has yet to be read.
    pub(super) fn flag_unless_table(&mut self, key: &str) -> Option<bool> {
        match self.table?.get(key)? {
            Value::Table(_) => None,
            Value::Boolean(flag) => {
                self.take(key);
                Some(*flag)
            }
            other => {
                self.take(key);
                self.problem(key, format_args!("must be true, false or a table, not {}", other.type_str()));
                Some(false)
            }
        }
    }

    /// Lists of texts that are read as values, one after another: a list of texts is the only one. Empty if absent.
    pub(super) fn waves<T: FromStr<Err: Display>>(&mut self, key: &str) -> Vec<Vec<T>> {
        let list = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.problem(
                    key,
                    format_args!("must be a list of names or of lists of names, not {}", other.type_str()),
                );
                return Vec::new();
            }
        };
        let lists: Vec<&Vec<Value>> = match list.first() {
            None => return Vec::new(),
            Some(Value::Array(_)) => list.iter().filter_map(Value::as_array).collect(),
            Some(_) => vec![list],
        };
        let texts = |list: &Vec<Value>| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let read: Vec<Vec<String>> = lists.iter().map(|list| texts(list)).collect();
        let nested = matches!(list.first(), Some(Value::Array(_)));
        let all: usize = lists.iter().map(|list| list.len()).sum();
        if read.iter().flatten().count() != all || nested && lists.len() != list.len() {
            self.problem(key, "must hold either names alone or lists of names alone");
        } else if read.iter().any(Vec::is_empty) {
            self.problem(key, "must not hold an empty list");
        }
        let parse = |text: &String| text.parse().map_err(|error| self.problem(key, error)).ok();
        read.iter().map(|texts| texts.iter().filter_map(parse).collect()).collect()
    }

    /// A text that may be there, and is read as a value.
    pub(super) fn optional<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.text_value(key)?;
        text.parse().map_err(|error| self.problem(key, error)).ok()
    }

    /// A list of texts that are read as values; empty if absent.
    pub(super) fn parsed_list<T: FromStr<Err: Display>>(&mut self, key: &str) -> Vec<T> {
        let texts = self.texts(key);
        texts.iter().filter_map(|text| text.parse().map_err(|error| self.problem(key, error)).ok()).collect()
    }

    /// The same with a default for an absent list.
    pub(super) fn parsed_list_or<T: FromStr<Err: Display>>(&mut self, key: &str, default: Vec<T>) -> Vec<T> {
        let is_there = self.has(key);
        let list = self.parsed_list(key);
        if is_there { list } else { default }
    }

    /// A table of texts; empty if absent.
    pub(super) fn text_table(&mut self, key: &str) -> BTreeMap<String, String> {
        let mut reader = self.below(key);
        let keys: Vec<String> = reader.table.into_iter().flat_map(Table::keys).cloned().collect();
        keys.into_iter().filter_map(|key| Some((key.clone(), reader.text(&key)?))).collect()
    }

    /// A table of lists of texts; empty if absent.
    pub(super) fn list_table(&mut self, key: &str) -> Vec<(String, Vec<String>)> {
        let mut reader = self.below(key);
        let keys: Vec<String> = reader.table.into_iter().flat_map(Table::keys).cloned().collect();
        keys.into_iter().map(|key| (key.clone(), reader.texts(&key))).collect()
    }

    /// A duration such as "50s" or "10m", more than nothing and at most `longest`.
    pub(super) fn duration(&mut self, key: &str, default: Option<Duration>, longest: Duration) -> Option<Duration> {
        let default = default.and_then(|default| SignedDuration::try_from(default).ok());
        let duration = self.parsed::<SignedDuration>(key, default)?;
        match Duration::try_from(duration) {
            Ok(duration) if !duration.is_zero() && duration <= longest => Some(duration),
            _ => {
                self.problem(key, format_args!("must be more than 0s and at most {}s", longest.as_secs()));
                None
            }
        }
    }

    /// A whole number within a range.
    pub(super) fn number(&mut self, key: &str, default: u16, range: RangeInclusive<u16>) -> u16 {
        match self.take(key) {
            None => default,
            Some(Value::Integer(number)) if u16::try_from(*number).is_ok_and(|number| range.contains(&number)) => {
                u16::try_from(*number).unwrap_or(default)
            }
            Some(_) => {
                self.problem(key, format_args!("must be a whole number from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    /// Whether the text is this word.
    pub(super) fn says(&mut self, key: &str, word: &str) -> bool {
        matches!(self.take(key), Some(Value::String(text)) if text == word)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text_value(key) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.problem(key, format_args!("must be {}, not {text:?}", known.join(" or ")));
        default
    }

    /// A table that must be there.
    pub(super) fn section(&mut self, key: &str) -> Reader<'a> {
        if !self.has(key) {
            self.required(key);
        }
        self.below(key)
    }

    /// A table that may be there; one that is not is empty.
    pub(super) fn below(&mut self, key: &str) -> Reader<'a> {
        self.optional_section(key).unwrap_or_else(|| Reader {
            table: None,
            path: self.key(key),
            known: BTreeSet::new(),
            problems: self.problems,
        })
    }

    /// A table that may be there.
    pub(super) fn optional_section(&mut self, key: &str) -> Option<Reader<'a>> {
        match self.take(key)? {
            Value::Table(table) => Some(Reader::new(table, self.key(key), self.problems)),
            other => {
                self.problem(key, format_args!("must be a table, not {}", other.type_str()));
                None
            }
        }
    }

    /// The tables below a key, by name.
    pub(super) fn named_sections(&mut self, key: &str) -> Vec<(String, Reader<'a>)> {
        if !self.has(key) {
            self.problem(key, "is missing: there must be at least one profile");
        }
        let Some(mut parent) = self.optional_section(key) else { return Vec::new() };
        let names: Vec<String> = parent.table.into_iter().flat_map(Table::keys).cloned().collect();
        names.into_iter().filter_map(|name| Some((name.clone(), parent.optional_section(&name)?))).collect()
    }

    /// Reports every key that was not read.
    pub(super) fn finish(self) {
        for key in self.table.into_iter().flat_map(Table::keys).filter(|key| !self.known.contains(*key)) {
            self.problem(key, "is not a key of the configuration");
        }
    }
}
