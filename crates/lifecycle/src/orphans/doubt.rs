//! Why a suspect is not removed as an orphan. Pure.

use jiff::Timestamp;
use stagedoor_types::{InstanceId, Location, Trouble};
use thiserror::Error;

use super::cloud::{Abroad, Disbelief, Life};

/// Why a suspect is no orphan, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is left alone.
    Spared(Spared),
    /// Too little could be found out.
    Unclear(Unclear),
}

/// Why a suspect is left alone. Its text is for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Spared {
    /// Puppet holds nothing that a removal could begin with.
    #[error("neither a certificate nor an active node is there any more")]
    NothingThere,
    /// The certificate has no `pp_instance_id`.
    #[error("its certificate names no instance")]
    NoInstance,
    /// No profile requires what it has, or could have made its name.
    #[error("it has not every extension and the name that a profile asks for")]
    OfNoProfile,
    /// This pattern protects the name.
    #[error("it is protected by {0}")]
    Protected(String),
    /// The name is this instance's now.
    #[error("it belongs to {0}")]
    Another(String),
    /// The certificate, the facts and the name do not agree.
    #[error("nothing says for certain whose it is")]
    OwnerUnknown,
    /// An instance that the evidence names is there, or may come back.
    #[error("{instance} is {life}")]
    Alive {
        /// The instance.
        instance: InstanceId,
        /// How it is known to live.
        life: Life,
    },
    /// The instance said that it was in another account or Region.
    #[error("its facts say that it was in {0}")]
    Abroad(Abroad),
    /// The instance is terminated, and its name was heard of too lately, or never.
    #[error(
        "EC2 says that {instance} is terminated, and its name was last heard of {}; another instance may use its certificate, so it \
         is left alone until {until}",
        heard.map_or_else(|| "never".to_owned(), |heard| format!("at {heard}"))
    )]
    HeardOfSinceTermination {
        /// The instance.
        instance: InstanceId,
        /// When the name was last heard of.
        heard: Option<Timestamp>,
        /// Until when it is left alone, if it is not heard of again.
        until: Timestamp,
    },
    /// EC2 does not know the instance, and its facts do not say that it was here.
    #[error(
        "EC2 does not know {instance}, and no fact ec2_metadata says that it was in account {} and Region {}; it may be of another \
         account or Region",
        home.account, home.region
    )]
    NotKnownToBeHere {
        /// The instance.
        instance: InstanceId,
        /// The account and Region of the fleet.
        home: Location,
    },
    /// EC2 does not know this instance, and no time says that it has been silent.
    #[error("EC2 does not know {0}, and nothing says when it was last heard of")]
    NeverHeardOf(InstanceId),
    /// EC2 does not know the instance, and it was heard of too lately.
    #[error("EC2 does not know {instance}, but it was heard of at {heard}")]
    HeardOf {
        /// The instance.
        instance: InstanceId,
        /// When it was last heard of.
        heard: Timestamp,
    },
    /// There is nothing to remove.
    #[error("nothing is left of it")]
    NothingLeft,
}

/// Why it cannot be determined whether a suspect is an orphan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Unclear {
    /// A service is unavailable.
    #[error(transparent)]
    Unavailable(Trouble),
    /// EC2's answer is not believed.
    #[error(transparent)]
    Disbelieved(Disbelief),
}

impl From<Spared> for Doubt {
    fn from(why: Spared) -> Self {
        Self::Spared(why)
    }
}

impl From<Disbelief> for Doubt {
    fn from(why: Disbelief) -> Self {
        Self::Unclear(Unclear::Disbelieved(why))
    }
}

impl From<Trouble> for Doubt {
    fn from(why: Trouble) -> Self {
        Self::Unclear(Unclear::Unavailable(why))
    }
}

impl From<&Trouble> for Doubt {
    fn from(why: &Trouble) -> Self {
        why.clone().into()
    }
}
