//! What a launching node needs before it may serve, as the configuration writes it. Pure.

use thiserror::Error;

/// What must answer before a node may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// `report`: its newest Puppet run was successful.
    Report,
    /// `report:any`: its newest Puppet run had a catalog that was compiled for it, however the run ended; for nodes whose first run can
    /// only succeed once they are in service.
    AnyReport,
    /// `status:8140`: the Status API on this port says `running`, under the node's own certificate.
    Status(u16),
    /// `tcp:8142`: the port takes connections.
    Tcp(u16),
}

/// A text that is no probe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no probe; there are \"report\", \"report:any\", \"status:PORT\" and \"tcp:PORT\"")]
pub struct InvalidProbe(String);

impl std::str::FromStr for Probe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let port = |port: &str| port.parse().ok().filter(|port| *port != 0);
        match text.split_once(':') {
            None if text == "report" => Some(Self::Report),
            Some(("report", "any")) => Some(Self::AnyReport),
            Some(("status", number)) => port(number).map(Self::Status),
            Some(("tcp", number)) => port(number).map(Self::Tcp),
            _ => None,
        }
        .ok_or_else(|| InvalidProbe(text.to_owned()))
    }
}

impl Probe {
    /// Whether it is about a Puppet run, and not about a service on the node.
    #[must_use]
    pub fn is_report(self) -> bool {
        matches!(self, Self::Report | Self::AnyReport)
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::AnyReport => f.write_str("report:any"),
            Self::Status(port) => write!(f, "status:{port}"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_written_as_it_is_read() {
        for text in ["report", "report:any", "status:8140", "tcp:8142"] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        for text in ["", "reports", "report:", "report:all", "status", "status:0", "tcp:70000", "udp:53"] {
            assert_eq!(text.parse::<Probe>(), Err(InvalidProbe(text.to_owned())));
        }
    }
}
