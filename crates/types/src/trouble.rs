//! What could not be found out or done, and why. No I/O.

use crate::broken::{Rule, is_broken};

/// The answer to a lookup, in which "absent" and "unavailable" can never be mixed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there, like this.
    Found(T),
    /// The service that knows says that it is not there.
    Absent,
    /// The service is unavailable, or its answer was not understood.
    Unavailable(Trouble),
}

impl<T> Lookup<T> {
    /// What was found, or `None` if it is absent; the trouble if that is not known.
    pub fn known(&self) -> Result<Option<&T>, &Trouble> {
        match self {
            Self::Found(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Unavailable(_) if is_broken(Rule::Unavailable) => Ok(None),
            Self::Unavailable(trouble) => Err(trouble),
        }
    }
}

/// Why something could not be found out or done: which service, and of what kind the failure was, which decides what happens
/// next. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// Of what kind it is.
    pub kind: TroubleKind,
    /// The service that was called.
    pub service: Service,
    /// What happened and what to do, for a person. Never holds a secret.
    pub text: String,
}

/// The kinds of trouble, by what a caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleKind {
    /// No answer before the deadline of the call.
    Timeout,
    /// No connection, or none that lasted until the answer.
    Unreachable,
    /// The service answered that it cannot serve now: it starts, is overloaded, or throttles.
    Busy,
    /// The service does not accept the credentials, which may have been rotated: read them again.
    Unauthenticated,
    /// The service does not permit the call: an operator has to change something.
    NotPermitted,
    /// The service refuses what was asked for, and will refuse it again.
    Refused,
    /// An answer that was not understood.
    Unexpected,
    /// The call was not made, because an earlier one showed that it would only wait in vain.
    NotTried,
    /// The configuration or the secret cannot be used: an operator has to change something.
    Unusable,
}

impl TroubleKind {
    /// Whether the same call may succeed later without any change by an operator.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable | Self::Busy | Self::NotTried)
    }
}

/// What kind of trouble an error of a client is.
pub trait Kind {
    /// The kind, by what a caller does next.
    fn kind(&self) -> TroubleKind;
}

impl Kind for Trouble {
    fn kind(&self) -> TroubleKind {
        self.kind
    }
}

impl Trouble {
    /// What an error of a client is to a decision.
    pub fn of(service: Service, error: &(impl Kind + std::fmt::Display)) -> Self {
        Self { kind: error.kind(), service, text: error.to_string() }
    }
}

/// The services that the controller calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// EC2 Auto Scaling.
    AutoScaling,
    /// EC2.
    Ec2,
    /// Secrets Manager.
    SecretsManager,
    /// SNS.
    Sns,
    /// The Puppet CA.
    Ca,
    /// PuppetDB.
    PuppetDb,
    /// Puppet Enterprise's orchestrator.
    Orchestrator,
    /// Puppet Enterprise's node classifier.
    Classifier,
    /// Puppet Enterprise's RBAC service.
    Rbac,
    /// A service on the instance itself.
    Node,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AutoScaling => "Auto Scaling",
            Self::Ec2 => "EC2",
            Self::SecretsManager => "Secrets Manager",
            Self::Sns => "SNS",
            Self::Ca => "the Puppet CA",
            Self::PuppetDb => "PuppetDB",
            Self::Orchestrator => "the orchestrator",
            Self::Classifier => "the classifier",
            Self::Rbac => "the RBAC service",
            Self::Node => "the instance",
        })
    }
}
