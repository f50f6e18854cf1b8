//! The Lambda Runtime API for function binaries, and the Invoke API for callers. HTTP is served by
//! [`stagedoor_lab_core::server`]; waits for functions.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>,
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use stagedoor_lab_aws::ACCOUNT;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::{Call, Reply, Request, Service};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

const RUNTIME: &str = "2018-06-01";
const INVOKE: &str = "2015-03-31";

/// The functions of a lab: invocations wait here until a runtime fetches them, and callers until it answers.
/// Clones share them.
#[derive(Clone, Debug)]
pub struct Lambda {
    region: String,
    timeout: Duration,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Invocation>,
    running: HashMap<String, oneshot::Sender<Outcome>>,
}

#[derive(Debug)]
struct Invocation {
    id: String,
    function: String,
    payload: Bytes,
    answer: oneshot::Sender<Outcome>,
}

/// What a function made of an invocation: its response or its error document.
type Outcome = Result<Bytes, Bytes>;

/// Why an invocation has no response.
#[derive(Debug)]
pub enum InvokeError {
    /// The function answered with an error, at `/error` or `/init/error`: its document, mostly
    /// `{"errorType", "errorMessage", …}`.
    Function(Value),
    /// No runtime answered in time.
    TimedOut(Duration),
    /// The response is not JSON.
    NotJson(String),
}

impl std::fmt::Display for InvokeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Function(document) => write!(f, "the function failed: {document}"),
            Self::TimedOut(after) => {
                write!(
                    f,
                    "no answer within {} s; is the function running with AWS_LAMBDA_RUNTIME_API set?",
                    after.as_secs()
                )
            }
            Self::NotJson(error) => write!(f, "the function's response is not JSON: {error}"),
        }
    }
}

impl std::error::Error for InvokeError {}

impl Lambda {
    pub(crate) fn new(region: String, timeout: Duration) -> Self {
        Self { region, timeout, inner: Arc::default() }
    }

    /// Invokes a function and waits for its answer, at most as long as a function may run.
    ///
    /// # Errors
    /// See [`InvokeError`].
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Value, InvokeError> {
        let outcome = self.run(function, payload.to_string().into()).await;
        match outcome.ok_or(InvokeError::TimedOut(self.timeout))? {
            Ok(response) => serde_json::from_slice(&response).map_err(|error| InvokeError::NotJson(error.to_string())),
            Err(document) => Err(InvokeError::Function(
                serde_json::from_slice(&document)
                    .unwrap_or_else(|_| json!({"errorMessage": String::from_utf8_lossy(&document)})),
            )),
        }
    }

    /// `None`: timed out.
    async fn run(&self, function: &str, payload: Bytes) -> Option<Outcome> {
        let (id, answered) = self.enqueue(function, payload);
        let outcome = tokio::time::timeout(self.timeout, answered).await;
        let mut queue = self.lock();
        queue.waiting.retain(|invocation| invocation.id != id);
        queue.running.remove(&id);
        outcome.ok()?.ok()
    }

    fn enqueue(&self, function: &str, payload: Bytes) -> (String, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        let id = Uuid::new_v4().to_string();
        let invocation = Invocation { id: id.clone(), function: function.to_owned(), payload, answer };
        self.lock().waiting.push_back(invocation);
        self.inner.arrived.notify_waiters();
        (id, answered)
    }

    /// Waits for an invocation of `function`, or of any function.
    async fn next(&self, function: Option<&str>) -> Reply {
        loop {
            // Registered before the queue is read, so that no invocation in between goes unnoticed.
            let arrived = self.inner.arrived.notified();
            if let Some(reply) = self.take(function) {
                return reply;
            }
            arrived.await;
        }
    }

