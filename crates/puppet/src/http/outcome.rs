//! What an HTTP answer, or the lack of one, means. No I/O.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;
use stagedoor_types::Certname;

use super::Failure;
use crate::error::{Call, Error, Service};

/// Longest quotation of a server in an error.
const WORDS_LIMIT: usize = 300;

/// An HTTP answer with its whole body.
pub(crate) struct Answer {
    pub(super) call: Call,
    pub(crate) status: u16,
    /// `X-Puppet-Version`: sent with every answer of Puppet Server's CA, and by no other service.
    pub(super) puppet_version: Option<String>,
    /// `Date`: the server's clock when it answered.
    pub(crate) date: Option<HeaderValue>,
    /// How long the whole answer took.
    pub(crate) took: Duration,
    pub(super) body: Vec<u8>,
    /// The controller's certname, which remedies name.
    pub(super) own_name: Certname,
    pub(super) token: Option<HeaderValue>,
}

impl Answer {
    /// The body as text; certificates, CRLs and error texts are ASCII or UTF-8.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "its JSON has another shape",
                _ => "it is not JSON",
            };
            self.unexpected(format!("{what}: {}", self.words()))
        })
    }

    /// Whether the Puppet CA itself is speaking, rather than something between us and it: its
    /// version header, or, where a proxy drops headers, its very words.
    pub(crate) fn is_from_ca(&self, known: &[&str]) -> bool {
        let text = self.text();
        let text = text.trim();
        // The answer to a route that the server does not have, be it header or not.
        text != "Not Found"
            && !is_html(text)
            && (self.puppet_version.is_some() || known.iter().any(|words| text.starts_with(words)))
    }

    /// A time at which the server had not begun with this answer, by its own clock; `None` where it does not say what time it is.
    /// The whole answer took longer than the part of it before the server wrote down the time, in whole seconds.
    pub(crate) fn began(&self) -> Option<HeaderValue> {
        let date = jiff::fmt::rfc2822::parse(self.date.as_ref()?.to_str().ok()?).ok()?.timestamp();
        let took = SignedDuration::try_from(self.took + Duration::from_secs(1)).ok()?;
        let began = date.checked_sub(took).ok()?;
        began.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string().try_into().ok()
    }

    /// The last part of a Puppet Enterprise error's `kind`: prefixes differ between versions.
    pub(crate) fn kind(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        json.get("kind")?.as_str()?.rsplit('/').next().map(str::to_owned)
    }

    /// A request that cannot be read still counts as a request; anything else in its place does not. The CA answers with the file as it is,
    /// which is empty if the disk was full.
    pub(crate) fn unreadable_request(&self, problem: String) -> Error {
        let text = self.text();
        let is_empty = text.trim().is_empty() && self.puppet_version.is_some();
        if is_empty || text.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
            Error::UnreadableRequest { call: self.call.clone(), problem }
        } else {
            self.unexpected(problem)
        }
    }

    pub(crate) fn unexpected(&self, reason: impl Into<String>) -> Error {
        Error::Unexpected { call: self.call.clone(), reason: reason.into() }
    }

    pub(crate) fn refused(&self, remedy: Option<&'static str>) -> Error {
        Error::Refused { call: self.call.clone(), status: self.status, words: self.words(), remedy }
    }

    pub(crate) fn unauthorized(&self, words: impl Into<String>) -> Error {
        Error::Unauthorized { call: self.call.clone(), words: words.into() }
    }

    pub(crate) fn busy(&self) -> Error {
        Error::Busy { call: self.call.clone(), status: self.status, words: self.words() }
    }

    /// The meaning of a status that the call does not handle itself.
    pub(crate) fn into_error(self) -> Error {
        let words = self.words();
        match self.status {
            401 => Error::Unauthorized { call: self.call, words },
            403 => {
                let remedy = remedy(&self.call, &self.own_name, &words);
                Error::NotPermitted { call: self.call, words, remedy }
            }
            500 if is_lock_timeout(&self.text()) => Error::Locked { call: self.call, words },
            429 | 500..=599 => Error::Busy { call: self.call, status: self.status, words },
            // Unknown routes included: then this is not the service that it was taken for.
            404 if self.body.trim_ascii() == b"Not Found" || is_html(&self.text()) => Error::Unexpected {
                reason: format!("404 for a route that the service must have, is the address right? {words}"),
                call: self.call,
            },
            400..=499 => Error::Refused { call: self.call, status: self.status, words, remedy: None },
            status => Error::Unexpected { reason: format!("status {status}: {words}"), call: self.call },
        }
    }

    /// The server's words on one line: out of JSON where there is any, shortened, and without the
    /// token should a server echo it.
    pub(crate) fn words(&self) -> String {
        let text = self.text();
        let mut words = serde_json::from_slice::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|json| ["msg", "error"].iter().find_map(|key| Some(json.get(key)?.as_str()?.to_owned())))
            .unwrap_or_else(|| if is_html(&text) { "an HTML page".to_owned() } else { text });
        if let Some(token) = self.token.as_ref().and_then(|token| token.to_str().ok()) {
            words = words.replace(token, "[redacted]");
        }
        shorten(&words)
    }
}

