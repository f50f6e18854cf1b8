//! The address of a Puppet service. No I/O.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use serde::Deserialize;
use stagedoor_types::Certname;

/// The base address of a Puppet service, such as `https://puppet.example.com:8140`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint(Url);

/// A text that is not the address of a Puppet service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a Puppet service: {0}; expected something like https://puppet.example.com:8140")]
pub struct InvalidEndpoint(pub(crate) &'static str);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(text).map_err(|_| InvalidEndpoint("it is not a URL"))?;
        if url.scheme() != "https" {
            return Err(InvalidEndpoint("it does not begin with https://"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidEndpoint("it names no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint("it holds a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint("it has a query or fragment"));
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;

    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl Endpoint {
    /// The host, which may be protected from purging by this very name.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// A port of a node, called by its certname.
    pub(crate) fn of_node(certname: &Certname, port: u16) -> Result<Self, InvalidEndpoint> {
        let endpoint: Self = format!("https://{certname}:{port}").parse()?;
        // `10.0.0.1` and `12345` are certnames, and IP addresses to a URL.
        match endpoint.0.domain() {
            Some(domain) if domain == certname.as_str() => Ok(endpoint),
            _ => Err(InvalidEndpoint("the certname cannot be a host name")),
        }
    }

    /// The address of a resource; segments and query are percent-encoded here.
    pub(crate) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_https_address_without_secrets_in_it() {
        for good in [
            "https://puppet.example.com:8140",
            "https://127.0.0.1:8081/",
            "https://[2001:db8::1]:8140",
            "https://h/prefix",
        ] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "puppet.example.com:8140",
            "http://puppet.example.com:8140",
            "https://u:p@puppet.example.com",
            "https://puppet.example.com/?token=x",
            "https://puppet.example.com/#x",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certname_that_would_be_an_ip_address_is_no_host() {
        let of = |name: &str| Endpoint::of_node(&name.parse().unwrap(), 8140);
        assert_eq!(of("i-0abc.example.net").unwrap().to_string(), "https://i-0abc.example.net:8140");
        assert_eq!(of("a_b").unwrap().host(), "a_b");
        for name in ["10.0.0.1", "12345", "0x7f.1"] {
            assert!(of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn path_segments_and_query_are_percent_encoded() {
        let endpoint: Endpoint = "https://puppet.example.com:8140/".parse().unwrap();
        let url = endpoint.url(&["puppet-ca", "v1", "certificate", "a/../b c"], &[("certname", "a&b=c")]);
        assert_eq!(
            url.as_str(),
            "https://puppet.example.com:8140/puppet-ca/v1/certificate/a%2F..%2Fb%20c?certname=a%26b%3Dc"
        );
    }

    #[test]
    fn an_ipv6_address_is_a_host_in_brackets() {
        let endpoint: Endpoint = "https://[2001:db8::1]:8140".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.to_string().as_str()), ("[2001:db8::1]", "https://[2001:db8::1]:8140"));
        assert_eq!(endpoint.url(&["status"], &[]).as_str(), "https://[2001:db8::1]:8140/status");
        assert!("https://2001:db8::1:8140".parse::<Endpoint>().is_err());
    }

    #[test]
    fn a_path_prefix_is_kept() {
        let endpoint: Endpoint = "https://proxy.example.com/puppet".parse().unwrap();
        assert_eq!(endpoint.url(&["status"], &[]).path(), "/puppet/status");
    }
}
