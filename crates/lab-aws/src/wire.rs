//! The AWS wire protocols: which service and action a request means, its parameters, and the answers' outer
//! form. No I/O.
//!
//! Auto Scaling and SNS speak awsQuery, EC2 speaks ec2Query, Secrets Manager speaks awsJson 1.1
//! (<https://smithy.io/2.0/aws/protocols/>).

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_core::server::{Reply, Request};
use uuid::Uuid;

use crate::xml::Xml;

/// A service behind the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    AutoScaling,
    Ec2,
    SecretsManager,
    Sns,
    /// Not simulated, or the request does not say.
    Unknown,
}

impl Target {
    /// The name in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AutoScaling => "autoscaling",
            Self::Ec2 => "ec2",
            Self::SecretsManager => "secretsmanager",
            Self::Sns => "sns",
            Self::Unknown => "aws",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::Sns => "http://sns.amazonaws.com/doc/2010-03-31/",
            _ => "http://autoscaling.amazonaws.com/doc/2011-01-01/",
        }
    }
}

/// A request, taken apart.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) target: Target,
    /// `DescribeAutoScalingGroups`; empty when the request names none.
    pub(crate) action: String,
    /// The parameters as an object. The query protocols only know text, so numbers and booleans are strings there.
    pub(crate) parameters: Value,
    /// Whether there is an `Authorization` header of Signature Version 4.
    pub(crate) signed: bool,
}

impl Ask {
    pub(crate) fn of(request: &Request) -> Self {
        let signed_for = request.header("authorization").and_then(scope_service);
        let signed = signed_for.is_some();
        if let Some(target) = request.header("x-amz-target") {
            let (service, action) = target.rsplit_once('.').unwrap_or(("", target));
            let target = match service {
                "secretsmanager" => Target::SecretsManager,
                _ => Target::Unknown,
            };
            let parameters = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
            return Self { target, action: action.to_owned(), parameters, signed };
        }
        let mut pairs = request.query.clone();
        pairs.extend(form_urlencoded::parse(&request.body).into_owned());
        let mut take = |name: &str| {
            let at = pairs.iter().position(|(key, _)| key == name)?;
            Some(pairs.remove(at).1)
        };
        let action = take("Action").unwrap_or_default();
        let version = take("Version").unwrap_or_default();
        let target = match (signed_for.as_deref(), version.as_str()) {
            (Some("autoscaling"), _) | (None, "2011-01-01") => Target::AutoScaling,
            (Some("ec2"), _) | (None, "2016-11-15") => Target::Ec2,
            (Some("sns"), _) | (None, "2010-03-31") => Target::Sns,
            _ => Target::Unknown,
        };
        Self { target, action, parameters: unflatten(&pairs), signed }
    }

    /// A parameter that is text, if it is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A parameter that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, AwsError> {
        self.text(name).ok_or_else(|| {
            // "autoScalingGroupName": AWS names the member with a small first letter here.
            let mut member = name.to_owned();
            if let Some(first) = member.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            AwsError::validation(format!(
                "1 validation error detected: Value null at '{member}' failed to satisfy constraint: \
                 Member must not be null"
            ))
        })
    }

    /// A list of texts; empty when it is not there.
    pub(crate) fn texts(&self, name: &str) -> Vec<&str> {
        self.items(name).iter().filter_map(Value::as_str).collect()
    }

    /// A list; empty when it is not there.
    pub(crate) fn items(&self, name: &str) -> &[Value] {
        self.parameters.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The filters of the query protocols: names with their values.
    pub(crate) fn filters(&self, list: &str, values: &str) -> Vec<(&str, Vec<&str>)> {
        self.items(list)
            .iter()
            .map(|filter| {
                let name = filter.get("Name").and_then(Value::as_str).unwrap_or("");
                let values = filter.get(values).and_then(Value::as_array);
                (name, values.into_iter().flatten().filter_map(Value::as_str).collect())
            })
            .collect()
    }
}

/// The service named in `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …`.
fn scope_service(authorization: &str) -> Option<String> {
    let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let credential = parameters.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
    let mut parts = credential.rsplit('/');
    (parts.next()? == "aws4_request").then(|| parts.next().map(str::to_owned))?
}