    fn take(&self, function: Option<&str>) -> Option<Reply> {
        let mut queue = self.lock();
        let wanted = |invocation: &Invocation| function.is_none_or(|name| name == invocation.function);
        let index = queue.waiting.iter().position(wanted)?;
        let Invocation { id, function, payload, answer } = queue.waiting.remove(index)?;
        let mut reply = answer_json(StatusCode::OK, payload);
        // A function compares the deadline with the machine's clock.
        let deadline = Clock::machine_now().as_millisecond() + i64::try_from(self.timeout.as_millis()).unwrap_or(0);
        let region = &self.region;
        let seconds = deadline / 1000;
        let root: String = Uuid::new_v4().simple().to_string().chars().take(24).collect();
        let headers = [
            ("lambda-runtime-aws-request-id", id.clone()),
            ("lambda-runtime-deadline-ms", deadline.to_string()),
            ("lambda-runtime-invoked-function-arn", format!("arn:aws:lambda:{region}:{ACCOUNT}:function:{function}")),
            ("lambda-runtime-trace-id", format!("Root=1-{seconds:08x}-{root};Sampled=0")),
        ];
        for (name, value) in headers {
            // A function name that cannot stand in a header is left out.
            if let Ok(value) = HeaderValue::from_str(&value) {
                reply.headers_mut().insert(name, value);
            }
        }
        queue.running.insert(id, answer);
        Some(reply)
    }

