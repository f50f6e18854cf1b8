//! What a launching node needs before it may serve, as the configuration writes it. Pure.

use thiserror::Error;

/// What a launching node needs before it may serve: a Puppet run, services that answer, and Puppet code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// `report`: its newest Puppet run was successful.
    Report,
    /// `report:any`: its newest Puppet run had a catalog that was compiled for it, however the run ended; for nodes whose first run can
    /// only succeed once they are in service.
    AnyReport,
    /// `status:8140`: the Status API on this port says `running`, under the node's own certificate.
    Status(u16),
    /// `status:8140/broker-service`: the Status API on this port says that this service is `running`, under the node's own certificate.
    Service(u16, ServiceName),
    /// `tcp:8142`: the port takes connections.
    Tcp(u16),
    /// `file-sync`: the node has deployed the newest commit of the Puppet code, as the primary's file sync storage service says.
    FileSync,
}

/// The name of a service in the Status API, such as `server` or `broker-service`: letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName(String);

impl ServiceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        // `.` and `..` would be another path.
        let is_name = text.bytes().any(|byte| byte.is_ascii_alphanumeric()) && text.bytes().all(allowed);
        is_name.then(|| Self(text.to_owned()))
    }
}

/// A text that is no probe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no probe; there are \"report\", \"report:any\", \"status:PORT\", \"status:PORT/SERVICE\", \"tcp:PORT\" and \"file-sync\""
)]
pub struct InvalidProbe(String);

impl std::str::FromStr for Probe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let port = |port: &str| port.parse().ok().filter(|port| *port != 0);
        match text.split_once(':') {
            None if text == "report" => Some(Self::Report),
            None if text == "file-sync" => Some(Self::FileSync),
            Some(("report", "any")) => Some(Self::AnyReport),
            Some(("status", rest)) => match rest.split_once('/') {
                None => port(rest).map(Self::Status),
                Some((number, service)) => {
                    port(number).zip(ServiceName::parse(service)).map(|(port, service)| Self::Service(port, service))
                }
            },
            Some(("tcp", number)) => port(number).map(Self::Tcp),
            _ => None,
        }
        .ok_or_else(|| InvalidProbe(text.to_owned()))
    }
}

impl Probe {
    /// Whether it is about a Puppet run, and not about a service.
    #[must_use]
    pub fn is_report(&self) -> bool {
        matches!(self, Self::Report | Self::AnyReport)
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::AnyReport => f.write_str("report:any"),
            Self::Status(port) => write!(f, "status:{port}"),
            Self::Service(port, service) => write!(f, "status:{port}/{}", service.as_str()),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::FileSync => f.write_str("file-sync"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_written_as_it_is_read() {
        for text in [
            "report",
            "report:any",
            "status:8140",
            "status:8140/server",
            "status:8140/broker-service",
            "tcp:8142",
            "file-sync",
        ] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "reports",
            "report:",
            "report:all",
            "status",
            "status:0",
            "status:0/server",
            "status:8140/",
            "status:8140/..",
            "status:8140/a/b",
            "status:8140/a?b",
            "tcp:70000",
            "tcp:8142/server",
            "file-sync:8140",
            "udp:53",
        ] {
            assert_eq!(text.parse::<Probe>(), Err(InvalidProbe(text.to_owned())));
        }
    }
}
