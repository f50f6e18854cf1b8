//! What fits into the answer of a function and into a message to the topic, by bytes. Pure.

use serde_json::{Value, json};
use stagedoor_lifecycle::receipt::Receipt;

/// The most bytes of an answer. Lambda's limit for a synchronous invocation is 6,291,556
/// ([quotas](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)); a longer answer makes a failure of an
/// invocation that has succeeded.
const ANSWER: usize = 6_000_000;
/// The most bytes of a message. SNS's limit is 262,144, with subject and attributes
/// ([`Publish`](https://docs.aws.amazon.com/sns/latest/api/API_Publish.html)).
const MESSAGE: usize = 240_000;
/// The most entries of one message, so that a person can read it.
const ENTRIES: usize = 100;

/// Distributes entries over as many messages as they need.
pub(crate) fn messages(entries: impl IntoIterator<Item = Value>) -> Vec<Vec<Value>> {
    let mut messages: Vec<Vec<Value>> = Vec::new();
    let mut size = MESSAGE;
    for entry in entries {
        let bytes = bytes(&entry);
        match messages.last_mut() {
            Some(message) if message.len() < ENTRIES && size + bytes <= MESSAGE => {
                message.push(entry);
                size += bytes;
            }
            _ => {
                messages.push(vec![entry]);
                size = bytes;
            }
        }
    }
    messages
}

/// A text of at most so many characters.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The answer with these receipts, and with the result of the housekeeping, if there was one. Where that is too long, the last
/// receipts are without steps, or missing, and `left_out` says how many. The log has all of them.
pub(crate) fn answer(receipts: &[Receipt], housekeeping: Option<Value>) -> Value {
    let mut results: Vec<Value> = receipts.iter().map(|receipt| json!(receipt)).collect();
    let mut size = results.iter().map(bytes).sum::<usize>() + housekeeping.as_ref().map_or(0, bytes);
    let mut without_steps = 0;
    for result in results.iter_mut().rev() {
        if size <= ANSWER {
            break;
        }
        size -= bytes(result);
        result["steps"] = json!([]);
        size += bytes(result);
        without_steps += 1;
    }
    while size > ANSWER
        && let Some(last) = results.pop()
    {
        size -= bytes(&last);
    }
    let missing = receipts.len() - results.len();
    let mut answer = json!({ "results": results });
    if without_steps > 0 {
        answer["left_out"] = json!({ "steps_of": without_steps, "receipts": missing });
    }
    if let Some(housekeeping) = housekeeping {
        answer["housekeeping"] = housekeeping;
    }
    answer
}

/// The bytes of a value as JSON, with the comma behind it.
fn bytes(value: &Value) -> usize {
    value.to_string().len() + 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stagedoor_lifecycle::reason::Code;
    use stagedoor_lifecycle::receipt::{Outcome, Step, StepKind};

    use super::*;

    fn receipt(number: usize, reason: usize, steps: usize) -> Receipt {
        Receipt {
            instance_id: format!("i-{number:017x}").parse().ok(),
            steps: vec![Step::new(StepKind::Observed, Duration::ZERO, "s".repeat(steps))],
            ..Receipt::bare(Outcome::Continued, Code::Enrolled, "ü".repeat(reason))
        }
    }

    fn ids(answer: &Value) -> Vec<&str> {
        answer["results"].as_array().unwrap().iter().filter_map(|result| result["instance_id"].as_str()).collect()
    }

    #[test]
    fn an_answer_that_fits_is_whole() {
        let answer = answer(&[receipt(1, 10, 10)], Some(json!({"orphans": null})));
        assert_eq!((ids(&answer).len(), answer.get("left_out")), (1, None));
        assert_eq!(answer["results"][0]["steps"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn steps_go_before_receipts_and_how_many_is_said() {
        let receipts: Vec<Receipt> = (0..1000).map(|number| receipt(number, 100, 10_000)).collect();
        let answer = answer(&receipts, None);
        assert!(answer.to_string().len() <= ANSWER + 100, "{}", answer.to_string().len());
        assert_eq!((ids(&answer).len(), &answer["left_out"]["receipts"]), (1000, &json!(0)));
        let without =
            answer["results"].as_array().unwrap().iter().filter(|result| result["steps"] == json!([])).count();
        assert_eq!(answer["left_out"]["steps_of"], without);
        assert_eq!(answer["results"][0]["steps"].as_array().unwrap().len(), 1, "the first keep theirs");
    }

    #[test]
    fn receipts_that_are_too_many_without_steps_are_left_out_and_counted() {
        let receipts: Vec<Receipt> = (0..1000).map(|number| receipt(number, 5_000, 10)).collect();
        let answer = answer(&receipts, Some(json!({"orphans": "x".repeat(1000)})));
        assert!(answer.to_string().len() <= ANSWER + 100, "{}", answer.to_string().len());
        let left = ids(&answer).len();
        assert!(left > 500 && answer["left_out"]["receipts"] == 1000 - left, "{left}");
    }

    #[test]
    fn messages_are_divided_by_their_bytes_and_lose_no_entry() {
        // Escaped, each character has six bytes.
        let entries =
            |count: usize, characters: usize| (0..count).map(move |_| json!({"reason": "\u{1}".repeat(characters)}));
        for (count, characters) in [(1, 10), (100, 10), (101, 10), (300, 500), (90, 3_000)] {
            let all = messages(entries(count, characters));
            assert_eq!(all.iter().map(Vec::len).sum::<usize>(), count);
            assert!(all.iter().all(|one| one.len() <= ENTRIES && json!(one).to_string().len() <= MESSAGE + 10));
        }
        assert_eq!(messages(entries(300, 500)).len(), 4, "by bytes and not only by number");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöü", 2), "äö…");
    }
}
