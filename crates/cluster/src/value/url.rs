//! Where notifications go.

use std::str::FromStr;

use super::{Address, Host, Unfit, shown};

const MAX_URL_BYTES: usize = 2048;

/// A mail server.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MailServer {
    /// TLS from the first byte (`smtps`); else STARTTLS where it is offered (`smtp`).
    pub tls: bool,
    /// Host and port.
    pub address: Address,
}

impl FromStr for MailServer {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = |why: &str| {
            let what = format!("{} is not a mail server: {why}", shown(text));
            Unfit::new(
                what,
                "write `smtp://HOST:PORT` or `smtps://HOST:PORT`; the user and `password_file` are keys of their own",
            )
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("smtp", rest)) => (false, rest),
            Some(("smtps", rest)) => (true, rest),
            _ => return Err(unfit("it begins with neither smtp:// nor smtps://")),
        };
        if rest.contains('@') {
            return Err(unfit("a user does not belong there"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let default_port = if tls { 465 } else { 25 };
        let address = match Host::parse(rest) {
            Some(host) => Address {
                host,
                port: default_port,
            },
            None => rest
                .parse()
                .map_err(|_| unfit("its host or port is wrong"))?,
        };
        Ok(Self { tls, address })
    }
}

/// Where a webhook is sent: an `https` or `http` URL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebhookUrl {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = |why: &str| {
            let what = format!("{} is not a URL to send to: {why}", shown(text));
            Unfit::new(what, "write `https://HOST/PATH`")
        };
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or_else(|| unfit("it begins with neither https:// nor http://"))?;
        if text.len() > MAX_URL_BYTES || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(unfit(
                "it is too long, or holds blanks or other characters that have to be escaped",
            ));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(unfit(
                "a user and a password do not belong there: others can read this file",
            ));
        }
        if Host::parse(authority).is_none() && authority.parse::<Address>().is_err() {
            return Err(unfit("its host or port is wrong"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{MailServer, WebhookUrl};

    #[test]
    fn mail_servers_have_a_scheme_and_a_port() {
        let server = |text: &str| text.parse::<MailServer>();
        let plain = server("smtp://mail.example.org:25").unwrap();
        assert_eq!((plain.tls, plain.address.port), (false, 25));
        assert_eq!(server("smtps://mail/").unwrap().address.port, 465);
        assert_eq!(
            server("smtp://[::1]").unwrap().address.to_string(),
            "[::1]:25"
        );
        for bad in [
            "",
            "mail:25",
            "http://mail",
            "smtp://",
            "smtp://a@mail",
            "smtp://mail:0",
            "smtp://mail:x",
            "SMTP://mail",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn webhooks_go_to_a_host() {
        for good in [
            "https://hooks.example.org/lockstep",
            "http://127.0.0.1:8080",
            "https://[::1]:1/a?b=c",
        ] {
            assert!(good.parse::<WebhookUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "ftp://x",
            "https://",
            "https:///x",
            "https://u:p@h/",
            "https://a b/",
            "https://h/\n",
            "https://h:0/",
        ] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad:?}");
        }
    }
}
