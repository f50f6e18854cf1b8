//! A JSON array, element by element as its bytes arrive: an answer of any length in the memory of one element. No I/O.

use super::network::{MEBIBYTE, Sink};

/// The most bytes of one element.
const ELEMENT: usize = MEBIBYTE;

/// Divides a JSON array of objects into its elements. It only finds where each element ends; the caller parses them.
pub(crate) struct Elements<F> {
    /// Takes the text of each element.
    each: F,
    state: State,
    /// The element that has begun.
    element: Vec<u8>,
    /// How many braces and brackets of it are open.
    depth: usize,
    /// Whether its current string has begun, and whether the next character of it is escaped.
    quoted: bool,
    escaped: bool,
}

#[derive(PartialEq)]
enum State {
    Before,
    Between,
    Within,
    After,
}

impl<F: FnMut(&[u8]) -> Result<(), String>> Elements<F> {
    pub(crate) fn new(each: F) -> Self {
        Self { each, state: State::Before, element: Vec::new(), depth: 0, quoted: false, escaped: false }
    }

    /// Whether the array was whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::After
    }

    fn byte(&mut self, byte: u8) -> Result<(), String> {
        match (&self.state, byte) {
            (State::Within, _) => return self.within(byte),
            (_, b' ' | b'\t' | b'\r' | b'\n') | (State::Between, b',') => {}
            (State::Before, b'[') => self.state = State::Between,
            (State::Between, b']') => self.state = State::After,
            (State::Between, b'{') => {
                self.state = State::Within;
                self.element.clear();
                return self.within(byte);
            }
            _ => return Err("it is not a JSON array of objects".to_owned()),
        }
        Ok(())
    }

    fn within(&mut self, byte: u8) -> Result<(), String> {
        if self.element.len() == ELEMENT {
            return Err(format!("an element of it is longer than {} MiB", ELEMENT / MEBIBYTE));
        }
        self.element.push(byte);
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            _ if self.quoted => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        if self.depth == 0 {
            self.state = State::Between;
            return (self.each)(&self.element);
        }
        Ok(())
    }
}

impl<F: FnMut(&[u8]) -> Result<(), String> + Send> Sink for Elements<F> {
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        chunk.iter().try_for_each(|byte| self.byte(*byte))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The elements of a text that arrives in chunks of this size, and whether it was whole.
    fn divide(text: &str, size: usize) -> Result<(Vec<String>, bool), String> {
        let mut found = Vec::new();
        let mut elements = Elements::new(|element: &[u8]| {
            found.push(String::from_utf8(element.to_vec()).unwrap());
            Ok(())
        });
        text.as_bytes().chunks(size).try_for_each(|chunk| elements.take(chunk))?;
        let whole = elements.is_whole();
        Ok((found, whole))
    }

    #[test]
    fn an_array_is_divided_wherever_its_bytes_are() {
        let text = " [ {\"a\":[1,{\"b\":\"}]\"}]} ,\n{\"c\\\"}\":\"\\\\\"},{}] \n";
        for size in 1..text.len() {
            let (elements, whole) = divide(text, size).unwrap();
            assert_eq!(elements, [r#"{"a":[1,{"b":"}]"}]}"#, r#"{"c\"}":"\\"}"#, "{}"]);
            assert!(whole);
        }
    }

    #[test]
    fn what_ends_early_is_not_whole_and_what_is_no_array_of_objects_is_refused() {
        for early in ["", "[", "[{}", "[{}, {\"a\":1}", "[{\"a\":1"] {
            assert!(!divide(early, 2).unwrap().1, "{early}");
        }
        for other in ["{}", "<html>", "[1]", "[{}] []", "[\"a\"]", "null"] {
            assert!(divide(other, 2).is_err(), "{other}");
        }
    }

    #[test]
    fn an_endless_element_is_not_kept() {
        let mut elements = Elements::new(|_: &[u8]| Ok(()));
        elements.take(b"[{\"a\":\"").unwrap();
        let mut taken = 0;
        while elements.take(&[b'x'; 4096]).is_ok() {
            taken += 4096;
            assert!(taken <= ELEMENT, "it is kept");
        }
    }

    proptest! {
        #[test]
        fn the_elements_are_those_of_the_whole_text(
            texts in prop::collection::vec(".{0,12}", 0..8),
            size in 1..40_usize,
        ) {
            let values: Vec<_> = texts.iter().map(|text| serde_json::json!({ (text.as_str()): [text, {"x": text}] })).collect();
            let (elements, whole) = divide(&serde_json::to_string(&values).unwrap(), size).unwrap();
            let read: Vec<serde_json::Value> = elements.iter().map(|one| serde_json::from_str(one).unwrap()).collect();
            prop_assert_eq!(read, values);
            prop_assert!(whole);
        }
    }
}