/// Whether the CA waited for the lock of a file in vain. Its exception says so in English whatever the language of its messages.
fn is_lock_timeout(text: &str) -> bool {
    text.contains("lock-acquisition-timeout")
}

/// Balancers answer in HTML, whatever their Content-Type says; Puppet services never do.
pub(crate) fn is_html(text: &str) -> bool {
    text.trim_start().starts_with('<')
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if line.is_empty() {
        return "(no text)".to_owned();
    }
    match line.char_indices().nth(WORDS_LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// What an operator must change to resolve a 403.
fn remedy(call: &Call, own_name: &Certname, words: &str) -> String {
    let token = if words.contains("RBAC Message:") {
        " The RBAC token that was sent has been rejected: renew it, or give its role the permission \
         cert_requests:accept_reject."
    } else {
        ""
    };
    match call.service {
        Service::Ca => format!(
            "Allow {own_name} in the rule for this route in the CA host's auth.conf (certificate \
             extension pp_cli_auth, or a rule of its own with a sort-order below 500), then reload \
             puppetserver; on Puppet Enterprise use an RBAC token whose role may accept and reject \
             certificate requests.{token}"
        ),
        Service::PuppetDb => format!(
            "Add {own_name} to PuppetDB's certificate-allowlist and restart PuppetDB; on Puppet \
             Enterprise use an RBAC token whose role has nodes:view_data and nodes:edit_data."
        ),
        Service::Orchestrator => "Give the role of the RBAC token the permissions puppet_agent:run (to run Puppet), \
             orchestrator:view (to see jobs) and nodes:view_data (to see who is connected)."
            .to_owned(),
        Service::Classifier => "Give the role of the RBAC token the permission node_groups:view and, on the parents \
             of the groups that nodes are pinned to, node_groups:edit_child_rules."
            .to_owned(),
        Service::Rbac => "This question needs no permission: is this the address of Puppet Enterprise's RBAC \
             service (port 4433 of the primary)?"
            .to_owned(),
        Service::Status => "Allow everybody GET /status/v1 in the service's auth.conf, as it is shipped.".to_owned(),
    }
}

/// Determines which side of the connection failed, and how.
pub(super) fn judge(error: &reqwest::Error, timeout: Duration) -> Failure {
    // First of all: with TLS 1.3 the server judges our certificate after we consider the handshake
    // done, so its alert arrives on the first read (RFC 8446, section 4.4.2.4).
    match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidMessage(_)) => {
            return Failure::NotUnderstood("the server does not speak TLS".to_owned());
        }
        Some(tls) => return Failure::TlsRefused(tls_words(tls)),
        None => {}
    }
    let reason = innermost(error);
    if error.is_timeout() {
        Failure::Unreachable(if error.is_connect() {
            "no connection in time".to_owned()
        } else {
            format!("no answer within {} s", timeout.as_secs())
        })
    } else if error.is_connect() && was_closed(error) {
        Failure::CutInHandshake(format!("the server closed the connection during the TLS handshake: {reason}"))
    } else if error.is_connect() {
        Failure::Unreachable(format!("no connection: {reason}"))
    } else {
        Failure::Cut(format!("the connection was cut: {reason}"))
    }
}

/// Whether the peer closed a connection that had been established.
fn was_closed(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.last().is_some_and(|kind| matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

fn tls_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => format!(
            "the server did not accept the controller's certificate (alert {alert:?}); it may be \
             revoked, expired or from another CA"
        ),
        rustls::Error::InvalidCertificate(why) => format!(
            "the server's certificate was not accepted ({why}); it must be issued by the CA in \
             ca_cert and name the host that is called"
        ),
        other => other.to_string(),
    }
}

/// Walks the chain of causes. An `io::Error` hides the error it wraps from `source()`.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref::<E>())
}

