//! Where a node is reached: a host and a UDP port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Unfit, shown};

/// Longest name of a host, in bytes (RFC 1035, without the last dot).
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host and a UDP port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// A host, by number or by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name for the resolver, in lower case.
    Name(String),
}

impl Address {
    /// Whether it stands for every address of a machine: good to listen on, not to be reached at.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        matches!(self.host, Host::Ip(ip) if ip.is_unspecified())
    }
}

impl FromStr for Address {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = |why: &str| {
            Unfit::new(
                format!("{} is not an address: {why}", shown(text)),
                "write HOST:PORT, such as `10.0.0.11:7801`, `db1.example.org:7801` or `[fd00::11]:7801`",
            )
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| unfit("it has no port"))?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0);
        let port = port.ok_or_else(|| unfit("its port is not a number from 1 to 65535"))?;
        let host =
            Host::parse(host).ok_or_else(|| unfit("its host is neither a number nor a name"))?;
        Ok(Self { host, port })
    }
}

impl Host {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']')?;
            return inner.parse::<Ipv6Addr>().ok().map(|ip| Self::Ip(ip.into()));
        }
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Self::Ip(ip.into()));
        }
        is_host_name(text).then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A name of digits and dots alone is a mistyped number.
    let has_letter = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    has_letter && text.len() <= MAX_HOST_BYTES && text.split('.').all(is_label)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl TryFrom<String> for Address {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses_are_read_and_shown() {
        for good in [
            "10.0.0.11:7801",
            "db1.example.org:1",
            "[fd00::11]:65535",
            "db_1:80",
            "127.0.0.1:7801",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        let twice = ["DB1:80", "db1:80"].map(|text| text.parse::<Address>().unwrap());
        assert_eq!(twice[0], twice[1], "names of hosts have no case");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "db1",
            "db1:",
            ":7801",
            "db1:0",
            "db1:65536",
            "db1:+1",
            "fd00::1:7801",
            "[fd00::1]",
            "10.0.0.256:1",
            "10.0.1:1",
            "-db1:1",
            "a..b:1",
            "a b:1",
            "[10.0.0.1]:1",
            "user@db1:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_unspecified());
        assert!(!"10.0.0.1:1".parse::<Address>().unwrap().is_unspecified());
    }
}
