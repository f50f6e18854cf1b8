//! The log: a JSON object a line, or plain lines for people. Writes to standard output.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope, SpanRef};

/// The field whose text is JSON: the steps of a receipt.
const STEPS: &str = "steps";

/// Starts the log. `RUST_LOG` chooses what is logged, `info` by default; `AWS_LAMBDA_LOG_FORMAT=Text` gives plain lines.
pub(crate) fn to_stdout() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let plain = std::env::var("AWS_LAMBDA_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("text"));
    if plain {
        log.with_target(false).init();
    } else {
        log.fmt_fields(JsonFields::new()).event_format(JsonLines).init();
    }
}

/// The lines of tracing-subscriber's own JSON format, flattened and without the target, except that [`STEPS`] is JSON there and not
/// a string that holds JSON: a value of `tracing` is a number, a truth value or a text, and CloudWatch Logs Insights finds
/// `steps.0.kind` only in JSON.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Line(vec![("timestamp", time.into()), ("level", event.metadata().level().as_str().into())]);
        event.record(&mut line);
        let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
        let spans: Vec<Value> = spans.map(|span| span_fields::<S, N>(&span)).collect();
        if !spans.is_empty() {
            line.0.push(("spans", spans.into()));
        }
        line.write(&mut writer)
    }
}

/// The fields of a span and its name. [`JsonFields`] has formatted the fields.
fn span_fields<S, N>(span: &SpanRef<'_, S>) -> Value
where
    S: for<'a> LookupSpan<'a>,
    N: 'static,
{
    let extensions = span.extensions();
    let fields = extensions.get::<FormattedFields<N>>().and_then(|fields| serde_json::from_str(fields).ok());
    let mut fields: Map<String, Value> = fields.unwrap_or_default();
    fields.insert("name".to_owned(), span.name().into());
    fields.into()
}

/// The members of a line, in the order in which they were recorded.
struct Line(Vec<(&'static str, Value)>);

impl Line {
    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        for (nth, (name, value)) in self.0.iter().enumerate() {
            let before = if nth == 0 { '{' } else { ',' };
            write!(writer, "{before}{}:{value}", Value::from(*name))?;
        }
        writeln!(writer, "}}")
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.push((field.name(), value.into()));
    }
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let json = (field.name() == STEPS).then(|| serde_json::from_str::<Value>(value).ok()).flatten();
        self.add(field, json.unwrap_or_else(|| value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let parsed = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            text.lines().map(parsed).collect()
        }
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that are logged meanwhile.
    fn lines(log: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(JsonLines);
        tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), log);
        captured.lines()
    }

    /// The same lines in tracing-subscriber's own format.
    fn its_lines(log: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber =
            tracing_subscriber::fmt().with_target(false).json().flatten_event(true).with_current_span(false);
        tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), log);
        captured.lines()
    }

    #[test]
    fn steps_are_json() {
        let steps = r#"[{"kind":"observed","detail":"Auto Scaling: \"Pending:Wait\"","took_ms":12}]"#.to_owned();
        let logged = lines(|| tracing::info!(outcome = "continued", steps, "it has its certificate"));
        let [line] = logged.as_slice() else { panic!("not one line: {logged:?}") };
        assert_eq!(line["steps"][0]["kind"], "observed");
        assert_eq!(line["steps"][0]["took_ms"], 12);
        assert_eq!((&line["outcome"], &line["message"]), (&"continued".into(), &"it has its certificate".into()));
    }

    #[test]
    fn steps_that_are_not_json_stay_a_text_and_so_does_json_in_another_field() {
        let logged = lines(|| tracing::info!(steps = "one, two", other = "[1]"));
        assert_eq!((&logged[0]["steps"], &logged[0]["other"]), (&"one, two".into(), &"[1]".into()));
    }

    #[test]
    fn everything_else_is_as_in_tracing_subscribers_own_format() {
        let log = || {
            let outer = tracing::info_span!("outer", request = "r-1", late = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("late", 7);
            let _inner = tracing::warn_span!("inner", number = -1).entered();
            let nothing = None::<&str>;
            tracing::warn!(yes = true, nothing, big = u64::MAX, half = 0.5, shown = ?("a", 1), "two\nlines and \"quotes\"");
            tracing::error!(error = %io::Error::other("broken"), "failed");
        };
        let (mut ours, mut its) = (lines(log), its_lines(log));
        for line in ours.iter_mut().chain(&mut its) {
            let time = line.as_object_mut().unwrap().remove("timestamp").expect("a timestamp");
            assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
        }
        assert_eq!(ours.len(), 2);
        assert_eq!(ours, its);
    }
}
