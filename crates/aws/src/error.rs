//! One error for every AWS call, its variants named for what the caller can do next.

use std::error::Error as StdError;

use aws_sdk_autoscaling::config::http::HttpResponse;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use stagedoor_types::{Kind, TroubleKind};
use thiserror::Error;

/// Why an AWS call gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// Still throttled after every retry. Try again later.
    #[error("AWS throttles {call} for {subject}: {message}")]
    Throttled {
        /// The API action.
        call: &'static str,
        /// What it was about.
        subject: String,
        /// AWS's words.
        message: String,
    },
    /// AWS is unreachable, or failed internally. Says nothing about the subject of the call. Try again.
    #[error("AWS is unreachable or failed ({call} for {subject}): {message}")]
    Unreachable {
        /// The API action.
        call: &'static str,
        /// What it was about.
        subject: String,
        /// What went wrong.
        message: String,
    },
    /// The function's role lacks the permission, or its credentials are not accepted.
    #[error(
        "{call} for {subject} is not permitted ({code}): {message}; allow this action in the function's role, or, if the code speaks of the credentials, look at those"
    )]
    NotPermitted {
        /// The API action.
        call: &'static str,
        /// What it was about.
        subject: String,
        /// AWS's error code.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// What was asked for is not there.
    #[error("{call}: there is no {subject} ({code})")]
    NotFound {
        /// The API action.
        call: &'static str,
        /// What it was about.
        subject: String,
        /// AWS's error code.
        code: String,
    },
    /// AWS understood and refused. Asking again gives the same answer.
    #[error("{call} for {subject} was refused ({code}): {message}")]
    Refused {
        /// The API action.
        call: &'static str,
        /// What it was about.
        subject: String,
        /// AWS's error code.
        code: String,
        /// AWS's words.
        message: String,
    },
}

impl Kind for Error {
    fn kind(&self) -> TroubleKind {
        match self {
            Self::Throttled { .. } => TroubleKind::Busy,
            Self::Unreachable { .. } => TroubleKind::Unreachable,
            Self::NotPermitted { .. } => TroubleKind::NotPermitted,
            Self::NotFound { .. } | Self::Refused { .. } => TroubleKind::Refused,
        }
    }
}

/// The maximum length of an error's text, in characters.
const LONGEST_STORY: usize = 400;

/// The texts of an error and its causes. Never their `Debug` forms, which contain whole answers, one of them with a
/// secret.
fn story(error: &dyn StdError) -> String {
    let mut told = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push(error.to_string());
        cause = error.source();
    }
    told.join(": ").chars().take(LONGEST_STORY).collect()
}

/// Sorts an SDK error by what the caller can do next. Codes: the "Common Errors" page of each service's API reference.
pub fn classify<E>(call: &'static str, subject: &(impl ToString + ?Sized), error: &SdkError<E, HttpResponse>) -> Error
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let subject = subject.to_string();
    let SdkError::ServiceError(service) = error else {
        return Error::Unreachable { call, subject, message: story(error) };
    };
    let code = service.err().code().unwrap_or("no error code").to_owned();
    let message = service.err().message().unwrap_or("no message").to_owned();
    match code.as_str() {
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequestsException" => {
            Error::Throttled { call, subject, message }
        }
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthorizationError"
        | "UnauthorizedOperation"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "SignatureDoesNotMatch" => Error::NotPermitted { call, subject, code, message },
        "ResourceNotFoundException" | "NotFound" | "NotFoundException" => Error::NotFound { call, subject, code },
        _ if service.raw().status().is_server_error() => Error::Unreachable { call, subject, message },
        _ => Error::Refused { call, subject, code, message },
    }
}
