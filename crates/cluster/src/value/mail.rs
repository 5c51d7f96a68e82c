//! Addresses of mail.

use std::str::FromStr;

use super::{Unfit, shown};

/// Longest address, in bytes (RFC 5321).
const MAX_BYTES: usize = 254;

/// An address of mail, `LOCAL@DOMAIN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mailbox(String);

impl Mailbox {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Mailbox {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let plain =
            |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | ',' | ';' | '"' | '(' | ')');
        let parts = text.split_once('@');
        let fits = parts.is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@')
        });
        if fits && text.len() <= MAX_BYTES && text.chars().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        let what = format!("{} is not an address of mail", shown(text));
        Err(Unfit::new(
            what,
            "write NAME@DOMAIN alone, such as `sre@example.org`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Mailbox;

    #[test]
    fn one_address_and_nothing_more() {
        assert!("sre+db@example.org".parse::<Mailbox>().is_ok());
        for bad in [
            "",
            "sre",
            "@x",
            "a@",
            "a@b@c",
            "A <a@b>",
            "a@b, c@d",
            "a b@c",
            "a@b\r\nBcc: c@d",
        ] {
            assert!(bad.parse::<Mailbox>().is_err(), "{bad:?}");
        }
    }
}
