//! The names things go by, as types that can only hold a valid value. No I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct InvalidName {
    /// What was asked for, in the field's words ("certname").
    pub kind: &'static str,
    /// The text, shortened to 80 characters so that a hostile event cannot flood a log.
    pub text: String,
    /// What a valid one looks like.
    pub rule: &'static str,
}

/// Declares a validated string: its documentation, its kind, its rule and the predicate that checks it.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { kind: $kind, text: text.chars().take(80).collect(), rule: $rule })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// A Puppet node's identity: the certificate's CN, PuppetDB's key, the orchestrator's node name.
    ///
    /// Puppet Server refuses upper case, and its file names are made of it, so nothing else may pass.
    Certname,
    "certname",
    "1 to 253 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
    |text| (1..=253).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && !text.contains("..")
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
);

name!(
    /// An EC2 instance id: the one identity that is never reused.
    InstanceId,
    "instance id",
    "'i-' and 8 or 17 lower-case hexadecimal digits",
    |text| text.strip_prefix("i-").is_some_and(|hex| matches!(hex.len(), 8 | 17)
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
);

name!(
    /// The name of an Auto Scaling group.
    /// See [`AutoScalingGroupName`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CreateAutoScalingGroup.html).
    GroupName,
    "Auto Scaling group name",
    "1 to 255 printable characters without ':'",
    |text| (1..=255).contains(&text.chars().count())
        && !text.contains(':')
        && !text.chars().any(char::is_control)
);

name!(
    /// The name of a lifecycle hook.
    /// See [`LifecycleHookName`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutLifecycleHook.html).
    HookName,
    "lifecycle hook name",
    "1 to 255 characters of A-Z, a-z, 0-9, '-', '_' and '/'",
    |text| (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/'))
);

name!(
    /// The name of a profile: the value of a group's tag `stagedoor:profile`.
    ProfileName,
    "profile name",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certname_is_lower_case_and_cannot_leave_its_directory() {
        for good in ["a", "ip-10-0-3-7.ec2.internal", "i-0a1b.nodes_x.example.net", "0.example"] {
            assert!(good.parse::<Certname>().is_ok(), "{good}");
        }
        for bad in ["", "Upper.example", "*.example", "a/b", "../ca", "a..b", "-x", ".x", "ä", "a b", "a%2f"] {
            assert!(bad.parse::<Certname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instance_id_is_old_or_new_form_only() {
        assert!("i-0a1b2c3d".parse::<InstanceId>().is_ok());
        assert!("i-0a1b2c3d4e5f60718".parse::<InstanceId>().is_ok());
        for bad in ["i-", "i-0A1b2c3d", "0a1b2c3d", "i-0a1b2c3d4e5f6071", "i-0a1b2c3g", "*"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_invalid_name_says_what_a_valid_one_looks_like_and_is_cut_short() {
        let error = "X".repeat(10_000).parse::<Certname>().unwrap_err();
        assert!(error.to_string().contains("is not a valid certname"));
        assert!(error.to_string().len() < 250);
    }
}