/// `Filters.member.1.Name=x` to `{"Filters": [{"Name": "x"}]}`; ec2Query leaves `member` out.
fn unflatten(pairs: &[(String, String)]) -> Value {
    let mut root = Value::Object(Map::new());
    for (key, value) in pairs {
        let mut place = &mut root;
        let mut segments = key.split('.').peekable();
        while let Some(segment) = segments.next() {
            let next_is_number = segments.peek().is_some_and(|next| is_index(next));
            if matches!(segment, "member" | "entry") && next_is_number {
                continue;
            }
            place = step(place, segment);
        }
        *place = Value::String(value.clone());
    }
    root
}

fn is_index(segment: &str) -> bool {
    segment.parse::<usize>().is_ok_and(|index| (1..=10_000).contains(&index))
}

fn step<'a>(place: &'a mut Value, segment: &str) -> &'a mut Value {
    if is_index(segment) {
        let index = segment.parse::<usize>().unwrap_or(1) - 1;
        if !place.is_array() {
            *place = Value::Array(Vec::new());
        }
        let Value::Array(items) = place else { unreachable!("made an array above") };
        if items.len() <= index {
            items.resize(index + 1, Value::Null);
        }
        &mut items[index]
    } else {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(members) = place else { unreachable!("made an object above") };
        members.entry(segment).or_insert(Value::Null)
    }
}

/// An error as a service answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AwsError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl AwsError {
    pub(crate) fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    /// `ValidationError`, HTTP 400: Auto Scaling's answer to most things it cannot do.
    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationError", message)
    }
}

/// What an action answers: the inside of `<ActionResult>` or `<ActionResponse>`, or a JSON document.
#[derive(Debug)]
pub(crate) enum Answer {
    Xml(Xml),
    Json(Value),
}

