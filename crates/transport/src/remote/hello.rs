//! The lines of the handshake, as values. Pure: no pipes, no clock.

use std::net::IpAddr;
use std::time::Duration;

use super::{MAX_PAYLOAD, Policy};
use crate::error::quoted;
use crate::quic::{MAX_CONNECTIONS, MtuChoice, PublicKey, QuicOptions, TOKEN_LEN};

/// Version of the handshake, and of everything below the payload.
pub(super) const HANDSHAKE: u32 = 1;

const FAR_MARK: &str = "LOCKSTEP-REMOTE ";
const NEAR_MARK: &str = "LOCKSTEP-NEAR ";
const REPLY_MARK: &str = "LOCKSTEP-FAR ";

/// Longest program version, in characters.
const MAX_VERSION: usize = 64;
/// Bytes before the payload in the near side's hello.
const FIXED_LEN: usize = 32 + TOKEN_LEN + 1 + 1 + 2 + 8 + 4 + 4;

/// Longest line of the near side, in bytes.
pub(super) const MAX_NEAR_LINE: usize = 2 * (FIXED_LEN + MAX_PAYLOAD) + 256;
/// Longest reply of the far side, in bytes.
pub(super) const MAX_REPLY_LINE: usize = 4096;

/// The far side's first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) handshake: u32,
    pub(super) version: String,
}

impl Greeting {
    pub(super) fn line(version: &str) -> String {
        format!("{FAR_MARK}{HANDSHAKE} {}\n", one_word(version))
    }

    /// The greeting in `heard`, whatever stands before it, and the offset just past its line.
    pub(super) fn find(heard: &[u8]) -> Option<(Self, usize)> {
        let mark = FAR_MARK.as_bytes();
        let mut at = 0;
        while let Some(found) = heard[at..]
            .windows(mark.len())
            .position(|window| window == mark)
        {
            let start = at + found + mark.len();
            let len = heard[start..].iter().position(|byte| *byte == b'\n')?;
            if let Some(greeting) = Self::parse(&heard[start..start + len]) {
                return Some((greeting, start + len + 1));
            }
            at = start;
        }
        None
    }

    fn parse(rest_of_line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(rest_of_line).ok()?.trim_end();
        let (handshake, version) = text.split_once(' ')?;
        Some(Self {
            handshake: handshake.parse().ok()?,
            version: one_word(version),
        })
    }
}

/// What the near side tells the far side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NearHello {
    pub(super) version: String,
    pub(super) key: PublicKey,
    pub(super) token: [u8; TOKEN_LEN],
    pub(super) policy: Policy,
    pub(super) options: QuicOptions,
    pub(super) payload: Vec<u8>,
}

/// Why a line of the handshake makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HelloError {
    #[error("expected a handshake line, got `{0}`")]
    NotAHello(String),
    #[error("handshake {0}, this program speaks {HANDSHAKE}")]
    Handshake(u32),
    #[error("the hello's {0} is missing or out of range")]
    Field(&'static str),
}

impl NearHello {
    pub(super) fn line(&self) -> String {
        let mut fixed = Vec::with_capacity(FIXED_LEN + self.payload.len());
        fixed.extend_from_slice(&self.key.0);
        fixed.extend_from_slice(&self.token);
        fixed.push(match self.policy {
            Policy::Auto => 0,
            Policy::Quic => 1,
            Policy::Ssh => 2,
        });
        fixed.push(u8::try_from(self.options.connections).unwrap_or(u8::MAX));
        let mtu = match self.options.mtu {
            MtuChoice::FromInterface => 0,
            MtuChoice::Fixed(payload) => payload,
        };
        fixed.extend_from_slice(&mtu.to_le_bytes());
        fixed.extend_from_slice(&self.options.window_bytes.to_le_bytes());
        fixed.extend_from_slice(&millis(self.options.idle_timeout).to_le_bytes());
        fixed.extend_from_slice(&millis(self.options.keep_alive).to_le_bytes());
        fixed.extend_from_slice(&self.payload);
        format!(
            "{NEAR_MARK}{HANDSHAKE} {} {}\n",
            one_word(&self.version),
            to_hex(&fixed)
        )
    }

    pub(super) fn parse(line: &str) -> Result<Self, HelloError> {
        let not_a_hello = || HelloError::NotAHello(quoted(line.trim_end()));
        let rest = line
            .trim_end()
            .strip_prefix(NEAR_MARK)
            .ok_or_else(not_a_hello)?;
        let (handshake, rest) = rest.split_once(' ').ok_or_else(not_a_hello)?;
        match handshake.parse().map_err(|_| not_a_hello())? {
            HANDSHAKE => {}
            other => return Err(HelloError::Handshake(other)),
        }
        let (version, hex) = rest.split_once(' ').ok_or_else(not_a_hello)?;
        let fields = from_hex(hex).ok_or(HelloError::Field("hex text"))?;
        Self::from_fields(version, &fields)
    }

