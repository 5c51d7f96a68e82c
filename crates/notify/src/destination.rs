//! Where reports go.

use std::fmt;

use lockstep_cluster::file::{Ending, Notify};
use lockstep_cluster::value::{Mailbox, WebhookUrl};
use serde::{Deserialize, Serialize};

const MAIL: &str = "mailto:";

/// One receiver: each has deliveries, refusals and pauses of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// A mailbox.
    Mail(Mailbox),
    /// A URL.
    Webhook(WebhookUrl),
}

/// Every destination that a configuration names.
#[must_use]
pub fn all_destinations(notify: &Notify) -> Vec<Destination> {
    wanting(notify, |_| true)
}

/// Those that are told of this ending.
pub(crate) fn destinations(notify: &Notify, verdict: Ending) -> Vec<Destination> {
    wanting(notify, |on| on.contains(&verdict))
}

fn wanting(notify: &Notify, wants: impl Fn(&[Ending]) -> bool) -> Vec<Destination> {
    let mail = notify.mail.iter().filter(|mail| wants(&mail.on));
    let mailboxes = mail.flat_map(|mail| mail.to.iter().cloned().map(Destination::Mail));
    let webhooks = notify.webhooks.iter().filter(|webhook| wants(&webhook.on));
    let urls = webhooks.map(|webhook| Destination::Webhook(webhook.url.clone()));
    let mut all = Vec::new();
    for destination in mailboxes.chain(urls) {
        // Named twice, told once.
        if !all.contains(&destination) {
            all.push(destination);
        }
    }
    all
}

/// As logs show it: a webhook's path can be a secret.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(mailbox) => write!(f, "{MAIL}{}", mailbox.as_str()),
            Self::Webhook(url) => {
                let url = url.as_str();
                let host = url.find("://").map_or(0, |at| at + 3);
                let end = url[host..].find(['/', '?', '#']).map(|at| host + at);
                match end.filter(|end| end + 1 < url.len()) {
                    Some(end) => write!(f, "{}/...", &url[..end]),
                    None => f.write_str(url),
                }
            }
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix(MAIL) {
            Some(mailbox) => mailbox.parse().map(Self::Mail),
            None => text.parse().map(Self::Webhook),
        }
        .map_err(|unfit| unfit.to_string())
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Mail(mailbox) => format!("{MAIL}{}", mailbox.as_str()),
            Destination::Webhook(url) => url.as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Destination, all_destinations, destinations};
    use lockstep_cluster::file::{Ending, Notify, Webhook};

    fn webhook(url: &str, on: &[Ending]) -> Webhook {
        Webhook {
            url: url.parse().unwrap(),
            secret_file: None,
            on: on.to_vec(),
        }
    }

    #[test]
    fn only_who_asked_is_told_and_only_once() {
        let notify = Notify {
            mail: None,
            webhooks: vec![
                webhook("http://a/", &[Ending::Ok, Ending::Failed]),
                webhook("http://a/", &[Ending::Failed]),
                webhook("http://b/", &[Ending::Fenced]),
            ],
        };
        let count = |verdict| destinations(&notify, verdict).len();
        assert_eq!(
            [Ending::Ok, Ending::Failed, Ending::Partial].map(count),
            [1, 1, 0]
        );
        assert_eq!(all_destinations(&notify).len(), 2);
    }

    #[test]
    fn a_urls_path_is_not_shown() {
        let shown = |url: &str| Destination::Webhook(url.parse().unwrap()).to_string();
        assert_eq!(shown("https://h:1/T0/secret"), "https://h:1/...");
        assert_eq!(shown("https://h?token=secret"), "https://h/...");
        assert_eq!(shown("https://h/"), "https://h/");
    }

    #[test]
    fn destinations_are_kept_as_text() {
        for text in ["mailto:a@b", "https://h/x?y"] {
            let destination = Destination::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(destination), text);
        }
        assert!(Destination::try_from("mailto:a@b\nc".to_owned()).is_err());
    }
}
