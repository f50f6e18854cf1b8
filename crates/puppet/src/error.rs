//! What can go wrong when a Puppet service is asked, named for the caller's next move. No I/O.

use std::fmt;

use stagedoor_types::{Certname, Kind, TroubleKind};

/// A Puppet service that this crate talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The certificate authority, port 8140 of the CA host.
    Ca,
    /// PuppetDB, port 8081.
    PuppetDb,
    /// Puppet Enterprise's orchestrator, port 8143 of the primary.
    Orchestrator,
    /// Puppet Enterprise's node classifier, port 4433 of the primary.
    Classifier,
    /// Puppet Enterprise's role-based access control, port 4433 of the primary.
    Rbac,
    /// The status API, which every Puppet service has on its own port.
    Status,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "Puppet CA",
            Self::PuppetDb => "PuppetDB",
            Self::Orchestrator => "Orchestrator",
            Self::Classifier => "Classifier",
            Self::Rbac => "RBAC",
            Self::Status => "Status API",
        })
    }
}

/// Which call an error or a log line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The service that was called.
    pub service: Service,
    /// Method and route, with the certname left out: `PUT certificate_status`.
    pub name: &'static str,
    /// What the call was about: a certname, an instance id, or a count of them.
    pub subject: Option<String>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.service, self.name)?;
        match &self.subject {
            Some(subject) => write!(f, " ({subject})"),
            None => Ok(()),
        }
    }
}

/// Why a call has no usable answer.
///
/// None of these ever means "not there": absence is an `Ok(None)` or an `AlreadyDone`, and is
/// only returned when the service itself reports it. Server texts are shortened, and the RBAC token
/// is removed from them should a server ever echo it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service is unreachable: no connection, no answer in time, or the connection was cut. Whether
    /// a write was carried out is unknown. Ask again.
    #[error("{call}: could not ask: {reason}")]
    Unreachable {
        /// The call.
        call: Call,
        /// What happened on the wire.
        reason: String,
    },

    /// One side refused the other's certificate. Read the secret again, once; it may be stale.
    #[error("{call}: TLS refused: {reason}")]
    TlsRefused {
        /// The call.
        call: Call,
        /// Who refused what.
        reason: String,
    },

    /// The service does not know the caller: the RBAC token is expired, revoked or wrong, or there is none. Read
    /// the secret again, once.
    #[error(
        "{call}: not authenticated: {words}. Put a valid RBAC token into the field rbac_token of the Puppet secret"
    )]
    Unauthorized {
        /// The call.
        call: Call,
        /// The server's words.
        words: String,
    },

    /// 403: the caller is known but may not do this. Permanent until an operator acts.
    #[error("{call}: 403, not permitted: {words}. {remedy}")]
    NotPermitted {
        /// The call.
        call: Call,
        /// The server's words.
        words: String,
        /// What to change on the server.
        remedy: String,
    },

    /// The service answers, but cannot do it now: 429 or 5xx, such as start-up or maintenance mode, or a 400 about another service
    /// that it could not reach. Ask again.
    #[error("{call}: {status}, cannot do it now: {words}")]
    Busy {
        /// The call.
        call: Call,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        words: String,
    },

    /// A file of the CA stayed locked by other writes for as long as the CA waits for it, mostly a minute. Nothing was changed. Ask
    /// again later: the next write would wait as long.
    #[error("{call}: cannot do it now, because other writes hold the lock: {words}")]
    Locked {
        /// The call.
        call: Call,
        /// The server's words.
        words: String,
    },

    /// Another 4xx: asking again will not help.
    #[error("{call}: {status}, refused: {words}{}", remedy.map(|r| format!(". {r}")).unwrap_or_default())]
    Refused {
        /// The call.
        call: Call,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        words: String,
        /// What to change, where that is known.
        remedy: Option<&'static str>,
    },

    /// The CA holds a certificate request under this name that cannot be read. It blocks every other request of
    /// that name until it is deleted.
    #[error("{call}: the certificate request cannot be read: {problem}")]
    UnreadableRequest {
        /// The call.
        call: Call,
        /// What is wrong with it.
        problem: String,
    },

    /// The call was not made: an earlier call of the same set failed in a way that this one would repeat (no connection, no permission,
    /// or the CA's lock is held). Ask again later.
    #[error("{call}: not tried, because {because}")]
    NotTried {
        /// The call that was not made.
        call: Call,
        /// What happened to the earlier call.
        because: String,
    },

    /// The answer was not understood: not what this service says, such as a balancer's page, or a
    /// certificate that cannot be read. Change nothing and notify an operator.
    #[error("{call}: the answer was not understood: {reason}")]
    Unexpected {
        /// The call.
        call: Call,
        /// What was seen in place of what was expected.
        reason: String,
    },
}