    fn from_fields(version: &str, fields: &[u8]) -> Result<Self, HelloError> {
        let mut rest = fields;
        let key = PublicKey(take(&mut rest, "key")?);
        let token = take(&mut rest, "token")?;
        let policy = match take(&mut rest, "policy")? {
            [0] => Policy::Auto,
            [1] => Policy::Quic,
            [2] => Policy::Ssh,
            [_] => return Err(HelloError::Field("policy")),
        };
        let connections = match take(&mut rest, "number of connections")? {
            [count] if (1..=MAX_CONNECTIONS).contains(&usize::from(count)) => usize::from(count),
            [_] => return Err(HelloError::Field("number of connections")),
        };
        let mtu = match u16::from_le_bytes(take(&mut rest, "MTU")?) {
            0 => MtuChoice::FromInterface,
            payload => MtuChoice::Fixed(payload),
        };
        let options = QuicOptions {
            connections,
            mtu,
            window_bytes: u64::from_le_bytes(take(&mut rest, "window")?),
            idle_timeout: duration(take(&mut rest, "idle timeout")?),
            keep_alive: duration(take(&mut rest, "keep-alive")?),
            // What this side sends is little.
            rate: None,
        };
        if rest.len() > MAX_PAYLOAD {
            return Err(HelloError::Field("payload"));
        }
        Ok(Self {
            version: one_word(version),
            key,
            token,
            policy,
            options: options.clamped(),
            payload: rest.to_vec(),
        })
    }
}

/// What the far side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Dial me over UDP.
    Listening(FarAddress),
    /// As asked: the pipes.
    Pipe,
    /// UDP cannot be had on this side, for this reason.
    NoUdp(String),
}

/// Where the far side listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FarAddress {
    pub(super) key: PublicKey,
    pub(super) ports: Vec<u16>,
    /// The address at which the shell's connection came in, if the shell says so.
    pub(super) address: Option<IpAddr>,
    /// The kernel's boot id, to see whether both sides are one machine; may be empty.
    pub(super) boot_id: String,
}

impl Reply {
    pub(super) fn line(&self) -> String {
        match self {
            Self::Pipe => format!("{REPLY_MARK}pipe\n"),
            Self::NoUdp(reason) => format!("{REPLY_MARK}no-udp {}\n", quoted(reason)),
            Self::Listening(far) => {
                let ports: Vec<String> = far.ports.iter().map(u16::to_string).collect();
                let address = far
                    .address
                    .map(|address| address.to_string())
                    .unwrap_or_default();
                let (key, ports, boot_id) =
                    (to_hex(&far.key.0), ports.join(","), one_word(&far.boot_id));
                format!("{REPLY_MARK}key={key} ports={ports} address={address} boot={boot_id}\n")
            }
        }
    }

    pub(super) fn parse(line: &str) -> Result<Self, HelloError> {
        let not_a_hello = || HelloError::NotAHello(quoted(line.trim_end()));
        let rest = line
            .trim_end()
            .strip_prefix(REPLY_MARK)
            .ok_or_else(not_a_hello)?;
        if rest == "pipe" {
            return Ok(Self::Pipe);
        }
        if let Some(reason) = rest.strip_prefix("no-udp ") {
            return Ok(Self::NoUdp(quoted(reason)));
        }
        let field = |name: &'static str| {
            let mut words = rest.split(' ');
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.ok_or(HelloError::Field(name))
        };
        let key = from_hex(field("key")?).and_then(|key| key.try_into().ok());
        Ok(Self::Listening(FarAddress {
            key: PublicKey(key.ok_or(HelloError::Field("key"))?),
            ports: parse_ports(field("ports")?)?,
            address: field("address")?.parse().ok(),
            boot_id: one_word(field("boot")?),
        }))
    }
}

fn parse_ports(list: &str) -> Result<Vec<u16>, HelloError> {
    let ports: Option<Vec<u16>> = list
        .split(',')
        .take(MAX_CONNECTIONS + 2)
        .map(|port| port.parse().ok().filter(|port| *port != 0))
        .collect();
    ports
        .filter(|ports| ports.len() <= MAX_CONNECTIONS + 1)
        .ok_or(HelloError::Field("ports"))
}

/// How the frames will travel: the near side's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Quic,
    Pipe,
}

impl Decision {
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::Quic => "QUIC\n",
            Self::Pipe => "PIPE\n",
        }
    }

    pub(super) fn parse(line: &str) -> Result<Self, HelloError> {
        match line.trim_end() {
            "QUIC" => Ok(Self::Quic),
            "PIPE" => Ok(Self::Pipe),
            other => Err(HelloError::NotAHello(quoted(other))),
        }
    }
}

/// A version or an id as one printable word.
fn one_word(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_graphic)
        .take(MAX_VERSION)
        .collect()
}

fn take<const LEN: usize>(rest: &mut &[u8], field: &'static str) -> Result<[u8; LEN], HelloError> {
    let (taken, left) = rest.split_first_chunk().ok_or(HelloError::Field(field))?;
    *rest = left;
    Ok(*taken)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn duration(millis: [u8; 4]) -> Duration {
    Duration::from_millis(u64::from(u32::from_le_bytes(millis)))
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?))
        .collect()
}

#[cfg(test)]
mod tests;
