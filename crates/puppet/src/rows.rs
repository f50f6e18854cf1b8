//! Lists of rows about names, of which some may be no certnames. No I/O.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_json::value::RawValue;
use stagedoor_types::Certname;

/// A row about a node.
pub(crate) trait Row: DeserializeOwned {
    /// The field with the name of the node.
    const NAME: &'static str = "certname";
}

/// The rows whose names are valid certnames.
///
/// PuppetDB takes any text for a name. A row of a name that is no [`Certname`] is left out and counted: no caller can ask about it,
/// and it must not keep the rows of the others from being read. Any other row that cannot be read fails the whole answer, for to
/// leave out the row of a name that was asked for would say that the name is absent.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    rows: Vec<T>,
    /// How many were left out, and the name of the first.
    left_out: Option<(usize, String)>,
}

impl<T> Rows<T> {
    /// The rows; warns once of those that were left out.
    pub(crate) fn valid(self) -> Vec<T> {
        if let Some((rows, first)) = self.left_out {
            tracing::warn!(rows, first, "left out rows of names that are no certnames");
        }
        self.rows
    }
}

impl<'de, T: Row> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Row> Visitor<'de> for Reader<T> {
    type Value = Rows<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows<T>, A::Error> {
        let mut rows = Rows { rows: Vec::new(), left_out: None };
        while let Some(row) = seq.next_element::<Box<RawValue>>()? {
            match serde_json::from_str(row.get()) {
                Ok(row) => rows.rows.push(row),
                Err(error) => {
                    let name = invalid_name(&row, T::NAME).ok_or_else(|| A::Error::custom(error))?;
                    rows.left_out.get_or_insert((0, name)).0 += 1;
                }
            }
        }
        Ok(rows)
    }
}

/// The name of a row, if it is no certname; shortened, so that a hostile one cannot flood a log.
fn invalid_name(row: &RawValue, field: &str) -> Option<String> {
    let row: Value = serde_json::from_str(row.get()).ok()?;
    let name = row.get(field)?.as_str()?;
    name.parse::<Certname>().is_err().then(|| name.chars().take(80).collect())
}

/// Reads a list of rows; for a field of a larger answer.
pub(crate) fn valid<'de, T: Row, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    <Rows<T> as de::Deserialize>::deserialize(deserializer).map(Rows::valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::puppetdb::NodeStatus;

    #[test]
    fn a_row_of_a_name_that_is_no_certname_is_left_out_and_counted() {
        let rows: Rows<NodeStatus> = serde_json::from_str(
            r#"[{"certname":"a"},{"certname":"Not A Certname"},{"certname":"b"},{"certname":""}]"#,
        )
        .unwrap();
        assert_eq!(rows.left_out, Some((2, "Not A Certname".to_owned())));
        let names: Vec<String> = rows.valid().into_iter().map(|node| node.certname.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn the_row_of_a_valid_name_that_cannot_be_read_is_not_taken_for_absent() {
        for row in [r#"{"certname":"a","deactivated":"never"}"#, r#"{"name":"a"}"#, "7"] {
            assert!(serde_json::from_str::<Rows<NodeStatus>>(&format!("[{row}]")).is_err(), "{row}");
        }
    }
}