    fn settle(&self, id: &str, outcome: Outcome) -> Reply {
        match self.lock().running.remove(id) {
            Some(answer) => {
                // No caller waits for it any more if it timed out or was invoked as an event.
                let _ = answer.send(outcome);
                answer_json(StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
            }
            None => answer_json(
                StatusCode::BAD_REQUEST,
                r#"{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}"#,
            ),
        }
    }

    /// A function that cannot start fails everything that waits for it.
    fn init_failed(&self, function: Option<&str>, document: &Bytes) -> Reply {
        let mut queue = self.lock();
        let (failed, rest): (Vec<_>, Vec<_>) =
            queue.waiting.drain(..).partition(|invocation| function.is_none_or(|name| name == invocation.function));
        queue.waiting = rest.into();
        for invocation in failed {
            let _ = invocation.answer.send(Err(document.clone()));
        }
        answer_json(StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
    }

    /// The Invoke API.
    async fn invoke_over_http(&self, function: &str, request: &Request) -> Reply {
        // A name, or an ARN that ends in it, perhaps with a version.
        let mut parts = function.split(':');
        let function = if function.starts_with("arn:") { parts.nth(6) } else { parts.next() };
        let function = function.unwrap_or_default();
        match request.header("x-amz-invocation-type") {
            Some("DryRun") => return answer_json(StatusCode::NO_CONTENT, ""),
            Some("Event") => {
                drop(self.enqueue(function, request.body.clone()));
                return answer_json(StatusCode::ACCEPTED, "");
            }
            _ => {}
        }
        let outcome = self.run(function, request.body.clone()).await;
        let (failed, body) = match outcome {
            Some(Ok(body)) => (false, body),
            Some(Err(document)) => (true, document),
            None => {
                let message = format!("Task timed out after {}.00 seconds", self.timeout.as_secs());
                let document = json!({"errorType": "Sandbox.Timedout", "errorMessage": message});
                (true, document.to_string().into())
            }
        };
        let mut reply = answer_json(StatusCode::OK, body);
        reply.headers_mut().insert("x-amz-executed-version", HeaderValue::from_static("$LATEST"));
        if failed {
            reply.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
        }
        reply
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service for Lambda {
    // A runtime that hung up must not be handed an invocation.
    const OUTLIVES_ITS_CALLER: bool = false;

    fn describe(&self, request: &Request) -> Call {
        Call {
            service: "lambda",
            call: format!("{} {}", request.method, request.path),
            subject: None,
            caller: None,
            request: Value::Null,
        }
    }

    async fn answer(&self, request: &Request) -> Reply {
        let segments = request.segments();
        let mut path: Vec<&str> = segments.iter().map(String::as_str).collect();
        // `AWS_LAMBDA_RUNTIME_API=host:port/name` serves one function only, as under `cargo lambda watch`.
        let function = (path.get(1) == Some(&RUNTIME)).then(|| path.remove(0));
        match (&request.method, path.as_slice()) {
            (&Method::GET, [RUNTIME, "runtime", "invocation", "next"]) => self.next(function).await,
            (&Method::POST, [RUNTIME, "runtime", "invocation", id, "response"]) => {
                self.settle(id, Ok(request.body.clone()))
            }
            (&Method::POST, [RUNTIME, "runtime", "invocation", id, "error"]) => {
                self.settle(id, Err(request.body.clone()))
            }
            (&Method::POST, [RUNTIME, "runtime", "init", "error"]) => self.init_failed(function, &request.body),
            (&Method::POST, [INVOKE, "functions", name, "invocations"]) => self.invoke_over_http(name, request).await,
            _ => answer_json(
                StatusCode::NOT_FOUND,
                r#"{"errorMessage":"no such path in the Runtime API or the Invoke API","errorType":"NotFound"}"#,
            ),
        }
    }
}

fn answer_json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = Reply::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lambda() -> Lambda {
        Lambda::new("eu-west-1".into(), Duration::from_secs(60))
    }

    async fn ask(lambda: &Lambda, method: Method, path: &str, body: &str) -> Reply {
        let request = Request {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: http::HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            peer: None,
        };
        lambda.answer(&request).await
    }

    /// Fetches the next invocation and answers it at `end`.
    async fn run_once(lambda: &Lambda, prefix: &str, end: &str, body: &str) -> Reply {
        let next = ask(lambda, Method::GET, &format!("{prefix}/2018-06-01/runtime/invocation/next"), "").await;
        let id = next.headers()["lambda-runtime-aws-request-id"].to_str().unwrap();
        let path = format!("{prefix}/2018-06-01/runtime/invocation/{id}/{end}");
        assert_eq!(ask(lambda, Method::POST, &path, body).await.status(), 202);
        next
    }

    #[tokio::test]
    async fn a_runtime_that_waits_already_gets_the_invocation() {
        let lambda = lambda();
        let runtime = run_once(&lambda, "", "response", "{\"done\":true}");
        let event = json!({"hello": 1});
        let (next, answer) = tokio::join!(runtime, lambda.invoke("purge", &event));
        assert_eq!(answer.unwrap(), json!({"done": true}));
        assert_eq!(next.body().as_ref(), b"{\"hello\":1}");
        let arn = &next.headers()["lambda-runtime-invoked-function-arn"];
        assert_eq!(arn, "arn:aws:lambda:eu-west-1:111122223333:function:purge");
        let deadline: i64 = next.headers()["lambda-runtime-deadline-ms"].to_str().unwrap().parse().unwrap();
        assert!(deadline > Clock::machine_now().as_millisecond());
    }

    #[tokio::test]
    async fn an_error_of_the_function_comes_back_as_its_document() {
        let lambda = lambda();
        let document = "{\"errorType\":\"Oops\",\"errorMessage\":\"no\"}";
        let event = json!({});
        let (_, answer) = tokio::join!(run_once(&lambda, "", "error", document), lambda.invoke("purge", &event));
        let Err(InvokeError::Function(found)) = answer else { panic!("{answer:?}") };
        assert_eq!(found["errorType"], "Oops");
    }

    #[tokio::test]
    async fn a_runtime_with_a_name_in_its_path_gets_its_own_invocations_only() {
        let lambda = lambda();
        let (purge, onboard) = (json!("for purge"), json!("for onboard"));
        let (_, _, next, _) = tokio::join!(
            lambda.invoke("purge", &purge),
            lambda.invoke("onboard", &onboard),
            run_once(&lambda, "/onboard", "response", "1"),
            run_once(&lambda, "/purge", "response", "2"),
        );
        assert_eq!(next.body().as_ref(), b"\"for onboard\"");
    }

    #[tokio::test]
    async fn an_invocation_that_nobody_fetches_times_out_and_is_not_fetched_later() {
        let lambda = Lambda::new("eu-west-1".into(), Duration::ZERO);
        let answer = lambda.invoke("purge", &json!({})).await;
        assert!(matches!(answer, Err(InvokeError::TimedOut(_))), "{answer:?}");
        assert!(lambda.take(None).is_none());
    }

    #[tokio::test]
    async fn a_function_that_cannot_start_fails_what_waits_for_it() {
        let lambda = lambda();
        let event = json!({});
        let failing = ask(&lambda, Method::POST, "/2018-06-01/runtime/init/error", "{\"errorType\":\"Init\"}");
        let (answer, _) = tokio::join!(lambda.invoke("purge", &event), failing);
        assert!(matches!(answer, Err(InvokeError::Function(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn an_answer_to_an_unknown_invocation_is_refused() {
        let path = "/2018-06-01/runtime/invocation/none/response";
        assert_eq!(ask(&lambda(), Method::POST, path, "1").await.status(), 400);
    }
}