/// Wraps an action's outcome in the form of its service's protocol.
pub(crate) fn reply(ask: &Ask, outcome: Result<Answer, AwsError>) -> Reply {
    let request_id = Uuid::new_v4().to_string();
    let (status, content_type, body) = match outcome {
        Ok(Answer::Json(value)) => (200, JSON, value.to_string()),
        Ok(Answer::Xml(result)) => (200, "text/xml", success(ask, &result.into_string(), &request_id)),
        Err(error) => {
            let (content_type, body) = failure(ask.target, &error, &request_id);
            (error.status, content_type, body)
        }
    };
    let mut reply = Reply::new(Bytes::from(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    if let Ok(value) = request_id.parse() {
        headers.insert("x-amzn-requestid", value);
    }
    reply
}

const JSON: &str = "application/x-amz-json-1.1";

fn success(ask: &Ask, result: &str, request_id: &str) -> String {
    let action = &ask.action;
    if ask.target == Target::Ec2 {
        return format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
             <requestId>{request_id}</requestId>{result}</{action}Response>"
        );
    }
    let namespace = ask.target.namespace();
    format!(
        "<{action}Response xmlns=\"{namespace}\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )
}

fn failure(target: Target, error: &AwsError, request_id: &str) -> (&'static str, String) {
    let AwsError { status, code, message } = error;
    match target {
        Target::SecretsManager | Target::Unknown => {
            (JSON, serde_json::json!({"__type": code, "Message": message}).to_string())
        }
        Target::Ec2 => {
            let mut xml = Xml::default();
            xml.within("Response", |xml| {
                xml.within("Errors", |xml| {
                    xml.within("Error", |xml| {
                        xml.text("Code", code).text("Message", message);
                    });
                })
                .text("RequestID", request_id);
            });
            let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", xml.into_string());
            ("text/xml;charset=UTF-8", body)
        }
        Target::AutoScaling | Target::Sns => {
            let kind = if *status < 500 { "Sender" } else { "Receiver" };
            let mut xml = Xml::default();
            xml.within("Error", |xml| {
                xml.text("Type", kind).text("Code", code).text("Message", message);
            })
            .text("RequestId", request_id);
            let namespace = target.namespace();
            let inside = xml.into_string();
            ("text/xml", format!("<ErrorResponse xmlns=\"{namespace}\">{inside}</ErrorResponse>"))
        }
    }
}

/// The answer of a service, by its name in the journal, that refuses a call with this error: for faults.
///
/// ```
/// use stagedoor_lab_aws::error_answer;
/// let contention = error_answer("autoscaling", 500, "ResourceContention", "There is a pending update.");
/// ```
#[must_use]
pub fn error_answer(service: &str, status: u16, code: &str, message: &str) -> FaultKind {
    let all = [Target::AutoScaling, Target::Ec2, Target::SecretsManager, Target::Sns];
    let target = all.into_iter().find(|target| target.name() == service).unwrap_or(Target::Unknown);
    let error = AwsError::new(status, code, message);
    let (content_type, body) = failure(target, &error, &Uuid::new_v4().to_string());
    FaultKind::Status { status, body, content_type: Some(content_type.to_owned()) }
}

/// The answer to a request without a signature, in the words of the service.
pub(crate) fn unsigned(target: Target) -> AwsError {
    match target {
        Target::SecretsManager | Target::Unknown => {
            AwsError::new(400, "MissingAuthenticationTokenException", "Missing Authentication Token")
        }
        Target::Ec2 => AwsError::new(400, "MissingParameter", "The request must contain the parameter AWSAccessKeyId"),
        Target::AutoScaling | Target::Sns => {
            AwsError::new(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
        }
    }
}

/// The answer to an action that the lab does not simulate.
pub(crate) fn not_simulated(ask: &Ask) -> AwsError {
    let (code, message) = match ask.target {
        Target::SecretsManager | Target::Unknown => ("UnknownOperationException", String::new()),
        _ => ("InvalidAction", format!("The action {} is not valid for this endpoint.", ask.action)),
    };
    AwsError::new(400, code, message)
}

/// One page of `all`: from `token` on, `size` long, and the token of the next page if there is one.
pub(crate) fn page<T>(mut all: Vec<T>, token: Option<&str>, size: usize) -> Option<(Vec<T>, Option<String>)> {
    let start = match token {
        None => 0,
        Some(token) => token.strip_prefix("page-from-")?.parse().ok()?,
    };
    if start > all.len() {
        return None;
    }
    let next = (start + size < all.len()).then(|| format!("page-from-{}", start + size));
    Some((all.drain(start..).take(size).collect(), next))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn query_lists_become_arrays() {
        let flat = pairs(&[
            ("Filters.member.1.Name", "tag-key"),
            ("Filters.member.1.Values.member.2", "b"),
            ("Filters.member.1.Values.member.1", "a"),
            ("MaxRecords", "7"),
        ]);
        assert_eq!(
            unflatten(&flat),
            json!({"Filters": [{"Name": "tag-key", "Values": ["a", "b"]}], "MaxRecords": "7"})
        );
    }

    #[test]
    fn ec2_lists_have_no_member_segment() {
        let flat = pairs(&[("InstanceId.1", "i-1"), ("Filter.1.Value.1", "running")]);
        assert_eq!(unflatten(&flat), json!({"InstanceId": ["i-1"], "Filter": [{"Value": ["running"]}]}));
    }

    #[test]
    fn the_service_is_read_from_the_credential_scope() {
        let header = "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/sns/aws4_request, \
                      SignedHeaders=host, Signature=00";
        assert_eq!(scope_service(header).as_deref(), Some("sns"));
        assert_eq!(scope_service("Bearer token"), None);
    }

    #[test]
    fn pages_end_with_the_last_element() {
        let (first, next) = page(vec![1, 2, 3, 4], None, 3).unwrap();
        assert_eq!(first, [1, 2, 3]);
        let (second, end) = page(vec![1, 2, 3, 4], next.as_deref(), 3).unwrap();
        assert_eq!((second, end), (vec![4], None));
        assert_eq!(page(vec![1, 2, 3], None, 3).unwrap().1, None);
    }

    #[test]
    fn a_made_up_page_token_is_refused() {
        assert!(page(vec![1], Some("again"), 3).is_none());
        assert!(page(vec![1], Some("page-from-9"), 3).is_none());
    }
}
