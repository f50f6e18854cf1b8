//! Building answers. No I/O.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;
use stagedoor_lab_core::server::Reply;

/// Puppet Server's handlers.
pub(crate) const PLAIN: &str = "text/plain";
/// The shared middleware of the Clojure services.
pub(crate) const PLAIN_UTF8: &str = "text/plain; charset=utf-8";

/// An answer without a content type.
pub(crate) fn bare(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = bare(status, body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Compact JSON, as the CA and the status service write it.
pub(crate) fn json(status: StatusCode, content_type: &'static str, body: &Value) -> Reply {
    typed(status, content_type, body.to_string())
}

/// Whether the `Accept` header, if there is one, takes one of `offered`.
pub(crate) fn accepts(headers: &HeaderMap, offered: &[&str]) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or("").trim())
        .peekable();
    ranges.peek().is_none()
        || ranges.any(|range| match range.strip_suffix("/*") {
            Some("*") => true,
            Some(family) => offered.iter().any(|one| one.split('/').next() == Some(family)),
            None => offered.contains(&range),
        })
}

/// A header's text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The content type without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    Some(header(headers, "content-type")?.split(';').next().unwrap_or("").trim())
}