/// The last cause says what happened; those before it only where.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map_or_else(String::new, |cause| shorten(&cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(service: Service, status: u16, version: Option<&str>, body: &str) -> Answer {
        Answer {
            call: Call { service, name: "GET x", subject: None },
            status,
            puppet_version: version.map(str::to_owned),
            date: None,
            took: Duration::ZERO,
            body: body.into(),
            own_name: "lc.example.net".parse().unwrap(),
            token: Some(HeaderValue::from_static("0token1")),
        }
    }

    fn error(status: u16, body: &str) -> Error {
        answer(Service::Ca, status, None, body).into_error()
    }

    #[test]
    fn each_status_means_one_next_move() {
        for (status, name) in [
            (301, "Unexpected"),
            (400, "Refused"),
            (401, "Unauthorized"),
            (403, "NotPermitted"),
            (405, "Refused"),
            (406, "Refused"),
            (409, "Refused"),
            (413, "Refused"),
            (415, "Refused"),
            (429, "Busy"),
            (500, "Busy"),
            (502, "Busy"),
            (503, "Busy"),
        ] {
            assert_eq!(error(status, "text").name(), name, "{status}");
        }
    }

    #[test]
    fn a_403_of_the_ca_names_the_rule_to_add_and_who_for() {
        let body = "Forbidden request: /puppet-ca/v1/clean (method :put). Please see the server logs for details.";
        let text = error(403, body).to_string();
        assert!(text.contains("auth.conf") && text.contains("lc.example.net"), "{text}");
        assert!(!text.contains("RBAC token that was sent"), "{text}");
    }

    #[test]
    fn a_403_with_an_rbac_message_speaks_of_the_token() {
        let body = "Forbidden request: /puppet-ca/v1/clean (method :put). RBAC Message: expired Please see the server logs for details.";
        assert!(error(403, body).to_string().contains("RBAC token that was sent has been rejected"));
    }

    #[test]
    fn a_403_of_puppetdb_names_its_allowlist() {
        let body =
            "Permission denied: The client certificate name lc.example.net doesnt appear in the certificate allowlist.";
        let text = answer(Service::PuppetDb, 403, None, body).into_error().to_string();
        assert!(text.contains("certificate-allowlist") && text.contains("lc.example.net"), "{text}");
    }

    #[test]
    fn a_403_of_a_puppet_enterprise_service_names_the_permission() {
        for (service, permission) in [
            (Service::Orchestrator, "puppet_agent:run"),
            (Service::Classifier, "node_groups:edit_child_rules"),
            (Service::Rbac, "port 4433"),
            (Service::Status, "/status/v1"),
        ] {
            let text = answer(service, 403, None, r#"{"kind":"x","msg":"no"}"#).into_error().to_string();
            assert!(text.contains(permission), "{text}");
        }
    }

    #[test]
    fn the_kind_of_an_error_is_known_by_its_last_part() {
        let kind = |body| answer(Service::Orchestrator, 400, None, body).kind();
        assert_eq!(kind(r#"{"kind":"puppetlabs.orchestrator/empty-target"}"#).as_deref(), Some("empty-target"));
        assert_eq!(kind(r#"{"kind":"not-found"}"#).as_deref(), Some("not-found"));
        assert_eq!(kind("<html>"), None);
    }

    #[test]
    fn words_come_out_of_json_errors_of_either_kind() {
        let rbac = r#"{"kind":"puppetlabs.rbac/token-expired","msg":"The provided token has expired."}"#;
        assert_eq!(answer(Service::Ca, 401, None, rbac).words(), "The provided token has expired.");
        let pdb = "{\n  \"error\" : \"No information is known about node x\"\n}";
        assert_eq!(answer(Service::PuppetDb, 404, None, pdb).words(), "No information is known about node x");
    }

    #[test]
    fn words_are_one_short_line_without_the_token_and_without_html() {
        let long = answer(Service::Ca, 500, None, &"ä\n".repeat(5000)).words();
        assert!(long.chars().count() <= WORDS_LIMIT + 1 && !long.contains('\n'));
        assert_eq!(answer(Service::Ca, 500, None, "you sent 0token1").words(), "you sent [redacted]");
        assert_eq!(answer(Service::Ca, 502, None, "<html><h1>502</h1>").words(), "an HTML page");
        assert_eq!(answer(Service::Ca, 500, None, "").words(), "(no text)");
    }

    #[test]
    fn only_the_ca_itself_can_say_that_something_is_not_there() {
        let known = ["Resource not found."];
        assert!(answer(Service::Ca, 404, Some("8.6.0"), "見つかりません").is_from_ca(&known));
        assert!(answer(Service::Ca, 404, None, "Resource not found.").is_from_ca(&known));
        for (version, body) in [
            (None, "404 page not found"),
            (None, "Not Found"),
            (Some("8.6.0"), "Not Found"),
            (None, "<html>Resource not found.</html>"),
            (None, ""),
        ] {
            assert!(!answer(Service::Ca, 404, version, body).is_from_ca(&known), "{body}");
        }
    }

    #[test]
    fn an_unknown_route_or_a_balancers_404_is_not_understood() {
        for body in ["Not Found", "<html>404</html>"] {
            assert_eq!(error(404, body).name(), "Unexpected", "{body}");
        }
    }

    #[test]
    fn text_that_claims_to_be_json_is_not_understood_and_is_quoted() {
        let answer = answer(Service::Ca, 200, None, "Resource not found.");
        let error = answer.json::<serde_json::Value>().unwrap_err().to_string();
        assert!(error.contains("it is not JSON: Resource not found."), "{error}");
    }

    #[test]
    fn a_tls_error_is_found_inside_wrapped_io_errors() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert!(find::<rustls::Error>(&wrapped).is_some());
        let plain = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(find::<rustls::Error>(&plain).is_none());
    }
}