impl Kind for Error {
    fn kind(&self) -> TroubleKind {
        match self {
            Self::Unreachable { .. } => TroubleKind::Unreachable,
            Self::TlsRefused { .. } | Self::Unauthorized { .. } => TroubleKind::Unauthenticated,
            Self::NotPermitted { .. } => TroubleKind::NotPermitted,
            Self::Busy { .. } | Self::Locked { .. } => TroubleKind::Busy,
            Self::Refused { .. } | Self::UnreadableRequest { .. } => TroubleKind::Refused,
            Self::NotTried { .. } => TroubleKind::NotTried,
            Self::Unexpected { .. } => TroubleKind::Unexpected,
        }
    }
}

impl Error {
    /// The same about another certname.
    pub(crate) fn about(mut self, certname: &Certname) -> Self {
        let (Self::Unreachable { call, .. }
        | Self::TlsRefused { call, .. }
        | Self::Unauthorized { call, .. }
        | Self::NotPermitted { call, .. }
        | Self::Busy { call, .. }
        | Self::Locked { call, .. }
        | Self::Refused { call, .. }
        | Self::UnreadableRequest { call, .. }
        | Self::NotTried { call, .. }
        | Self::Unexpected { call, .. }) = &mut self;
        call.subject = Some(certname.to_string());
        self
    }

    /// The variant's name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "Unreachable",
            Self::TlsRefused { .. } => "TlsRefused",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::NotPermitted { .. } => "NotPermitted",
            Self::Busy { .. } => "Busy",
            Self::Locked { .. } => "Locked",
            Self::Refused { .. } => "Refused",
            Self::UnreadableRequest { .. } => "UnreadableRequest",
            Self::NotTried { .. } => "NotTried",
            Self::Unexpected { .. } => "Unexpected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call { service: Service::Ca, name: "PUT certificate_status", subject: Some("n.example.net".into()) }
    }

    #[test]
    fn an_error_names_service_call_subject_and_remedy() {
        let refused = Error::Refused { call: call(), status: 409, words: "no".into(), remedy: Some("Do this.") };
        assert_eq!(
            refused.to_string(),
            "Puppet CA: PUT certificate_status (n.example.net): 409, refused: no. Do this."
        );
    }

    #[test]
    fn each_error_is_of_the_kind_that_says_what_the_caller_does_next() {
        let reason = String::new;
        let table = [
            (Error::Unreachable { call: call(), reason: reason() }, TroubleKind::Unreachable),
            (Error::Busy { call: call(), status: 500, words: reason() }, TroubleKind::Busy),
            (Error::Locked { call: call(), words: reason() }, TroubleKind::Busy),
            (Error::TlsRefused { call: call(), reason: reason() }, TroubleKind::Unauthenticated),
            (Error::Unauthorized { call: call(), words: reason() }, TroubleKind::Unauthenticated),
            (Error::NotPermitted { call: call(), words: reason(), remedy: reason() }, TroubleKind::NotPermitted),
            (Error::Refused { call: call(), status: 400, words: reason(), remedy: None }, TroubleKind::Refused),
            (Error::UnreadableRequest { call: call(), problem: reason() }, TroubleKind::Refused),
            (Error::Unexpected { call: call(), reason: reason() }, TroubleKind::Unexpected),
            (Error::NotTried { call: call(), because: reason() }, TroubleKind::NotTried),
        ];
        for (error, kind) in table {
            assert_eq!(error.kind(), kind, "{}", error.name());
        }
    }
}
