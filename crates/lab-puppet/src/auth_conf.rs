//! `auth.conf`: the shipped rules and the rules that an operator adds for a controller. No I/O.
//! (<https://www.puppet.com/docs/puppet/8/server/config_file_auth.html>)

use http::Method;
use jiff::Timestamp;

use crate::enterprise::token::{Token, look_up};
use crate::options::PuppetOptions;
use crate::x509::certificate::ClientName;

const CLI_AUTH: Allow = Allow::Extension("pp_cli_auth", "true");
const ACCEPT_REJECT: &str = "cert_requests:accept_reject:*";

/// Who is allowed by a rule.
enum Allow {
    /// Anyone, without a certificate too.
    Everyone,
    /// Anyone with a certificate of this CA.
    AnyCertificate,
    /// A certificate with this extension.
    Extension(&'static str, &'static str),
    /// A certificate of this name.
    Certname(String),
    /// An RBAC token whose roles have this permission.
    Permission(&'static str),
}

/// The paths that a rule is for.
enum Path {
    Prefix(&'static str),
    Exactly(&'static str),
}

struct Rule {
    path: Path,
    methods: Vec<Method>,
    allow: Vec<Allow>,
}

/// The refusal of a request, as the body of a 403.
pub(crate) type Refusal = String;

/// Decides as `auth.conf` does: the first rule that matches path and method.
pub(crate) fn authorize(
    method: &Method,
    path: &str,
    client: Option<&ClientName>,
    token: Option<&str>,
    options: &PuppetOptions,
    now: Timestamp,
) -> Result<(), Refusal> {
    let token = look_up(token, options, now);
    let matching = rules(options).into_iter().find(|rule| {
        let in_path = match rule.path {
            Path::Prefix(prefix) => path.starts_with(prefix),
            Path::Exactly(exact) => path == exact,
        };
        in_path && rule.methods.contains(method)
    });
    // Without a match the last shipped rule, which denies everything, decides.
    let allowed = matching.is_some_and(|rule| rule.allow.iter().any(|entry| entry.admits(client, &token)));
    if allowed {
        return Ok(());
    }
    let method = method.as_str().to_lowercase();
    let rbac = match token {
        Token::Rejected { message, .. } => format!("RBAC Message: {message} "),
        Token::Absent | Token::Accepted(_) => String::new(),
    };
    Err(format!("Forbidden request: {path} (method :{method}). {rbac}Please see the server logs for details."))
}

impl Allow {
    fn admits(&self, client: Option<&ClientName>, token: &Token<'_>) -> bool {
        match (self, client) {
            (Self::Everyone, _) | (Self::AnyCertificate, Some(_)) => true,
            (Self::Permission(needed), _) => {
                matches!(token, Token::Accepted(held) if held.iter().any(|one| one == needed))
            }
            (_, None) => false,
            (Self::Extension(name, value), Some(client)) => client.has(name, value),
            (Self::Certname(allowed), Some(client)) => {
                std::iter::once(&client.common_name).chain(&client.dns).any(|name| labels_agree(allowed, name))
            }
        }
    }
}

/// Dotted names are compared from the right, as far as both have labels: an entry admits the names
/// below it as well.
fn labels_agree(allowed: &str, name: &str) -> bool {
    allowed.rsplit('.').zip(name.rsplit('.')).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

fn rules(options: &PuppetOptions) -> Vec<Rule> {
    let administrators = || {
        let mut allow = vec![CLI_AUTH];
        if options.controller_by_certname {
            allow.push(Allow::Certname(options.controller.clone()));
        }
        if options.rbac_tokens.is_some() {
            allow.push(Allow::Permission(ACCEPT_REJECT));
        }
        allow
    };
    let rule = |path, methods: &[Method], allow| Rule { path, methods: methods.to_vec(), allow };
    let mut rules = Vec::new();
    if options.allow_request_deletion {
        let path = Path::Prefix("/puppet-ca/v1/certificate_request/");
        rules.push(rule(path, &[Method::DELETE], administrators()));
    }
    rules.extend([
        rule(Path::Prefix("/puppet-ca/v1/certificate/"), &[Method::GET], vec![Allow::Everyone]),
        rule(Path::Prefix("/puppet-ca/v1/certificate_revocation_list/ca"), &[Method::GET], vec![Allow::Everyone]),
        rule(Path::Prefix("/puppet-ca/v1/certificate_request"), &[Method::GET, Method::PUT], vec![Allow::Everyone]),
        rule(Path::Prefix("/puppet-ca/v1/certificate_renewal"), &[Method::POST], vec![Allow::AnyCertificate]),
        // A prefix: it decides for certificate_statuses too.
        rule(
            Path::Prefix("/puppet-ca/v1/certificate_status"),
            &[Method::GET, Method::PUT, Method::DELETE],
            administrators(),
        ),
        rule(Path::Exactly("/puppet-ca/v1/certificate_revocation_list"), &[Method::PUT], vec![CLI_AUTH]),
        rule(Path::Prefix("/puppet-ca/v1/expirations"), &[Method::GET], vec![Allow::AnyCertificate]),
        rule(Path::Prefix("/puppet-ca/v1/clean"), &[Method::PUT], administrators()),
    ]);
    if options.server_version.has_bulk_signing() {
        rules.push(rule(Path::Prefix("/puppet-ca/v1/sign"), &[Method::POST], administrators()));
    }
    rules.extend(
        ["/status/v1/services", "/status/v1/simple"]
            .map(|path| rule(Path::Prefix(path), &[Method::GET], vec![Allow::Everyone])),
    );
    rules
}

#[cfg(test)]
mod tests {
    use super::labels_agree;

    #[test]
    fn an_allowed_name_admits_the_names_below_it() {
        assert!(labels_agree("lc.example.net", "lc.example.net"));
        assert!(labels_agree("lc.example.net", "a.lc.example.net"));
        assert!(!labels_agree("lc.example.net", "other.example.net"));
    }
}
